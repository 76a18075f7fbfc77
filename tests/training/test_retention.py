"""The retention set: how much a tuned model may lose on general queries."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import DatasetError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import (
    choose_alpha,
    copy_weights,
    load_interpolated,
    select_weights,
)
from llama_index_ace_finetune.training.model_selection.retention import Retention, read_retention
from llama_index_ace_finetune.training.modes.linear import interpolate_identity, train_linear
from llama_index_ace_finetune.training.modes.linear_adapter import fit_query_adapter
from llama_index_ace_finetune.training.modes.queries import train_queries


@pytest.fixture
def general(tmp_path: Path) -> Path:
    """Four questions of general knowledge and one without a relevant document, in BEIR's layout."""
    folder = tmp_path / "general"
    (folder / "qrels").mkdir(parents=True)
    facts = ["Paris is the capital of France.", "Water boils at 100 degrees.", "Whales are mammals.", "Oslo is cold."]
    asked = ["capital of France", "when does water boil", "are whales fish", "weather in Oslo", "who won"]
    rows = {
        "corpus": [{"_id": f"d{n}", "text": text} for n, text in enumerate(facts)],
        "queries": [{"_id": f"q{n}", "text": text} for n, text in enumerate(asked)],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    judged = "\n".join(f"q{n}\td{n}\t1" for n in range(4))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}\n", encoding="utf-8")
    return folder


# ------------------------------------------------------------------------------------------------ choosing alpha


def scores(*mrr: float) -> DevScores:
    return DevScores(mrr=np.array(mrr))


BASE = scores(*[0.1] * 12)
GROUPS = [str(n) for n in range(12)]


def choose(ranked: list[float], losses: dict[float, float], *, bound: float = 0.01, gain: float = 0.5) -> Any:
    checked: list[float] = []

    def lost(alpha: float) -> float:
        checked.append(alpha)
        return losses[alpha]

    found = choose_alpha(
        ranked,
        base_scores=BASE,
        groups=GROUPS,
        on_dev=lambda alpha: scores(*[0.1 + gain * alpha] * 12),
        lost=lost,
        bound=bound,
    )
    assert list(found[2]) == checked
    return found


def test_best_alpha_on_dev_ships_within_the_bound() -> None:
    alpha, difference, losses = choose([1.0, 0.5], {1.0: 0.01, 0.5: 0.0})
    assert (alpha, losses) == (1.0, {1.0: 0.01})
    assert difference.mean == pytest.approx(0.5)


def test_smaller_alpha_is_tried_above_the_bound() -> None:
    alpha, difference, losses = choose([1.0, 0.5, 0.25], {1.0: 0.3, 0.5: 0.02, 0.25: -0.1})
    assert (alpha, losses) == (0.25, {1.0: 0.3, 0.5: 0.02, 0.25: -0.1})
    assert difference.mean == pytest.approx(0.125)


def test_larger_alpha_than_a_rejected_one_is_not_tried() -> None:
    alpha, _, losses = choose([0.5, 1.0, 0.25], {0.5: 0.02, 0.25: 0.0})
    assert (alpha, losses) == (0.25, {0.5: 0.02, 0.25: 0.0})


def test_base_ships_if_every_alpha_is_above_the_bound_and_the_best_gain_is_reported() -> None:
    alpha, difference, losses = choose([1.0, 0.5], {1.0: 0.3, 0.5: 0.02})
    assert (alpha, losses) == (0.0, {1.0: 0.3, 0.5: 0.02})
    assert difference.mean == pytest.approx(0.5)


def test_general_queries_are_not_evaluated_without_a_gain_on_dev() -> None:
    alpha, difference, losses = choose([1.0, 0.5], {}, gain=-0.05)
    assert (alpha, losses) == (0.0, {})
    assert difference.mean == pytest.approx(-0.05)


# ------------------------------------------------------------------------------------------------ reading


