"""The public names are typed: a program that uses all of them passes `mypy --strict`."""

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
    search_options: ace.SearchOptions = {"mode": "dense"}
    hits: list[NodeWithScore] = retriever.search("one", **search_options)
    ace.FineTunedHybridRetriever.from_run(folder, **options).close()
    served_by = [hit.served_by for hit in hits if isinstance(hit, ace.RetrievedMemory)]
    store: ace.MemoryStore = retriever.store
    with ace.FineTunedRetrieval(folder / "model") as retrieval:
        found: list[dict[str, object]] = retrieval.search("one", use_hybrid=True)
    return [*served_by, str(len(found)), str(len(store)), str(len(embedding.get_query_embedding("one")))]


def log_queries(folder: Path) -> list[ace.RetrievalRecord]:
    with ace.QueryLog.open(folder / "queries.db", ace.LogSettings(sample=0.5)) as log:
        retriever = ace.FineTunedHybridRetriever.from_run(folder, query_log=log)
        hits = retriever.retrieve("one")
        if isinstance(hits[0], ace.RetrievedMemory) and hits[0].query_id is not None:
            retriever.feedback(hits[0].query_id, hits[0].node.node_id, True, reason="it helped")
        given: list[ace.FeedbackRecord] = list(log.feedback_records(since=0.0))
        first: ace.LoggedHit = next(log.records()).hits[0]
        print(len(given), first.dense_rank, ace.SearchEvent.class_name())
        return list(log.records(run=str(folder)))


def compare_systems(folder: Path, a: ace.FineTunedHybridRetriever, b: ace.FineTunedHybridRetriever) -> bool:
    with ace.QueryLog.open(folder / "queries.db") as log:
        hits: list[NodeWithScore] = ace.InterleavedRetriever(a, b, seed=1, query_log=log).retrieve("one")
        ace.UserSplit(a, b, fraction=0.1, query_log=log).for_user("anna").retrieve("one")
        ace.ShadowRetriever(a, b, query_log=log, limit=1).wait()
    found: ace.LiveComparison = ace.compare_live(folder / "queries.db", name="comparison")
    seen: ace.Watch = ace.watch(folder / "queries.db", run=folder, reference="log")
    page: ace.Dashboard = ace.dashboard(folder / "queries.db", folder, folder / "page.html")
    print(page.usage.queries, len(hits), found.sentence, found.credit.low, seen.sentence)
    return found.may_stop or seen.due


def learn(log: Path, run: Path) -> Path:
    print(ace.trace_searches(texts=False))
    settings = ace.HarvestSettings(min_uses=3)
    with ace.QueryLog.open(log, ace.LogSettings(redact=ace.mask_personal_data)) as opened:
        print(ace.import_feedback(opened, "judged.csv").counts["imported"])
        print(ace.export_log(opened, "log.jsonl", ubi=True))
    result: ace.HarvestResult = ace.harvest(log, "data.jsonl", run=run, settings=settings)
    return result.memories


class Lines(ace.PipelineEvents):
    def on_message(self, text: str) -> None:
        print(text)


def run_all(suite: Path, out: Path) -> ace.RunFolder:
    settings = ace.RunSettings(data=suite, out=out, training=ace.TrainingConfig(epochs=1))
    plan: ace.RunPlan = ace.plan(settings)
    print(plan.seconds, [stage.does for stage in plan.stages])
    result: ace.RunResult = ace.run(settings, events=Lines())
    again: ace.RunResult = ace.run(data=suite, out=out, training=ace.TrainingConfig(epochs=1))
    print(result.verdict, again.stages, result.seconds)
    return result.folder


