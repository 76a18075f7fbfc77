from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from helpers.permissions import permissions_hold
from helpers.serving_files import QUERIES, corrupt_weights
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.finetuned_retrieval import FineTunedRetrieval
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.atomic import write_json


def test_vectors_and_weights_of_dev_serve(run: Path) -> None:
    write_json(RunFolder(run).report, {"serving": {"vectors": "base", "weights": [0.25, 0.75]}})
    retriever = FineTunedHybridRetriever.from_run(run)
    try:
        assert retriever.settings.weights == (0.25, 0.75)
        assert {hit.served_by for hit in retriever.retrieve(QUERIES["cache"])} == {"base"}
        assert (dict(retriever.served), dict(retriever.fallbacks)) == ({"base": 1}, {})
    finally:
        retriever.close()


@pytest.mark.parametrize(("given", "words_count"), [({}, True), ({"weights": (1.0, 0.0)}, False)])
def test_fallback_baseline_has_separate_weights(run: Path, given: dict[str, object], words_count: bool) -> None:
    chosen = {"vectors": "model", "weights": [1.0, 0.0], "baseline_weights": [0.0, 1.0]}
    write_json(RunFolder(run).report, {"serving": chosen})
    corrupt_weights(RunFolder(run).model)
    retriever = FineTunedHybridRetriever.from_run(run, **given)
    try:
        first = retriever.retrieve(QUERIES["cache"])[0]
    finally:
        retriever.close()
    assert first.served_by == "baseline"
    assert (first.sparse_rank == 1 and first.score == 1.0) if words_count else first.dense_rank == 1
    assert first.rrf_score == pytest.approx(1 / 61)


def test_weight_zero_of_the_dense_leg_equals_bm25(run: Path) -> None:
    write_json(RunFolder(run).report, {"serving": {"vectors": "model", "weights": [0.0, 1.0]}})
    retriever = FineTunedHybridRetriever.from_run(run)
    try:
        hits = retriever.retrieve(QUERIES["cache"])
        chosen = [hit.node.node_id for hit in hits]
        assert {hit.served_by for hit in hits} == {"lexical"}
        assert (dict(retriever.served), dict(retriever.fallbacks)) == ({"lexical": 1}, {})
    finally:
        retriever.close()
    lexical = FineTunedHybridRetriever.from_run(run, mode="sparse")
    try:
        assert chosen == [hit.node.node_id for hit in lexical.retrieve(QUERIES["cache"])]
    finally:
        lexical.close()


def test_run_without_a_report_serves_by_its_manifest(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder.open(run)
    chosen = {"vectors": "base", "weights": [0.25, 0.75], "baseline_weights": None}
    write_json(folder.manifest, {**folder.read_manifest(), "serving": chosen})
    folder.report.unlink()
    assert folder.serving() == Serving("base", (0.25, 0.75))
    assert "is missing; the system to serve is read from manifest.json" in caplog.text


def test_old_run_without_a_report_serves_with_equal_weights(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    RunFolder(run).report.unlink()
    assert RunFolder.open(run).serving() == Serving("model", (1.0, 1.0))
    assert "the tuned model serves, with equal weights" in caplog.text


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"serving": {}},
        {"serving": {"vectors": "model", "weights": ["a", 1]}},
        {"serving": {"vectors": "model", "weights": [1, 1], "baseline_weights": [1]}},
        {"serving": {"vectors": "other", "weights": [1, 1]}},
        {"serving": {"vectors": "model", "weights": [float("nan"), 1]}},
        {"serving": {"vectors": "model", "weights": [-1, 1]}},
        {"serving": {"vectors": "model", "weights": [10**39, 10**400]}},
        {"serving": []},
    ],
)
def test_report_without_serving_is_logged(run: Path, report: dict[str, object]) -> None:
    RunFolder(run).report.write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(AceFinetuneError, match=r"corrupt \((serving|it holds an integer)"):
        RunFolder.open(run).serving()