def test_queries_without_relevant_documents_are_left_out(general: Path) -> None:
    examples = read_retention(general).examples
    assert examples.query_ids == ("q0", "q1", "q2", "q3")
    assert [examples.corpus_ids[int(rows[0])] for rows in examples.relevant] == ["d0", "d1", "d2", "d3"]


def test_missing_set_is_refused_before_training(training_data: TrainingData, tmp_path: Path) -> None:
    tuner = EmbeddingFineTuner(TrainingConfig(retention=str(tmp_path / "none.json")))
    with pytest.raises(DatasetError, match=r"none\.json") as refusal:
        tuner.load_training_data(training_data)
    assert "\n" not in str(refusal.value)


def test_without_dev_queries_retention_is_refused(
    training_data: TrainingData, general: Path, one_layer: str, tmp_path: Path
) -> None:
    config = TrainingConfig(output_dir=str(tmp_path / "m"), base_model=one_layer, retention=str(general), **QUICK)
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(dataclasses.replace(training_data, examples=training_data.examples[:8]))
    tuner.initialize_model()
    with pytest.raises(
        TrainingError, match="no dev queries, on which a model that keeps the retention set is selected"
    ):
        tuner.train()


# ------------------------------------------------------------------------------------------------ weights


def test_weights_are_interpolated_until_within_the_bound(minilm: Encoder, training_data: TrainingData) -> None:
    encoder = Encoder(copy.deepcopy(minilm.model), name="copy", fingerprint="copy", settings=minilm.settings)
    tuned = copy_weights(encoder)
    generator = torch.Generator().manual_seed(0)
    base = {
        name: weight + 0.1 * torch.randn(weight.shape, generator=generator) if weight.is_floating_point() else weight
        for name, weight in tuned.items()
    }
    dev = DevSet(index_examples(training_data, training_data.examples[::5]))
    load_interpolated(encoder, base=base, tuned=base, alpha=0)
    base_scores = dev.score(encoder)
    dev_mrr: dict[float, float] = {}
    for alpha in (0.9, 1.0):
        load_interpolated(encoder, base=base, tuned=tuned, alpha=alpha)
        dev_mrr[alpha] = float(dev.score(encoder).mrr.mean())

    def select(base_mrr: float, bound: float) -> Any:
        retention = Retention(dev, base_mrr, bound)
        return select_weights(
            encoder, base=base, tuned=tuned, base_scores=base_scores, dev=dev, alphas=(0.9, 1.0), retention=retention
        )

    best = max(dev_mrr, key=lambda alpha: (dev_mrr[alpha], -alpha))
    kept = select(dev_mrr[best], 0.01)
    assert kept.alpha == best
    assert kept.retention.losses == {best: pytest.approx(0)}
    assert "on 12 general queries falls by more than 0.01" in kept.to_dict()["rule"]
    rejected = select(dev_mrr[best] + 1, 0.01)
    assert not rejected.ships_tuned
    assert rejected.retention.losses[best] == pytest.approx(1)
    assert all(torch.equal(weight, base[name]) for name, weight in encoder.model.state_dict().items())
    record = json.loads(json.dumps(rejected.to_dict()))["retention"]
    assert (record["queries"], record["memories"], record["bound"]) == (12, 12, 0.01)
    assert record["losses_mrr@10"][str(best)] == pytest.approx(1)


