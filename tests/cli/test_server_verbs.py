"""`index --url` and `search --url`: versions behind an alias of a server's collections."""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.serving_files import TEXTS, write_run, write_tuned_model
from qdrant_client import QdrantClient
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.stores.qdrant.payload_indexes import read_payload_indexes
from llama_index_ace_finetune.stores.versions import rollback

runner = CliRunner()
SECRET = "sk-0123456789-secret"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    return write_run(folder / "run", write_tuned_model(folder / "tuned"))


@pytest.fixture
def alias(qdrant_url: str) -> Iterator[str]:
    """A name for the versions of a collection, which are deleted at the end."""
    name = f"test-{uuid.uuid4().hex}"
    yield name
    client = QdrantClient(url=qdrant_url)
    for collection in client.get_collections().collections:
        if collection.name.startswith(name):
            client.delete_collection(collection.name)
    client.close()


def invoke(*arguments: object, exit_code: int = 0) -> str:
    done = runner.invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == exit_code, done.output
    return done.stdout if exit_code == 0 else done.stderr


@pytest.mark.slow  # it loads two models several times
@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
def test_versions_are_built_served_and_replaced(
    run: Path, alias: str, qdrant_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "memories.jsonl"
    lines = [json.dumps({"id": name, "text": text, "size": len(text)}) for name, text in TEXTS.items()]
    data.write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setenv("MY_KEY", SECRET)
    where = ["--url", qdrant_url, "--collection", alias, "--api-key-env", "MY_KEY"]
    build = ["index", "--data", data, "--model", run / "model", *where, "--shard-number", 2, "--quantization", "scalar",
             "--payload-index", "size=integer"]  # fmt: skip
    built = json.loads(invoke(*build, "--json"))
    assert built == {
        "memories": 12, "url": qdrant_url, "alias": alias, "collection": f"{alias}.v1", "replaced": None
    }  # fmt: skip
    client = QdrantClient(url=qdrant_url)
    assert read_payload_indexes(client, f"{alias}.v1", "there")["size"] == "integer"
    assert client.get_collection(f"{alias}.v1").config.params.shard_number == 2

    searched = ["search", run, "customer was charged twice after a payment retry", "--json", "--limit", 5]
    by_server, by_folder = json.loads(invoke(*searched, *where)), json.loads(invoke(*searched))
    assert [hit["id"] for hit in by_server] == [hit["id"] for hit in by_folder]
    assert [hit["score"] for hit in by_server] == pytest.approx([hit["score"] for hit in by_folder], abs=1e-4)
    assert by_server[0]["served_by"] == "finetuned"

    assert f"already stands for the collection '{alias}.v1'" in invoke(*build, exit_code=2)
    data.write_text("\n".join([*lines, json.dumps({"id": "new", "text": "Penguins are audited."})]), encoding="utf-8")
    said = invoke(*build, "--replace")
    assert said.splitlines() == [
        f"13 memories in {alias}.v2 on {qdrant_url}", f"{alias} is an alias of it", f"{alias}.v1 is kept for a rollback"
    ]  # fmt: skip
    assert "Penguins" in invoke("search", run, "penguins audited", *where, "--limit", 1)
    assert rollback(client, alias) == f"{alias}.v1"
    assert "Penguins" not in invoke("search", run, "penguins audited", *where)
    client.close()
    for folder, _, files in os.walk(tmp_path.parent):
        assert all(SECRET.encode() not in (Path(folder) / file).read_bytes() for file in files)
    assert SECRET not in said + invoke(*build, exit_code=2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--shard-number", 2], "The option --shard-number is for a Qdrant server; give its address with --url."),
        (["--url", "http://127.0.0.1:9"], "'http://127.0.0.1:9' cannot be reached"),
        (["--url", "http://127.0.0.1:9", "--out", "there"], "give --out or --url, not both."),
        (["--url", "http://127.0.0.1:9", "--api-key-env", "NO_SUCH_KEY"], "variable of --api-key-env is not set"),
        (["--url", "http://127.0.0.1:9", "--replication-factor", 0], "replication_factor is 0"),
    ],
)
def test_invalid_options(options: list[object], sentence: str, tmp_path: Path) -> None:
    said = invoke("index", "--data", tmp_path / "data.json", "--model", tmp_path, *options, exit_code=2)
    assert sentence in " ".join(said.split())
    assert said.startswith("error: ")


@pytest.mark.parametrize("key", [SECRET, "gsk_0123456789secret"])  # the second could be a variable's name
@pytest.mark.parametrize(
    "command",
    [
        ["index", "--data", "d", "--model", "m", "--url", "http://127.0.0.1:9", "--api-key-env"],
        ["synthesize", "--data", "d", "--llm-url", "http://127.0.0.1:9", "--llm-model", "m", "--llm-key-env"],
    ],
)
def test_a_key_in_place_of_its_variable_is_not_quoted(
    command: list[str], key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = " ".join(invoke(*command, key, exit_code=2).split())
    assert "key-env is not set; give the name of one that holds the API key, not the key." in said
    assert key not in said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow  # it shares the run of the other slow test
def test_search_of_a_run_whose_collection_is_missing(run: Path, alias: str, qdrant_url: str, tmp_path: Path) -> None:
    copied = shutil.copytree(run, tmp_path / "run")
    said = invoke("search", copied, "x", "--url", qdrant_url, "--collection", alias, exit_code=2)
    assert f"There is no collection '{alias}'" in said
