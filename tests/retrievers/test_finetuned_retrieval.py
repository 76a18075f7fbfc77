"""FineTunedRetrieval: the original's call and result keys over the index beside the model."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, TEXTS, small_memories

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, StoreError
from llama_index_ace_finetune.finetuned_retrieval import FineTunedRetrieval, create_finetuned_retrieval, main
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.run_folder import RunFolder, index_beside
from llama_index_ace_finetune.utils.atomic import write_json

QUERY = QUERIES["retries"]
ORIGINAL_KEYS = {"id", "content", "score", "category", "severity", "feedback_type", "helpful", "harmful"}


@pytest.fixture(scope="module")
def retrieval(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FineTunedRetrieval]:
    run = shutil.copytree(finished_run, tmp_path_factory.mktemp("retrieval") / "run")
    with FineTunedRetrieval(run / "model") as retrieval:
        yield retrieval


class TestResults:
    def test_keys_and_values(self, retrieval: FineTunedRetrieval) -> None:
        results = retrieval.search(QUERY, limit=3, threshold=0.0)
        assert len(results) == 3
        best = results[0]
        assert set(best) >= ORIGINAL_KEYS | {"served_by", "dense_score", "dense_rank", "sparse_score", "rrf_score"}
        assert best["id"] == 1004  # the id of the source, with its type
        assert best["content"] == TEXTS["retries"]
        assert (best["category"], best["severity"], best["helpful"], best["harmful"]) == ("OPERATIONS", 3, 4, 1)
        assert best["feedback_type"] == ""
        assert best["served_by"] == "finetuned"

    def test_score_of_a_dense_search_is_the_cosine(self, retrieval: FineTunedRetrieval, tuned) -> None:
        vector = np.array(tuned.get_query_embedding(QUERY))
        for result in retrieval.search(QUERY, threshold=-1):
            expected = float(vector @ np.array(tuned.get_text_embedding(result["content"])))
            assert result["score"] == result["dense_score"] == pytest.approx(expected, abs=1e-5)

    def test_payload_keys_do_not_override_result_keys(self, finished_run: Path, tmp_path: Path) -> None:
        model = shutil.copytree(finished_run / "model", tmp_path / "model")
        hostile = {
            "id": "forged", "content": "forged", "score": 9.0, "served_by": "forged", "dense_score": 9.0,
            "dense_rank": 0, "retrieval": {"served_by": "forged"}, "note": "kept",
        }  # fmt: skip
        memories = [Memory("real", TEXTS["retries"], hostile)]
        write_index(memories, tuned=Encoder.load(model), base=Encoder.load(BASE), path=index_beside(model))
        with FineTunedRetrieval(model) as retrieval:
            (result,) = retrieval.search(TEXTS["retries"])
        assert (result["id"], result["content"], result["served_by"]) == ("real", TEXTS["retries"], "finetuned")
        assert result["score"] == result["dense_score"] == pytest.approx(1, abs=1e-5)
        assert (result["dense_rank"], result["note"]) == (1, "kept")

    def test_the_query_vector(self, retrieval: FineTunedRetrieval, tuned) -> None:
        assert retrieval.get_embedding(QUERY) == tuned.get_query_embedding(QUERY)


class TestSearch:
    def test_limit_and_threshold(self, retrieval: FineTunedRetrieval) -> None:
        everything = retrieval.search(QUERY, limit=100, threshold=-1)
        assert len(everything) == len(TEXTS)
        # Between two scores, since the last bits of a vector may differ between calls.
        floor = (everything[4]["score"] + everything[5]["score"]) / 2
        ids = [result["id"] for result in everything]
        assert [result["id"] for result in retrieval.search(QUERY, limit=100, threshold=floor)] == ids[:5]
        assert [result["id"] for result in retrieval.search(QUERY, limit=2, threshold=-1)] == ids[:2]
        assert all(result["score"] >= 0.3 for result in retrieval.search(QUERY))
        assert retrieval.search(QUERY, threshold=1.1) == []
        assert retrieval.search("") == []

    def test_hybrid_includes_hits_of_bm25_only(self, retrieval: FineTunedRetrieval) -> None:
        results = retrieval.search(QUERY, threshold=1.1, use_hybrid=True)
        assert results[0]["content"] == TEXTS["retries"]
        assert {result["dense_rank"] for result in results} == {None}
        fused = retrieval.search(QUERY, threshold=-1, use_hybrid=True)
        assert fused[0]["score"] == fused[0]["scaled_score"] == 1
        assert (fused[0]["dense_rank"], fused[0]["sparse_rank"]) == (1, 1)

    def test_batch_equals_single_searches(self, retrieval: FineTunedRetrieval) -> None:
        queries = [*QUERIES.values(), "", QUERY]
        for use_hybrid in (False, True):
            expected = [retrieval.search(query, limit=2, threshold=0.1, use_hybrid=use_hybrid) for query in queries]
            found = retrieval.batch_search(queries, limit=2, threshold=0.1, use_hybrid=use_hybrid)
            # Vectors of a batch may differ in the last bits from those of single texts.
            for one, other in zip(found, expected, strict=True):
                assert [{**hit, "score": 0, "dense_score": 0, "leg_scores": 0} for hit in one] == [
                    {**hit, "score": 0, "dense_score": 0, "leg_scores": 0} for hit in other
                ]
                assert [hit["score"] for hit in one] == pytest.approx([hit["score"] for hit in other], abs=1e-5)
        assert retrieval.batch_search([]) == []

    def test_invalid_limit(self, retrieval: FineTunedRetrieval) -> None:
        with pytest.raises(AceFinetuneError, match="at least 1"):
            retrieval.search(QUERY, limit=0)


class TestServingChoice:
    def test_base_vectors_serve_if_the_run_chose_them(self, run: Path) -> None:
        write_json(RunFolder(run).report, {"serving": {"vectors": "base", "weights": [0.25, 0.75]}})
        with FineTunedRetrieval(run / "model") as retrieval:
            fused = retrieval.search(QUERY, threshold=-1, use_hybrid=True)
            assert {result["served_by"] for result in fused} == {"base"}
            assert {result["served_by"] for result in retrieval.search(QUERY, threshold=-1)} == {"base"}

    def test_missing_base_model_is_logged(self, run: Path, caplog) -> None:
        write_json(RunFolder(run).report, {"serving": {"vectors": "base", "weights": [0.25, 0.75]}})
        with FineTunedRetrieval(run / "model", baseline_model="nowhere/at-all") as retrieval:
            assert {result["served_by"] for result in retrieval.search(QUERY, threshold=-1)} == {"finetuned"}
        assert "the base model, which the run chose, cannot be loaded; falling back to the tuned model" in caplog.text

    def test_base_without_a_fallback_serves_or_is_an_error(self, run: Path) -> None:
        write_json(RunFolder(run).report, {"serving": {"vectors": "base", "weights": [0.25, 0.75]}})
        with FineTunedRetrieval(run / "model", fallback_to_baseline=False) as retrieval:
            fused = retrieval.search(QUERY, threshold=-1, use_hybrid=True)
            assert {result["served_by"] for result in fused} == {"base"}
        with pytest.raises(ModelError, match="nowhere/at-all"):
            FineTunedRetrieval(run / "model", baseline_model="nowhere/at-all", fallback_to_baseline=False)


class TestFallback:
    def test_baseline_serves_as_fallback_and_results_say_so(self, run: Path, baseline) -> None:
        shutil.rmtree(run / "model")
        with create_finetuned_retrieval(run / "model") as retrieval:
            results = retrieval.search(QUERY)
            assert results[0]["content"] == TEXTS["retries"]
            assert {result["served_by"] for result in results} == {"baseline"}
            assert retrieval.get_embedding(QUERY) == baseline.get_query_embedding(QUERY)

    def test_baseline_serves_if_the_record_of_the_model_is_damaged(self, run: Path) -> None:
        (run / "model" / "ace_finetune.json").write_text("{")
        with FineTunedRetrieval(run / "model") as retrieval:
            assert {result["served_by"] for result in retrieval.search(QUERY)} == {"baseline"}

    def test_fallback_off_is_an_error(self, run: Path) -> None:
        shutil.rmtree(run / "model")
        with pytest.raises(ModelError, match="does not exist"):
            FineTunedRetrieval(run / "model", fallback_to_baseline=False)

    def test_fallback_off_serves_the_tuned_model(self, run: Path) -> None:
        with FineTunedRetrieval(run / "model", fallback_to_baseline=False) as retrieval:
            assert {result["served_by"] for result in retrieval.search(QUERY)} == {"finetuned"}

    def test_no_index(self, run: Path) -> None:
        shutil.rmtree(run / "index")
        with pytest.raises(StoreError, match=r"no index.*ace-finetune index"):
            FineTunedRetrieval(run / "model")


class TestCommand:
    def test_command_prints_the_hits(self, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert (
            main(["--model", str(run / "model"), "--query", QUERY, "--limit", "2", "--threshold", "0", "--hybrid"]) == 0
        )
        printed = capsys.readouterr().out
        assert "Found 2 results:" in printed
        assert f"1. [Score: 1.000] {TEXTS['retries'][:100]}" in printed
        assert "Category: OPERATIONS  Helpful: 4  Harmful: 1  Served by: finetuned" in printed

    def test_error_is_one_sentence(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--model", str(tmp_path / "model"), "--query", QUERY]) == 2
        printed = capsys.readouterr().err
        assert "error: There is no index" in printed
        assert "Traceback" not in printed


def test_memories_of_the_index(retrieval: FineTunedRetrieval) -> None:
    found = {result["content"] for result in retrieval.search(QUERY, limit=50, threshold=-1)}
    assert found == {memory.text for memory in small_memories()}