def test_linear_adapter_is_interpolated_within_the_bound(minilm: Encoder) -> None:
    # 64 topics in 16 dimensions; a query is the vector of its document under a rotation, plus noise.
    rng = np.random.default_rng(0)

    def unit(vectors: np.ndarray) -> np.ndarray:
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

    topics = unit(rng.standard_normal((64, 16)))
    rotation = np.linalg.qr(np.eye(16) + 0.35 * rng.standard_normal((16, 16)))[0].astype(np.float32)
    answers = np.repeat(np.arange(64), 8)
    queries = unit(topics[answers] @ rotation.T + 0.1 * rng.standard_normal((512, 16)))
    relevant = [np.array([row]) for row in answers]
    train, held = np.arange(512)[answers < 48], np.arange(512)[answers >= 48]

    @dataclasses.dataclass(frozen=True)
    class Vectors(TrainingContext):
        """A context with given vectors."""

        query_vectors = queries[train]
        document_vectors = topics
        dev_query_vectors = queries[held]
        # General queries equal their documents under the base.
        general_query_vectors = topics
        general_document_vectors = topics

    memories = tuple(map(str, range(64)))

    def indexed(rows: np.ndarray) -> IndexedExamples:
        names = tuple(map(str, rows))
        positives = tuple(np.array([answers[row]]) for row in rows)
        return IndexedExamples(names, names, memories, memories, positives, tuple(np.empty(0, np.int64) for _ in rows))

    one_each = tuple(np.array([row]) for row in range(64))
    general_examples = IndexedExamples(
        memories, memories, memories, memories, one_each, tuple(np.empty((64, 0), np.int64))
    )

    def trained(**options: Any) -> Any:
        config = TrainingConfig(**options)
        general = DevSet(general_examples) if config.retention else None
        context = Vectors(minilm, indexed(train), DevSet(indexed(held)), config, general=general)
        return train_linear(context)

    free = trained()
    assert free.selection.alpha == 1.0
    assert free.selection.retention is None
    fit = fit_query_adapter(
        queries[train], topics, [relevant[row] for row in train],
        dev_queries=queries[held], dev_relevant=[relevant[row] for row in held],
    )  # fmt: skip
    assert (free.query_adapter == fit.matrix).all()
    losses = {}
    for bound in (1.0, 0.2, 0.0):
        result = trained(retention="general", retention_loss=bound)
        record = result.selection.retention
        losses.update(record.losses)
        shipped = result.selection.alpha
        assert shipped == 0 or record.losses[shipped] <= bound
        assert all(loss > bound for alpha, loss in record.losses.items() if alpha != shipped)
        if shipped:
            assert result.query_adapter == pytest.approx(interpolate_identity(fit.matrix, shipped))
        else:
            assert result.query_adapter is None
    assert losses[1.0] > losses[0.5] > 0


def test_query_encoder_is_evaluated_over_the_documents_of_the_base(
    training_data: TrainingData, general: Path, one_layer: str
) -> None:
    encoder = Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))
    data = index_examples(training_data, training_data.examples_of("train"))
    dev = DevSet(index_examples(training_data, training_data.examples_of("dev")))
    config = TrainingConfig(retention=str(general), retention_loss=1.0, interpolation=(1.0,), epochs=1)
    context = TrainingContext(encoder, data, dev, config, general=read_retention(general))
    result = train_queries(context, minutes=None)
    assert result.selection is not None
    assert result.selection.retention is not None
    assert result.selection.retention.base_mrr == context.retention.base_mrr  # type: ignore[union-attr]
    assert set(result.selection.retention.losses) == ({1.0} if result.ships else set())


# ------------------------------------------------------------------------------------------------ a whole training


def test_retention_is_in_metrics_record_and_card(
    training_data: TrainingData, general: Path, one_layer: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    config = TrainingConfig(
        output_dir=str(folder), base_model=one_layer, retention=str(general), retention_loss=0.0, **QUICK
    )
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(training_data)
    tuner.initialize_model()
    metrics = tuner.train()
    record = json.loads((folder / "ace_finetune.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert metrics["rungs"][0]["retention"]["queries"] == 4
    assert record["selection"]["retention"] == metrics["rungs"][0]["retention"]
    assert record["config"]["retention"] == "general"
    assert str(tmp_path) not in json.dumps(record)
    assert "4 general queries over 4 memories; the base reaches MRR@10" in card
    assert "general queries falls by more than 0 " in record["selection"]["rule"]
    for text in ("Whales are mammals", "are whales fish"):
        assert text not in card
