"""Users' first hours, as scripts: the documented commands in a new folder, and what they leave there."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest
import yaml

import llama_index_ace_finetune as ace

PROJECT = Path(__file__).resolve().parents[1]
COMMAND = [sys.executable, "-c", "from llama_index_ace_finetune.cli import main; main()"]
pytestmark = pytest.mark.slow


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "COLUMNS": "120"}


def typed(folder: Path, *arguments: str, status: int = 0, module: str | None = None) -> str:
    """Run a command as a user types it in a folder; return both its outputs."""
    program = [sys.executable, "-m", f"llama_index_ace_finetune.{module}"] if module else COMMAND
    done = subprocess.run(
        [*program, *arguments], cwd=folder, env=environment(), capture_output=True, text=True, timeout=1200, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def texts_of(suite: Path) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """The memories of a suite under UUIDs, and its (query, id) pairs."""
    cases = json.loads(suite.read_text(encoding="utf-8"))["test_cases"]
    ids = {case["memory_id"]: str(uuid.uuid5(uuid.NAMESPACE_URL, str(case["memory_id"]))) for case in cases}
    texts = {ids[case["memory_id"]]: case["content"] for case in cases}
    return texts, [(one["query"], ids[case["memory_id"]]) for case in cases for one in case["generated_queries"]]


def test_a_query_log_and_an_index_in_an_embedded_qdrant(suite: Path, tmp_path: Path) -> None:
    """A LlamaIndex developer: log.csv and the folder of Qdrant -> a tuned retriever over the same nodes."""
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.qdrant import QdrantVectorStore
    from qdrant_client import QdrantClient

    texts, log = texts_of(suite)
    base = ace.FineTunedEmbedding("sentence-transformers/all-MiniLM-L6-v2")
    nodes = [TextNode(id_=key, text=text, metadata={"team": "platform"}) for key, text in texts.items()]
    client = QdrantClient(path=str(tmp_path / "qdrant"))
    store = QdrantVectorStore("handbook", client=client)
    VectorStoreIndex(nodes, storage_context=StorageContext.from_defaults(vector_store=store), embed_model=base)
    client.close()
    with (tmp_path / "log.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("time", "query_text", "node_id"), *(("09:00", *row) for row in log)])

    assert "memories" in typed(tmp_path, "inspect", "--data", "log.csv", "--memories", "qdrant")
    assert f"{len(texts)} memories" in typed(
        tmp_path, "run", "--data", "log.csv", "--memories", "qdrant", "--out", "my-run", "--mode", "linear"
    )
    assert "passed" in typed(tmp_path, "audit", "my-run")

    run = ace.RunFolder(tmp_path / "my-run")
    trained = ace.TrainingData.load(run.training_data)
    assert set(trained.memories) == set(texts)
    assert all(text.startswith("team: platform\n\n") for text in trained.memories.values())  # as LlamaIndex embeds it

    client = QdrantClient(path=str(tmp_path / "qdrant"))
    store = QdrantVectorStore("handbook", client=client)
    retriever = ace.FineTunedHybridRetriever.from_vector_store(store, model=run.model, similarity_top_k=5)
    before = VectorStoreIndex.from_vector_store(store, embed_model=base).as_retriever(similarity_top_k=5)
    for query, _ in log[:10]:
        found = retriever.retrieve(query)
        assert len(found) == 5
        assert {hit.node.node_id for hit in found} <= set(texts)
        assert all(hit.node.get_content() == texts[hit.node.node_id] for hit in found)
        assert {hit.node.node_id for hit in before.retrieve(query)} <= set(texts)  # LlamaIndex still reads it
    client.close()


def test_an_engineer_with_a_folder_base_own_settings_and_a_killed_run(suite: Path, tmp_path: Path) -> None:
    """Prompts, a loss with distillation, optimiser settings in YAML, TensorBoard, a run that is killed and resumed."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    base = tmp_path / "base"
    model = ace.Encoder.load("sentence-transformers/all-MiniLM-L6-v2").model
    model.prompts = {"query": "query: ", "document": ""}
    model.save_pretrained(str(base))
    (tmp_path / "suite.json").write_bytes(suite.read_bytes())

    typed(tmp_path, "init", "--data", "suite.json", "--run", "my-run", "--out", "run.yaml")
    settings = yaml.safe_load((tmp_path / "run.yaml").read_text(encoding="utf-8"))
    settings["training"] |= {
        "base_model": "base",
        "mode": "full",
        "epochs": 6,
        "batch_size": 16,
        "learning_rate": 5e-5,
        "warmup_steps": 2,
        "temperature": 0.1,
        "symmetric": True,
        "dimensions": [128],
        "budget_minutes": None,
        "precision": "float32",
        "document_prompt": "passage: ",
        "report_to": ["tensorboard"],
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    assert "nothing was written" in typed(tmp_path, "run", "--config", "run.yaml", "--dry-run")

    killed = subprocess.Popen(
        [*COMMAND, "run", "--config", "run.yaml"],
        cwd=tmp_path,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    checkpoints = tmp_path / ".my-run.work" / "training"
    deadline = time.monotonic() + 600
    while not list(checkpoints.rglob("checkpoint-*/trainer_state.json")):
        assert killed.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "my-run").exists()
    typed(tmp_path, "run", "--config", "run.yaml", "--resume")

    run = ace.RunFolder(tmp_path / "my-run")
    record = json.loads((run.model / "ace_finetune.json").read_text(encoding="utf-8"))
    assert record["config"]["temperature"] == 0.1
    assert (record["prompts"]["query"], record["prompts"]["document"]) == ("query: ", "passage: ")
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "`query: `" in card
    assert "`passage: `" in card
    logs = {path.parent for path in tmp_path.rglob("events.out.tfevents.*")}
    tags: set[str] = set()
    for folder in logs:
        events = EventAccumulator(str(folder))
        events.Reload()
        tags |= set(events.Tags()["scalars"])
    assert any("loss" in tag for tag in tags), (logs, tags)
    shown = typed(tmp_path, "doctor", "--base-model", "base", "--json")
    assert json.loads(shown[shown.index("{") : shown.rindex("}") + 1])["base_model"]["query_prompt"] == "query: "


def test_the_migration_page_on_a_suite_with_an_inventory_beside_it(suite: Path, tmp_path: Path) -> None:
    """Somebody with the original's scripts: the four commands of the page, with and without the inventory."""
    (tmp_path / "my_suite.json").write_bytes(suite.read_bytes())
    known = json.loads(suite.read_text(encoding="utf-8"))["test_cases"]
    inventory = [{"id": case["memory_id"], "payload": {"lesson": case["content"]}} for case in known]
    inventory += [{"id": 10**6 + n, "payload": {"lesson": f"Check dial {n} before shift {n % 7}"}} for n in range(200)]
    (tmp_path / "memory_inventory.json").write_text(json.dumps(inventory), encoding="utf-8")
    page = (PROJECT / "docs" / "how-to" / "migrate-from-ace.md").read_text(encoding="utf-8")
    commands = re.findall(r"```bash\npython -m llama_index_ace_finetune\.(\w+) \\\n(.*?)```", page, re.DOTALL)
    assert [name for name, _ in commands] == [
        "data_generator",
        "finetune_embeddings",
        "evaluate_finetuned",
        "finetuned_retrieval",
    ]
    warned = "memory_inventory.json holds 200 more memories and is not used; add --memories"
    for name, rest in commands:
        arguments = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', rest.replace("\\\n", " "))]
        printed = typed(tmp_path, *arguments, module=name)
        assert (warned in " ".join(printed.split())) == (name in ("data_generator", "evaluate_finetuned"))
    few = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["metadata"]["corpus_size"]

    for name, rest in commands[:3]:
        arguments = [word.strip('"') for word in re.findall(r'"[^"]*"|\S+', rest.replace("\\\n", " "))]
        own = [] if name == "finetune_embeddings" else ["--memories", "memory_inventory.json"]
        assert "is not used" not in typed(tmp_path, *arguments, *own, module=name)
    many = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["metadata"]["corpus_size"]
    assert many == few + 200
