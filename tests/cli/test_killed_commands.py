"""Commands killed at random moments: nothing is lost, half an output never opens, the same command does the rest."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.stores.memory_store import MemoryStore

pytestmark = pytest.mark.skipif("forkserver" not in multiprocessing.get_all_start_methods(), reason="no forks here")

_KILLS = 50


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model of one narrow layer with random weights."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import AutoTokenizer, BertConfig, BertModel

    from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint

    torch.manual_seed(0)
    torch.set_num_threads(1)  # a child process that is forked has no other threads
    folder = tmp_path_factory.mktemp("small")
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=30522
    )
    BertModel(config).save_pretrained(folder / "bare")
    AutoTokenizer.from_pretrained(str(resolve_checkpoint(DEFAULT_BASE_MODEL))).save_pretrained(folder / "bare")
    modules = [Transformer(str(folder / "bare"), max_seq_length=16), Pooling(16, pooling_mode="mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(folder / "base"), create_model_card=False)
    return folder / "base"


@pytest.fixture(scope="module")
def made(suite: Path, small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the commands start from: training data and a model."""
    folder = tmp_path_factory.mktemp("made")
    common = ["--base-model", str(small_model), "--device", "cpu", "--quiet"]
    invoke(["generate", "--data", str(suite), "--output", str(folder / "data.json"), *common])
    invoke(["train", "--training-data", str(folder / "data.json"), "--output-dir", str(folder / "model"),
            "--mode", "full", "--epochs", "1", "--budget", "60", *common])  # fmt: skip
    return folder


def invoke(arguments: Sequence[str]) -> None:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == 0, done.output


def run_in_child(arguments: Sequence[str], *, kill_after: float | None = None) -> int | None:
    """Run a command in a child process; return its exit status, None where it was killed."""
    child = _processes().Process(target=_command, args=(list(arguments),))
    child.start()
    child.join(kill_after)
    child.kill()
    child.join()
    return None if child.exitcode == -signal.SIGKILL else child.exitcode


def _command(arguments: list[str]) -> None:
    os._exit(CliRunner().invoke(app, arguments).exit_code)


