from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from quick_training import QUICK

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.data.hybrid_scores import hybrid_scores
from llama_index_ace_finetune.training.data.teacher_scores import teacher_scores
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner

CORPUS = ("error E42 in the pump", "the pump is loud", "a quiet valve")


def examples(own: list[int] | None = None) -> IndexedExamples:
    return IndexedExamples(
        query_ids=("q",),
        queries=("what is E42",),
        corpus_ids=tuple("abc"),
        corpus=CORPUS,
        relevant=(np.array([2]),),
        negatives=(np.empty(0, np.int64),),
        own=None if own is None else np.array(own),
    )


def test_scores_are_the_weighted_sum_of_both_normalised_scores() -> None:
    queries = np.array([[1, 0]], np.float32)
    documents = np.array([[0.8, 0.6], [1, 0], [0, 1]], np.float32)
    (found,) = hybrid_scores(examples(), queries, documents)
    # Cosines .8, 1 and 0 from the floor -1, over the highest: .9, 1 and .5. Only the first document has a word.
    bm25 = BM25Index.build(CORPUS).score("what is E42", [0, 1, 2], shifted=False)
    lexical = bm25 / bm25.max()
    assert lexical[0] == 1
    expected = {row: 0.85 * cosine + 0.15 * lexical[row] for row, cosine in enumerate([0.9, 1.0, 0.5])}
    assert found == pytest.approx(expected, abs=1e-5)
    assert max(found, key=lambda row: found[row]) == 0  # the base ranks it second


def test_the_labels_of_a_query_do_not_matter_and_its_own_document_is_no_candidate() -> None:
    queries, documents = np.array([[1, 0]], np.float32), np.eye(3, 2, dtype=np.float32)
    other = dataclasses.replace(examples(), relevant=(np.array([0]),))
    assert hybrid_scores(other, queries, documents) == hybrid_scores(examples(), queries, documents)
    assert set(hybrid_scores(examples(own=[1]), queries, documents)[0]) == {0, 2}


@pytest.mark.slow
def test_training_with_the_hybrid_as_teacher(training_data: TrainingData, one_layer: str, tmp_path: Path) -> None:
    data = dataclasses.replace(training_data, examples=training_data.examples[:16])

    def losses(teacher: str | None) -> list[float]:
        config = TrainingConfig(output_dir=f"{tmp_path}/{teacher}", base_model=one_layer, teacher=teacher, **QUICK)
        tuner = EmbeddingFineTuner(config)
        tuner.load_training_data(data)
        tuner.initialize_model()
        assert tuner.train()["total_steps"] == 2
        return [row["loss"] for row in tuner.history if "loss" in row]

    taught, plain = losses("hybrid"), losses(None)
    assert np.isfinite(taught).all()
    assert taught[0] > plain[0]  # the same batch, and the distillation loss besides


def test_a_missing_teacher_is_one_sentence_before_anything_is_trained(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    config = TrainingConfig(output_dir=f"{tmp_path}/m", base_model=one_layer, teacher="./no-teacher", mode="linear")
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(training_data)
    with pytest.raises(ModelError, match="no-teacher"):
        tuner.initialize_model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores[:-1], "gives 15 scores for 16 pairs"),
        (lambda scores: np.where(np.arange(16) == 3, np.nan, scores), "1 of 16 pairs no finite score"),
        (lambda scores: np.where(np.arange(16) > 9, np.inf, scores), "6 of 16 pairs no finite score"),
    ],
)
def test_a_teacher_without_a_score_for_a_pair_is_one_sentence(
    training_data: TrainingData, change: object, message: str
) -> None:
    class Faulty:
        def score(
            self, queries: object, documents: object, pairs: tuple[np.ndarray, np.ndarray], *, cache: object
        ) -> np.ndarray:
            return change(np.linspace(0, 1, len(pairs[0]), dtype=np.float32))  # type: ignore[operator,no-any-return]

    found = index_examples(training_data, training_data.examples[:4])
    with pytest.raises(ModelError, match=f"The teacher 'faulty' .*{message}") as error:
        teacher_scores(Faulty(), found, name="faulty", cache=None)
    assert str(error.value).endswith("use another model.")
