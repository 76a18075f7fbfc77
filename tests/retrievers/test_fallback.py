"""Fallback of runs from the tuned model to the baseline to BM25: each is logged, counted and in the results."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS, corrupt_weights, write_tuned_model
from llama_index.core.schema import NodeWithScore

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.retrieved_memory import RetrievedMemory
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.atomic import write_json

QUERY = QUERIES["migrations"]


@contextmanager
def opened(run: Path, **options) -> Iterator[FineTunedHybridRetriever]:
    retriever = FineTunedHybridRetriever.from_run(run, **options)
    try:
        yield retriever
    finally:
        retriever.close()


def served_by(hits: list[NodeWithScore]) -> set[str]:
    assert hits
    return {hit.served_by for hit in hits if isinstance(hit, RetrievedMemory)}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name.startswith("llama_index_ace_finetune")
    ]


def delete(run: Path) -> None:
    shutil.rmtree(run / "model")


def corrupt(run: Path) -> None:
    corrupt_weights(run / "model")


def corrupt_record(run: Path) -> None:
    (run / "model" / "ace_finetune.json").write_text("{")


def retrain(run: Path) -> None:
    write_tuned_model(run / "model", seed=3)


def lose_baseline(run: Path) -> None:
    """Set the base model to a folder that does not exist."""
    record = run / "model" / "ace_finetune.json"
    record.unlink()
    write_json(run / "manifest.json", {"base_model": str(run / "no-such-base")})


class TestWholeRun:
    def test_tuned_model_serves_with_the_weights_chosen_on_dev(self, run: Path, caplog) -> None:
        with opened(run, similarity_top_k=3) as retriever:
            assert retriever.settings.weights == (0.75, 0.25)
            hits = retriever.retrieve(QUERY)
            assert hits[0].node.node_id == "migrations"
            assert served_by(hits) == {"finetuned"}
            assert retriever.served == {"finetuned": 1}
        assert warnings(caplog) == []

    def test_options_override_the_report(self, run: Path) -> None:
        (run / "report.json").unlink()
        with opened(run) as retriever:
            assert retriever.settings.weights == (1, 1)
        with opened(run, weights=(0.2, 0.8), mode="dense", threshold=0.1) as retriever:
            assert retriever.settings.weights == (0.2, 0.8)
            assert (retriever.settings.mode, retriever.settings.threshold) == ("dense", 0.1)

    def test_no_run(self, tmp_path: Path) -> None:
        with pytest.raises(AceFinetuneError, match="no finished run"):
            FineTunedHybridRetriever.from_run(tmp_path)

    def test_run_opened_twice_in_one_process(self, run: Path) -> None:
        with opened(run) as first:
            with opened(run) as second:
                found = [hit.node.node_id for hit in second.retrieve(QUERIES["cache"])]
            assert [hit.node.node_id for hit in first.retrieve(QUERIES["cache"])] == found
            assert found[0] == "cache"

    def test_run_without_its_index(self, run: Path) -> None:
        shutil.rmtree(run / "index")
        with pytest.raises(StoreError, match="no index"):
            FineTunedHybridRetriever.from_run(run)


class TestTunedModelFails:
    @pytest.mark.parametrize("damage", [delete, corrupt, corrupt_record, retrain])
    async def test_the_baseline_serves(self, run: Path, baseline, damage: Callable[[Path], None], caplog) -> None:
        damage(run)
        with opened(run, mode="dense", similarity_top_k=3) as retriever:
            (warning,) = warnings(caplog)
            assert str(run / "model") in warning
            hits = retriever.retrieve(QUERY)
            assert served_by(hits) == served_by(await retriever.aretrieve(QUERY)) == {"baseline"}
            assert retriever.served == {"baseline": 2}
        # The scores are those of the baseline's own vectors.
        vector = baseline.get_query_embedding(QUERY)
        with MemoryStore.open(path=run / "index") as store:
            expected = store.search("baseline", vector, 3)
        assert [(hit.node.node_id, hit.score) for hit in hits] == [
            (node_id, pytest.approx(score, abs=1e-5)) for node_id, score in expected
        ]

    @pytest.mark.parametrize("damage", [delete, corrupt, corrupt_record])
    def test_without_a_fallback_it_is_an_error(self, run: Path, damage: Callable[[Path], None]) -> None:
        damage(run)
        with pytest.raises(ModelError):
            FineTunedHybridRetriever.from_run(run, fallback="off")
        MemoryStore.open(path=run / "index").close()  # nothing is left open

    def test_other_model_without_a_fallback_is_an_error(self, run: Path) -> None:
        retrain(run)
        with pytest.raises(StoreError, match=r"not the one that made the finetuned vectors"):
            FineTunedHybridRetriever.from_run(run, fallback="off")
        MemoryStore.open(path=run / "index").close()


class TestBothFail:
    @pytest.mark.parametrize("damage", [delete, corrupt])
    async def test_only_bm25_serves(self, run: Path, damage: Callable[[Path], None], caplog) -> None:
        lose_baseline(run)
        damage(run)
        with opened(run) as retriever:
            assert len(warnings(caplog)) == 2
            hits = retriever.retrieve(QUERY)
            assert hits[0].node.node_id == "migrations"
            assert hits[0].score == 1  # first in the only leg that was searched
            assert served_by(hits) == served_by(await retriever.aretrieve(QUERY)) == {"lexical"}
            assert retriever.served == {"lexical": 2}

    def test_dense_search_is_an_error_and_not_an_empty_list(self, run: Path) -> None:
        lose_baseline(run)
        delete(run)
        with opened(run, mode="dense") as retriever, pytest.raises(ModelError, match="Neither the tuned model nor"):
            retriever.retrieve(QUERY)


class TestQueryFails:
    """A model that exists at construction, and whose weights are deleted before the first query."""

    @pytest.fixture
    def gone(self, run: Path) -> FineTunedEmbedding:
        embedding = FineTunedEmbedding(str(run / "model"))
        shutil.rmtree(run / "model")
        return embedding

    async def test_the_baseline_serves(self, run: Path, gone: FineTunedEmbedding, baseline, caplog) -> None:
        with MemoryStore.open(path=run / "index") as store:
            retriever = FineTunedHybridRetriever(store, embed_model=gone, baseline_model=baseline)
            assert warnings(caplog) == []
            hits = await retriever.aretrieve(QUERY)
            assert served_by(hits) == {"baseline"}
            assert retriever.served == {"baseline": 1}
            (warning,) = warnings(caplog)
            assert "finetuned leg failed" in warning
            assert "does not exist" in warning

    def test_tuned_model_serves_again_after_it_is_restored(
        self, run: Path, gone: FineTunedEmbedding, baseline, finished_run: Path
    ) -> None:
        with MemoryStore.open(path=run / "index") as store:
            retriever = FineTunedHybridRetriever(store, embed_model=gone, baseline_model=baseline)
            retriever.retrieve(QUERY)
            shutil.copytree(finished_run / "model", run / "model")
            assert served_by(retriever.retrieve(QUERY)) == {"finetuned"}
            assert retriever.served == {"baseline": 1, "finetuned": 1}

    def test_replaced_model_does_not_serve(self, run: Path, gone: FineTunedEmbedding, baseline, caplog) -> None:
        retrain(run)
        with MemoryStore.open(path=run / "index") as store:
            retriever = FineTunedHybridRetriever(store, embed_model=gone, baseline_model=baseline)
            assert served_by(retriever.retrieve(QUERY)) == {"baseline"}
        assert "not the one that was used before" in warnings(caplog)[0]

    async def test_without_a_fallback_it_is_an_error(self, run: Path, gone: FineTunedEmbedding) -> None:
        with MemoryStore.open(path=run / "index") as store:
            retriever = FineTunedHybridRetriever(store, embed_model=gone, fallback="off")
            with pytest.raises(ModelError, match="does not exist"):
                retriever.retrieve(QUERY)
            with pytest.raises(ModelError, match="does not exist"):
                await retriever.aretrieve(QUERY)
            assert retriever.served == {}

    async def test_store_failure_is_an_error_with_or_without_a_fallback(self, run: Path, tuned, baseline) -> None:
        for fallback in ("baseline", "off"):
            store = MemoryStore.open(path=run / "index")
            retriever = FineTunedHybridRetriever(store, embed_model=tuned, baseline_model=baseline, fallback=fallback)
            retriever.close()
            with pytest.raises(StoreError, match="cannot be used"):
                retriever.retrieve(QUERY)
            with pytest.raises(StoreError, match="cannot be used"):
                await retriever.aretrieve(QUERY)


class TestSwappedModels:
    def test_model_does_not_search_vectors_of_another_model(self, store, tuned, baseline, caplog) -> None:
        retriever = FineTunedHybridRetriever(store, embed_model=baseline, baseline_model=tuned)
        assert len(warnings(caplog)) == 2
        assert served_by(retriever.retrieve(QUERY)) == {"lexical"}

    def test_both_named_vectors_hold_every_memory(self, store, tuned, baseline) -> None:
        for name, model in (("finetuned", tuned), ("baseline", baseline)):
            hits = store.search(name, model.get_query_embedding(TEXTS["flags"]), len(TEXTS))
            assert hits[0] == ("flags", pytest.approx(1, abs=1e-5))
            assert {node_id for node_id, _ in hits} == set(TEXTS)
        assert store.named_vectors["baseline"].model == BASE
