"""`ace-finetune export` on a run, as a user types it, and what serves afterwards."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.serving_files import QUERIES, TEXTS, write_run, write_tuned_model
from typer.testing import CliRunner

import llama_index_ace_finetune as ace
from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever

QUERY = QUERIES["migrations"]


@pytest.fixture(scope="module")
def whole_run(one_layer: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dev queries, exported to onnx."""
    folder = tmp_path_factory.mktemp("export")
    run = write_run(folder / "run", write_tuned_model(folder / "tuned", base=one_layer))
    examples = tuple(TrainingExample(f"q-{name}", query, (name,), split="dev") for name, query in QUERIES.items())
    TrainingData(examples=examples, memories=TEXTS).save(run / "training_data.json")
    done = export(run, "--backend", "onnx", "--json")
    assert done.exit_code == 0, done.output
    (folder / "printed.json").write_text(done.stdout)
    return run


@pytest.fixture
def run(whole_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


def export(*arguments: object):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def card(run: Path) -> str:
    return (run / "model" / "README.md").read_text()


def test_record_card_and_json_agree(whole_run: Path) -> None:
    printed = json.loads((whole_run.parent / "printed.json").read_text())
    record = json.loads((whole_run / "model" / "onnx" / "ace_finetune_export.json").read_text())
    dev = printed["dev"]
    assert dev.pop("loss") <= 0.005
    assert printed == record
    assert (record["backend"], record["precision"]) == ("onnx", "float32")
    assert (dev["queries"], dev["memories"]) == (12, 12)
    assert dev["torch"] == pytest.approx(dev["export"])
    assert set(record["query_milliseconds"]) == {"torch", "export"}
    assert f"dev MRR@10 {dev['export']:.4f}" in card(whole_run)
    assert record["source"] in card(whole_run)


@pytest.mark.slow
def test_second_export_adds_a_line_and_a_repeated_one_does_not(run: Path) -> None:
    before = card(run)
    assert export(run / "model", "--backend", "openvino").exit_code == 0
    assert export(run, "--backend", "onnx").exit_code == 0
    after = card(run)
    assert after.startswith(before.partition("<!--")[0])
    assert after.count("## Exports") == after.count("- `onnx/`") == after.count("- `openvino/`") == 1


def test_export_with_too_much_loss_is_not_kept(run: Path) -> None:
    files = {path: path.read_bytes() for path in (run / "model").rglob("*") if path.is_file()}
    done = export(run, "--backend", "onnx", "--int8", "--max-loss", "-2")
    assert done.exit_code == 2
    assert "The onnx, int8 export of" in done.stderr
    assert "is not kept, since dev MRR@10 falls by" in done.stderr
    assert {path: path.read_bytes() for path in (run / "model").rglob("*") if path.is_file()} == files


def test_the_table_has_a_row_for_each_use(run: Path) -> None:
    done = export(run, "--backend", "onnx", "--int8", "--max-loss", "1")
    assert done.exit_code == 0
    for part in ("torch, float32", "onnx, int8", "memories in torch", "dev MRR@10"):
        assert part in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backend", "tensorrt"], "'tensorrt' is not one of"),
        (["--backend", "openvino", "--int8"], "no int8 export for openvino"),
        (["--backend", "onnx", "--training-data", "nowhere.json"], "no dev queries to measure"),
    ],
)
def test_bad_options(run: Path, arguments: list[str], sentence: str) -> None:
    done = export(run, *arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output


def test_unknown_backend_is_refused_from_python(run: Path) -> None:
    with pytest.raises(ModelError, match="no export for the backend 'tensorrt'; take onnx or openvino"):
        ace.export(run, backend="tensorrt")  # type: ignore[arg-type]


def test_a_model_without_its_run_needs_dev_queries(run: Path, tmp_path: Path) -> None:
    model = Path(shutil.copytree(run / "model", tmp_path / "single" / "model"))
    shutil.rmtree(model / "onnx")
    done = export(model, "--backend", "onnx")
    assert done.exit_code == 2
    assert "--training-data" in done.stderr
    done = export(model, "--backend", "onnx", "--training-data", run / "training_data.json")
    assert done.exit_code == 0
    assert (model / "onnx" / "model.onnx").is_file()


def test_foreign_folder_is_not_replaced(run: Path) -> None:
    (run / "model" / "openvino").mkdir()
    (run / "model" / "openvino" / "mine.txt").write_text("mine")
    done = export(run, "--backend", "openvino")
    assert done.exit_code == 2
    assert "this package did not write (export folder)" in " ".join(done.stderr.split())
    assert (run / "model" / "openvino" / "mine.txt").read_text() == "mine"


class TestServing:
    def test_export_serves_an_index_made_by_torch(self, run: Path) -> None:
        retriever = FineTunedHybridRetriever.from_run(run, similarity_top_k=3)
        try:
            hits = retriever.retrieve(QUERY)
        finally:
            retriever.close()
        assert hits[0].node.node_id == "migrations"
        assert retriever.served == {"finetuned": 1}

    def test_vectors_are_those_of_torch(self, run: Path) -> None:
        exported, torchs = (FineTunedEmbedding(str(run / "model"), backend=b) for b in ("auto", "torch"))
        assert exported.encoder.backend == "onnx"
        assert torchs.encoder.backend == "torch"
        assert exported.fingerprint == torchs.fingerprint
        assert exported.get_query_embedding(QUERY) == pytest.approx(torchs.get_query_embedding(QUERY), abs=1e-4)

    def test_damaged_export_is_logged_and_torch_serves(self, run: Path, caplog: pytest.LogCaptureFixture) -> None:
        (run / "model" / "onnx" / "model.onnx").write_bytes(b"half")
        embedding = FineTunedEmbedding(str(run / "model"))
        assert embedding.encoder.backend == "torch"
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        assert "the onnx export is not used, falling back to torch" in warning
        assert "corrupt" in warning

    def test_queries_are_cached_unless_switched_off(self, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for size, computed in ((8, 1), (0, 2)):
            embedding = FineTunedEmbedding(str(run / "model"), query_cache_size=size)
            passed: list[str] = []
            encode = embedding.encoder.encode
            monkeypatch.setattr(
                embedding.encoder, "encode", lambda texts, passed=passed, encode=encode, **o: (
                    passed.extend(texts), encode(texts, **o)
                )[1]
            )  # fmt: skip
            assert embedding.get_query_embedding(QUERY) == embedding.get_query_embedding(QUERY)
            assert len(passed) == computed

    def test_warm_up_loads_the_model(self, run: Path) -> None:
        embedding = FineTunedEmbedding(str(run / "model"))
        assert embedding._encoder is None
        embedding.warm_up()
        assert embedding._encoder is not None

    def test_neither_torch_nor_transformers_is_imported(self, run: Path) -> None:
        program = (
            "import sys\n"
            "from llama_index_ace_finetune import FineTunedHybridRetriever\n"
            f"retriever = FineTunedHybridRetriever.from_run({str(run)!r})\n"
            f"print(retriever.retrieve({QUERY!r})[0].node.node_id)\n"
            "retriever.close()\n"
            "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))\n"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-2:] == ["migrations", "[]"]