def stage_by_stage(suite: Path, folder: Path) -> str:
    inspection: ace.Inspection = ace.inspect(suite)
    tuned: ace.TuningResult = ace.tune(suite, "tuning", trials=3, space=ace.SearchSpace(batch_size=(32, 64)))
    synthetic: ace.SynthesisResult = ace.synthesize(
        suite, "synthetic.jsonl", settings=ace.SynthesisSettings(num_queries=10), calls=ace.CallSettings(concurrency=2)
    )
    data: ace.GenerationResult = ace.generate(suite, folder / "data.json", num_negatives=3, events=Lines())
    trained: ace.TrainingResult = ace.train(data.path, ace.TrainingConfig(mode="queries"), out=folder / "model")
    found: ace.EvaluationResult = ace.evaluate(suite, trained.model, out=folder / "report.json")
    stored: ace.IndexResult = ace.index(suite, trained.model, folder / "index", replace=True)
    report: ace.RunReport = ace.report(folder / "report.json")
    record: ace.ExportRecord = ace.export(folder, backend="onnx", int8=True)
    vectors: ace.VectorComparison = ace.compare_vector_formats(folder, [128])
    print(inspection.rejection, stored.memories, record.backend, vectors.forms[0].mrr, found.verdict.sentence)
    figures: dict[str, object] = ace.EmbeddingEvaluator(suite).compare_models(trained.model)
    return report.verdict + str(figures["verdict"])


def check(run: Path, other: Path) -> bool:
    comparison: ace.RunComparison = ace.compare([run, other])
    audit: ace.Audit = ace.audit(run)
    ace.write_config(run / "run.yaml", data=str(ace.demo_suite()), run=str(run))
    print(comparison.queries, ace.check_environment()["problems"], [one.bytes for one in ace.remove_leftovers(run)])
    return audit.passed


def with_parts(suite: Path, model: Path) -> ace.Verdict:
    ace.keep_freed_memory()
    dataset = ace.read_dataset(suite)
    split: ace.Split = ace.split_dataset(dataset)
    base = ace.Encoder.load("base", settings=ace.EncoderSettings(device="cpu"))
    data: ace.TrainingData = ace.generate_training_data(dataset, split, ace.HardNegativeMiner(encoder=base))
    unseen: ace.UnseenQueries = ace.unseen_queries(dataset, None)
    found: ace.Evaluation = ace.evaluate_systems(
        dataset, test=unseen.test, dev=split.dev, base=base, tuned=ace.Encoder.load(model)
    )
    measures = [ace.Success(1), ace.Recall(5), ace.MRR(10), ace.NDCG(10), ace.MAP(100), ace.parse_measure("MRR@5")]
    print(len(data.examples), [str(measure) for measure in measures])
    return ace.reach_verdict(found, None)


def keep_an_index(suite: Path, folder: Path, model: ace.Encoder) -> None:
    nodes = ace.memory_nodes(ace.read_dataset(suite).memories.values())
    with ace.build_index(nodes, finetuned=model, baseline=None, path=folder) as store:
        ace.upsert_nodes(store, nodes, {"finetuned": model})
    ace.refresh_documents, ace.build_version, ace.mirror_writes, ace.publish, ace.rollback


def grow(inventory: Path, folder: Path) -> str:
    encoded: ace.EncodedMemories = ace.encode(inventory, folder, engine=ace.EngineSettings(), shard_rows=1000)
    shards = ace.ShardFolder.open(encoded.path)
    made: ace.ServerIndexResult = ace.index_on_server(
        inventory,
        folder,
        "http://localhost:6333",
        client_options=ace.ServerSettings(timeout=10.0),
        collection_options=ace.CollectionSettings(shard_number=2),
        shards=[encoded.path],
    )
    return f"{len(shards)} shards, {made.memories} memories in {made.alias}"


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


def test_program_uses_every_public_name() -> None:
    assert [name for name in llama_index_ace_finetune.__all__ if f"ace.{name}" not in PROGRAM] == []


@pytest.mark.slow
def test_mypy_passes_and_reports_wrong_types(tmp_path: Path) -> None:
    correct = check(PROGRAM, tmp_path)
    assert correct.returncode == 0, correct.stdout + correct.stderr
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
