"""The public names are typed: a program that uses every one of them passes `mypy --strict`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import llama_index_ace_finetune

PROGRAM = """
from __future__ import annotations

from pathlib import Path

from llama_index.core.schema import NodeWithScore, TextNode

import llama_index_ace_finetune as ace


def train(suite: Path, folder: Path) -> str:
    settings = ace.MiningSettings(range_max=30, relative_margin=0.1)
    with ace.HardNegativeMiner(settings=settings) as miner:
        written: int = ace.TrainingDataGenerator(suite, folder / "data.json", miner).generate_and_save()
        ace.save_mining_report(miner.report, folder / "mining")
    tuner = ace.EmbeddingFineTuner(ace.TrainingConfig(output_dir=str(folder / "model"), mode="linear"))
    counts: dict[str, int] = tuner.load_training_data(folder / "data.json")
    tuner.initialize_model()
    shipped = tuner.train()["mode"]
    return f"{ace.__version__} {written} {counts} {shipped} {tuner.evaluate()}"


def divide(suite: Path) -> tuple[ace.RetrievalDataset, tuple[str, ...]]:
    dataset = ace.read_dataset(suite)
    memories: list[ace.Memory] = list(dataset.memories.values())
    queries: list[ace.Query] = list(dataset.queries.values())
    print(len(memories), len(queries))
    return dataset, ace.split_dataset(dataset, settings=ace.SplitSettings(seed=1)).test


def serve(folder: Path) -> list[str]:
    embedding = ace.FineTunedEmbedding(str(folder / "model"))
    nodes = [TextNode(text="one"), TextNode(text="two")]
    retriever = ace.FineTunedHybridRetriever.from_nodes(nodes, model=folder / "model", mode="hybrid")
    options: ace.RetrieverOptions = {"similarity_top_k": 3, "fallback": "off"}
    of_one_call: ace.SearchOptions = {"mode": "dense"}
    hits: list[NodeWithScore] = retriever.search("one", **of_one_call)
    ace.FineTunedHybridRetriever.from_run(folder, **options).close()
    told = [hit.served_by for hit in hits if isinstance(hit, ace.RetrievedMemory)]
    store: ace.MemoryStore = retriever.store
    with ace.FineTunedRetrieval(folder / "model") as retrieval:
        found: list[dict[str, object]] = retrieval.search("one", use_hybrid=True)
    return [*told, str(len(found)), str(len(store)), str(len(embedding.get_query_embedding("one")))]


async def measure(suite: Path, retriever: ace.FineTunedHybridRetriever) -> float:
    dataset, test = divide(suite)
    try:
        now = ace.evaluate_retriever(retriever, dataset, query_ids=test)
        later = await ace.aevaluate_retriever(retriever, dataset, query_ids=test)
    except ace.AceFinetuneError as error:
        print(error)
        return 0.0
    return later.means["MRR@10"].mean - now.means["MRR@10"].mean
"""


def check(program: str, folder: Path) -> subprocess.CompletedProcess[str]:
    (folder / "program.py").write_text(program, encoding="utf-8")
    words = [sys.executable, "-m", "mypy", "--strict", "--config-file", "", "--cache-dir", str(folder / "cache")]
    return subprocess.run([*words, "program.py"], cwd=folder, capture_output=True, text=True, check=False)


def test_the_program_uses_every_name() -> None:
    assert [name for name in llama_index_ace_finetune.__all__ if f"ace.{name}" not in PROGRAM] == []


@pytest.mark.slow
def test_mypy_passes_and_notices_a_wrong_use(tmp_path: Path) -> None:
    right = check(PROGRAM, tmp_path)
    assert right.returncode == 0, right.stdout + right.stderr
    wrong = check(PROGRAM.replace("range_max=30", 'range_max="30"').replace('mode="linear"', 'mode="liner"'), tmp_path)
    assert wrong.stdout.count("[arg-type]") == 2, wrong.stdout


@pytest.mark.slow
def test_mypy_reports_misspelt_and_wrong_options(tmp_path: Path) -> None:
    calls = [
        "from_run('run', similiarity_top_k=3)",
        "from_nodes([], model='m', path='d', similiarity_top_k=3)",
        "from_collection(model='m', similiarity_top_k=3)",
        "from_vector_store(store, model='m', similiarity_top_k=3)",
        "from_run('run', similarity_top_k='3')",
        "from_run('run').search('one', similiarity_top_k=3)",
        "from_run('run').as_retriever(fallback='off')",
    ]
    head = [
        "from llama_index.vector_stores.qdrant import QdrantVectorStore",
        "from llama_index_ace_finetune import FineTunedHybridRetriever",
        "def made(store: QdrantVectorStore) -> None:",
    ]
    program = "\n".join([*head, *(f"    FineTunedHybridRetriever.{call}" for call in calls), ""])
    found = check(program, tmp_path)
    lines = [line for line in found.stdout.splitlines() if ": error:" in line]
    assert [int(line.split(":")[1]) for line in lines] == list(range(4, 4 + len(calls))), found.stdout
    assert all(line.endswith(("[call-arg]", "[arg-type]")) for line in lines), found.stdout
