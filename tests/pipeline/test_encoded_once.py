"""The tokens of a memory are encoded once per model in a run: its index takes what the evaluation made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.types import Memory, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings
from llama_index_ace_finetune.run_folder import token_folder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.utils.text_key import text_key

LATE = Serving(fusion=FusionSettings(kind="convex", weights={"dense": 0.5, "late": 0.5}))


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """How often the tokens of each document were encoded, by (fingerprint of the model, text)."""
    counts: Counter[tuple[str, str]] = Counter()
    encode = Encoder.encode_tokens

    def counted(self: Encoder, texts: Sequence[str], *, role: Role) -> TokenStates:
        if role == "document":
            counts.update((self.fingerprint, text) for text in texts)
        return encode(self, texts, role=role)

    monkeypatch.setattr(Encoder, "encode_tokens", counted)
    return counts


def test_index_takes_the_token_vectors_of_the_evaluation(
    minilm: Encoder, small_dataset: RetrievalDataset, encoded: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    data, kept = EvaluationSet.of(small_dataset, list(small_dataset.queries)[:2]), {}
    vectors = {"base": EncodedSet.of(data, minilm)}
    made = ServableSystems.of(data, {"base": minilm}, vectors, kept_tokens=kept)
    assert encoded == {(minilm.fingerprint, text): 1 for text in data.corpus}
    reranker = made.legs["base"].reranker
    assert kept == {minilm.fingerprint: reranker}
    query = reranker.encoder.encode_queries(data.queries)[0]
    expected = reranker.score(query, [text_key(text) for text in data.corpus])

    new = Memory("new", "Sharpen the pencils.")
    memories = [new, *list(small_dataset.memories.values())[1:]]
    index = tmp_path / "index"
    write_index(memories, tuned=minilm, base=minilm, path=index, serving=LATE, tokens=reranker)
    assert encoded == {(minilm.fingerprint, text): 1 for text in (*data.corpus, new.text)}
    opened = TokenReranker.open(token_folder(index), minilm)
    assert set(opened.store.tokens.ids) == {text_key(memory.text) for memory in memories}
    scores = dict(zip(data.corpus, expected, strict=True))
    found = opened.score(query, [text_key(memory.text) for memory in memories[1:]])
    assert found.tolist() == [scores[memory.text] for memory in memories[1:]]


@pytest.mark.slow
def test_run_encodes_the_tokens_of_each_memory_once(
    suite: Path, encoded: Counter[tuple[str, str]], tmp_path: Path
) -> None:
    made = ace.run(data=suite, out=tmp_path / "run", training=ace.TrainingConfig(mode="linear", device="cpu"))
    assert "late" in made.report["serving"]["fusion"]["weights"]
    assert token_folder(made.folder.index).is_dir()
    models = {model for model, _ in encoded}
    corpus = {memory.text for memory in read_dataset(suite).answers.values()}
    assert encoded == {(model, text): 1 for model in models for text in corpus}