def _processes() -> ForkServerContext:
    """Children of a server that has imported what takes seconds, and has used none of it: no thread is lost in them."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "llama_index_ace_finetune.pipeline.run", "llama_index_ace_finetune.pipeline.export", "transformers.trainer",
            "llama_index.vector_stores.qdrant", "datasets", "accelerate", "matplotlib.pyplot", "typer.testing",
        ]
    )  # fmt: skip
    return context


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_digest(model: Path) -> str:
    assert (model / "ace_finetune.json").is_file()
    return "".join(file_digest(file) for file in sorted(model.rglob("*.safetensors")))


def index_digest(path: Path) -> str:
    with MemoryStore.open(path=path) as store:
        points, _ = store.client.scroll(store.collection, limit=10_000, with_vectors=True)
        rows = sorted([str(point.id), point.payload, point.vector] for point in points)
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def export_digest(path: Path) -> str:
    return json.dumps(json.loads((path / "ace_finetune_export.json").read_text(encoding="utf-8"))["files"])


def run_digest(path: Path) -> str:
    assert json.loads((path / "manifest.json").read_text(encoding="utf-8"))["stages"]
    parts = [file_digest(path / name) for name in ("training_data.json", "split.json", "report.per_query.jsonl")]
    return "".join([*parts, weights_digest(path / "model"), index_digest(path / "index")])


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != ".ace-finetune.json"]


def kill_often(
    arguments: Sequence[str],
    output: Path,
    digest: Callable[[Path], str],
    *,
    kills: int,
    replace: Sequence[str] = (),
    resume: Sequence[str] = (),
    beside: Path | None = None,
) -> int:
    """Kill the command at random moments, into an empty place and over an output; return how many kills struck.

    `replace` lets it write over an output, `resume` continues it; `beside` is a second output, an index.
    """

    def found() -> list[str | None]:
        outputs = [(output, digest), *([(beside, index_digest)] if beside else [])]
        return [read(path) if path.exists() else None for path, read in outputs]

    def clear() -> None:
        for path in (output, *([beside] if beside else [])):
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)

    for _ in range(2):  # the first child waits for the server
        clear()
        start = time.monotonic()
        assert run_in_child(arguments) == 0
    seconds, expected, struck = time.monotonic() - start, found(), 0
    moments = random.Random(1)
    for number in range(kills):
        over = number % 2 == 1
        if not over:
            clear()
        options = [*arguments, *(replace if over else ())]
        struck += run_in_child(options, kill_after=moments.uniform(0, seconds)) is None
        left = found()
        assert all(one in (None, whole) for one, whole in zip(left, expected, strict=True)), "half an output opens"
        assert not over or None not in left, "an output was lost"
        again = [*options, *(resume if number % 4 >= 2 else ())]
        status = run_in_child(again)
        if status == 2 and left == expected and not over and not resume:
            status = run_in_child([*arguments, *replace])  # it was done before the kill, and says so
        assert status == 0, f"kill {number}: the command failed afterwards"
        assert found() == expected, f"kill {number}: other bytes afterwards"
        assert hidden(output.parent) == []
    return struck


@pytest.mark.slow
@pytest.mark.parametrize("kills", [_KILLS])
def test_index(made: Path, suite: Path, tmp_path: Path, kills: int) -> None:
    words = ["index", "--data", str(suite), "--model", str(made / "model"), "--out", str(tmp_path / "index")]
    command = [*words, "--device", "cpu", "--quiet"]
    assert kill_often(command, tmp_path / "index", index_digest, kills=kills, replace=["--replace"]) >= kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [_KILLS])
def test_generate(small_model: Path, suite: Path, tmp_path: Path, kills: int) -> None:
    words = ["generate", "--data", str(suite), "--output", str(tmp_path / "data.json")]
    command = [*words, "--base-model", str(small_model), "--device", "cpu", "--quiet"]
    assert kill_often(command, tmp_path / "data.json", file_digest, kills=kills) >= kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [_KILLS])
def test_train(made: Path, small_model: Path, tmp_path: Path, kills: int) -> None:
    words = ["train", "--training-data", str(made / "data.json"), "--output-dir", str(tmp_path / "tuned")]
    options = ["--base-model", str(small_model), "--device", "cpu", "--mode", "full", "--epochs", "1", "--quiet"]
    command = [*words, *options, "--budget", "60"]
    struck = kill_often(
        command, tmp_path / "tuned", weights_digest, kills=kills, resume=["--resume"], beside=tmp_path / "tuned_index"
    )
    assert struck >= kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [_KILLS])
def test_run(small_model: Path, suite: Path, tmp_path: Path, kills: int) -> None:
    words = ["run", "--data", str(suite), "--out", str(tmp_path / "run"), "--base-model", str(small_model)]
    options = ["--device", "cpu", "--mode", "linear", "--budget", "60", "--quiet"]
    struck = kill_often(
        [*words, *options], tmp_path / "run", run_digest, kills=kills, replace=["--force"], resume=["--resume"]
    )
    assert struck >= kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("kills", [_KILLS])
def test_export(made: Path, tmp_path: Path, kills: int) -> None:
    pytest.importorskip("onnxruntime")
    model = shutil.copytree(made / "model", tmp_path / "model")
    words = ["export", str(model), "--backend", "onnx", "--max-loss", "1"]
    command = [*words, "--training-data", str(made / "data.json"), "--quiet"]
    assert kill_often(command, model / "onnx", export_digest, kills=kills) >= kills // 2


def train_command(made: Path, base: Path, output: Path, *more: str) -> list[str]:
    words = ["train", "--training-data", str(made / "data.json"), "--output-dir", str(output), "--base-model"]
    return [*words, str(base), "--device", "cpu", "--mode", "full", "--epochs", "1", "--budget", "60", *more]


@pytest.mark.slow
def test_training_interrupted_while_it_indexes_keeps_the_old_output_and_is_not_repeated(
    made: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, index = tmp_path / "tuned", tmp_path / "tuned_index"
    invoke(train_command(made, small_model, model))
    (model / "notes.txt").write_text("mine", encoding="utf-8")
    before = weights_digest(model), index_digest(index)

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    other = train_command(made, small_model, model, "--seed", "1")
    with monkeypatch.context() as patch:
        patch.setattr("llama_index_ace_finetune.stores.build_index.upsert_nodes", stop)
        assert CliRunner().invoke(app, other).exit_code == 130
    assert (weights_digest(model), index_digest(index)) == before
    resumed = CliRunner().invoke(app, [*other, "--resume"])
    assert resumed.exit_code == 0, resumed.output
    assert "training: kept, since it was done" in resumed.output
    assert "training on" not in resumed.output
    assert json.loads((model / "ace_finetune.json").read_text(encoding="utf-8"))["config"]["seed"] == 1
    assert (model / "notes.txt").read_text(encoding="utf-8") == "mine"
    with MemoryStore.open(path=index) as store:
        assert {vector.model for vector in store.named_vectors.values()} == {str(model), str(small_model)}
    assert hidden(tmp_path) == []


def test_training_does_not_replace_an_index_of_somebody_else(made: Path, small_model: Path, tmp_path: Path) -> None:
    from qdrant_client import QdrantClient, models

    client = QdrantClient(path=str(tmp_path / "index"))
    client.create_collection("customers", models.VectorParams(size=4, distance=models.Distance.COSINE))
    client.close()
    (tmp_path / "index" / "NOTES.txt").write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, train_command(made, small_model, tmp_path / "model"))
    assert done.exit_code == 2
    assert "holds something that this package did not write (index folder)" in done.stderr
    assert "training on" not in done.output
    assert (tmp_path / "index" / "NOTES.txt").read_text(encoding="utf-8") == "mine"
    client = QdrantClient(path=str(tmp_path / "index"))
    assert [found.name for found in client.get_collections().collections] == ["customers"]
    client.close()


def test_output_that_cannot_be_written_is_found_before_the_work(
    made: Path, suite: Path, small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The parent of each output is a file; what reads or trains would fail this test."""
    for place in ("llama_index_ace_finetune.encoders.encoder.Encoder.load",):
        monkeypatch.setattr(place, lambda *_, **__: pytest.fail("a model was loaded first"))
    (tmp_path / "file").write_text("x", encoding="utf-8")
    place = str(tmp_path / "file" / "deep" / "out")
    data, model = ["--data", str(suite)], ["--model", str(made / "model")]
    for command in (
        ["run", *data, "--out", place, "--base-model", str(small_model)],
        ["demo", "--out", place],
        ["generate", *data, "--output", f"{place}.json"],
        train_command(made, small_model, Path(place)),
        ["evaluate", *data, *model, "--output", f"{place}.json"],
        ["index", *data, *model, "--out", place],
        ["init", "--out", place],
    ):
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 2, (command, done.output)
        assert "cannot be written" in done.stderr
        assert (tmp_path / "file").read_text(encoding="utf-8") == "x"