def opened(run: Path, model: Path, **options: object) -> tuple[tuple[float, float], tuple[float, float] | None]:
    retriever = FineTunedHybridRetriever.from_collection(model=model, path=RunFolder(run).index, **options)  # type: ignore[arg-type]
    try:
        return retriever.settings.weights, retriever.settings.baseline_weights
    finally:
        retriever.close()


def test_model_of_a_run_is_served_with_the_weights_of_the_run(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(run)
    write_json(folder.report, {"serving": {"vectors": "model", "weights": [1.0, 0.5], "baseline_weights": [0.5, 1.0]}})
    assert opened(run, folder.model) == ((1.0, 0.5), (0.5, 1.0))
    assert opened(run, folder.model, weights=(1.0, 1.0)) == ((1.0, 1.0), None)
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(folder.model, elsewhere)
    assert opened(run, elsewhere) == ((1.0, 1.0), None)
    assert "was requested" not in caplog.text
    # Weights that were chosen for other vectors are not used with the model.
    write_json(folder.report, {"serving": {"vectors": "base", "weights": [1.0, 0.5]}})
    assert opened(run, folder.model) == ((1.0, 1.0), None)
    assert "was requested and serves, with equal weights" in caplog.text


def kept_base(run: Path) -> Path:
    """A run whose training kept the base, so its model folder has the base's weights."""
    folder = RunFolder(run)
    record = json.loads((folder.model / "ace_finetune.json").read_text(encoding="utf-8"))
    write_json(folder.model / "ace_finetune.json", {**record, "selection": {"shipped": "base", "share": 0.0}})
    write_json(folder.report, {"serving": {"system": "base", "vectors": "model", "weights": [1.0, 0.0]}})
    return run


def test_model_folder_that_holds_the_base_serves_as_base(run: Path) -> None:
    folder = RunFolder(kept_base(run))
    for retriever in (
        lambda: FineTunedHybridRetriever.from_run(run),
        lambda: FineTunedHybridRetriever.from_run(run, fallback="off"),
        lambda: FineTunedHybridRetriever.from_collection(model=folder.model, path=folder.index),
    ):
        opened = retriever()
        try:
            hits = opened.retrieve(QUERIES["cache"])
            assert {hit.served_by for hit in hits} == {"base"}
            assert (dict(opened.served), dict(opened.fallbacks)) == ({"base": 1}, {})
            assert opened.retrieve(" ") == []
            assert dict(opened.served) == {"base": 2}
        finally:
            opened.close()
    with FineTunedRetrieval(folder.model) as retrieval:
        assert {result["served_by"] for result in retrieval.search(QUERIES["cache"], threshold=-1)} == {"base"}


def test_search_prints_what_served(run: Path) -> None:
    kept_base(run)
    shown = CliRunner().invoke(app, ["search", QUERIES["cache"], "--run", str(run)])
    assert "served by base" in shown.output
    assert "finetuned" not in shown.output


def test_model_that_was_not_trained_here_is_a_base(baseline: FineTunedEmbedding, tuned: FineTunedEmbedding) -> None:
    assert (baseline.is_tuned, tuned.is_tuned) == (False, True)


def test_serve_option_is_validated(store: MemoryStore, tuned: FineTunedEmbedding) -> None:
    with pytest.raises(AceFinetuneError, match="must be finetuned or base"):
        FineTunedHybridRetriever(store, embed_model=tuned, serve="tuned")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="The base model is not available"):
        FineTunedHybridRetriever(store, embed_model=tuned, serve="base", fallback="off")


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "ace_finetune.json"])
def test_model_without_read_permission_falls_back_or_is_an_error(run: Path, file: str) -> None:
    (RunFolder(run).model / file).chmod(0)
    with permissions_hold():
        with pytest.raises(ModelError):
            FineTunedHybridRetriever.from_run(run, fallback="off")
        retriever = FineTunedHybridRetriever.from_run(run)
        try:
            assert {hit.served_by for hit in retriever.retrieve(QUERIES["cache"])} == {"baseline"}
        finally:
            retriever.close()
