"""Every kind of file that a stranger may hand over, and what reads it."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from llama_index_ace_finetune.cli.report import show_report
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.training_data import HardNegative, TrainingData, TrainingExample
from llama_index_ace_finetune.encoders.cache import VectorCache
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.exports.record import DevLoss, ExportRecord
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.model_files import check_module_classes
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.metrics.trec_run import read_run
from llama_index_ace_finetune.evaluation.report.per_query import PerQuery, per_query_path
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report, write_report
from llama_index_ace_finetune.evaluation.result import BASE, TUNED
from llama_index_ace_finetune.pipeline.config_file import config_text, run_settings
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_array import read_array_file

TESTS = Path(__file__).resolve().parents[1]
TEXTS = ["retry the upload with a growing delay", "switch the journal to write-ahead logging", "close the file first"]


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        make: writes whole files into an empty folder and returns those to change, one at a time.
        read: reads them from the folder; it may raise the package's own error and nothing else.
        fraction: of the number of files of the quick tests, below 1 for slow readers.
        after: makes the rest of the folder agree with a changed file, as whoever forges one would.
    """

    make: Callable[[Path], list[Path]]
    read: Callable[[Path], object]
    fraction: float = 1.0
    after: Callable[[Path, Path], None] | None = None


def _module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"fuzz_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


FILES = _module(TESTS / "datasets" / "dataset_files.py")
EVALUATIONS = _module(TESTS / "evaluation" / "conftest.py")


def _written(folder: Path, name: str, content: str | bytes | Any) -> Path:
    path = folder / name
    if not isinstance(content, (str, bytes)):
        content = json.dumps(content, indent=1)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _data(name: str, content: Any) -> Reader:
    return Reader(lambda folder: [_written(folder, name, content)], lambda folder: read_dataset(folder / name))


def _lines(rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def _table(delimiter: str) -> str:
    return "".join(
        delimiter.join(row) + "\n" for row in (("id", "query", "answer"), *zip("12", "ab", TEXTS, strict=False))
    )


def _beir(folder: Path) -> list[Path]:
    (folder / "qrels").mkdir()
    return [
        _written(folder, "corpus.jsonl", _lines(FILES.CORPUS)),
        _written(folder, "queries.jsonl", _lines(FILES.QUERIES)),
        _written(folder, "qrels/test.tsv", FILES.QRELS),
    ]


def _parquet(folder: Path) -> list[Path]:
    pq.write_table(pa.table({"query": ["a", "b"], "answer": TEXTS[:2]}), folder / "a.parquet")
    return [folder / "a.parquet"]


def _split(folder: Path) -> list[Path]:
    rows = [{"query": f"query {n} of {n * n}", "answer": f"answer {n} for {n * 7}"} for n in range(40)]
    split_dataset(read_dataset(_written(folder, "rows.jsonl", _lines(rows)))).save(folder / "split.json")
    return [folder / "split.json"]


def _training_data(folder: Path) -> list[Path]:
    examples = [
        TrainingExample("q1", "upload", ("a",), (HardNegative("b", "bm25", 1.5, 2),), "train", {"category": "x"}),
        TrainingExample("q2", "journal", ("b",), (), "dev"),
    ]
    TrainingData(tuple(examples), {"a": TEXTS[0], "b": TEXTS[1]}, {"mining": {"settings": {}}}).save(folder / "t.json")
    return [folder / "t.json"]


def _config_json(folder: Path) -> list[Path]:
    TrainingConfig(epochs=2, dimensions=(8,)).save(folder / "c.json")
    return [folder / "c.json"]


def _run(folder: Path) -> list[Path]:
    ranks = {BASE: [1, 2, None, 3], TUNED: [1, 1, 4, 3]}
    made = EVALUATIONS.make_evaluation(ranks, dev=ranks, metadata={"q0": {"difficulty": "easy"}})
    verdict = reach_verdict(made, {"shipped": "finetuned", "rule": "a rule"})
    context = ReportContext(title="a", base_model="base", tuned_model="tuned")
    report, _ = write_report(build_report(made, verdict, context), folder / "report.json", evaluation=made)
    _written(folder, "manifest.json", {"format_version": 2, "base_model": "base", "data": "x", "stages": {}})
    return [report]


def _report_of(folder: Path) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        show_report(folder / "report.json", open_page=False)


def _manifest(folder: Path) -> list[Path]:
    return [_run(folder)[0].with_name("manifest.json")]


def _read_manifest(folder: Path) -> None:
    run = RunFolder.open(folder)
    run.read_manifest()
    run.base_model()


def _bm25(folder: Path) -> list[Path]:
    BM25Index.build([*TEXTS, ""]).save(folder / "bm25")
    return sorted((folder / "bm25").iterdir())


def _forged_checksum(folder: Path, changed: Path) -> None:
    """Make the checksum of a changed array that of its content, so that only its sense is left to check."""
    if changed.name == "index.json":
        return
    index = json.loads((folder / "bm25" / "index.json").read_text())
    try:
        content = read_array_file(changed, Refusal("a", "b")).data if changed.suffix == ".npy" else changed.read_bytes()
    except Exception:
        return
    index["checksums"][changed.name] = zlib.crc32(content)
    (folder / "bm25" / "index.json").write_text(json.dumps(index))


def _search_bm25(folder: Path) -> None:
    with np.errstate(all="ignore"):
        BM25Index.load(folder / "bm25").search("retry the upload", 3)


def _cache(folder: Path) -> list[Path]:
    VectorCache(folder, fingerprint="f", role="query", dimension=8).add(TEXTS, np.eye(3, 8, dtype=np.float32))
    return sorted(folder.rglob("*.npy"))


def _look_up(folder: Path) -> None:
    held, vectors = VectorCache(folder, fingerprint="f", role="query", dimension=8).lookup(TEXTS)
    assert (vectors is None) == (not held.any())


def _export(folder: Path) -> list[Path]:
    hashes = dict.fromkeys(("tokenizer.json", "model.onnx"), "0" * 64)
    dev = DevLoss(queries=3, memories=4, torch=0.5, export=0.5, mixed=0.5)
    graphs = dict.fromkeys(("query", "document"), "model.onnx")
    ExportRecord(
        backend="onnx", precision="int8", source="x", graphs=graphs, files=hashes, dimension=8, max_seq_length=24,
        padding_id=0, dev=dev, query_milliseconds={"torch": 2.0, "export": 1.0},
    ).write(folder)  # fmt: skip
    return list(folder.iterdir())


def _model(folder: Path) -> list[Path]:
    (folder / "1_Pooling").mkdir()
    modules = "sentence_transformers.base.modules"
    paths = [
        _written(folder, "config.json", {"model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1}),
        _written(folder, "modules.json", [
            {"idx": 0, "name": "0", "path": "", "type": f"{modules}.transformer.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{modules}.normalize.Normalize"},
        ]),
        _written(folder, "sentence_bert_config.json", {"max_seq_length": 24, "do_lower_case": False}),
        _written(folder, "tokenizer_config.json", {"model_max_length": 24, "tokenizer_class": "BertTokenizer"}),
        _written(folder, "config_sentence_transformers.json", {"prompts": {"query": "q: "}, "truncate_dim": None}),
        _written(folder, "1_Pooling/config.json", {"word_embedding_dimension": 4, "pooling_mode_mean_tokens": True}),
    ]  # fmt: skip
    save_file({"w": np.ones((9, 4), np.float32), "b": np.ones(4, np.float16)}, folder / "model.safetensors")
    return paths


def _weights(folder: Path) -> list[Path]:
    _model(folder)
    return [folder / "model.safetensors"]


def _provenance(folder: Path) -> list[Path]:
    _model(folder)
    record = {"base_model": "base", "fingerprint": "f", "document_fingerprint": "g", "config": {"epochs": 1}}
    return [_written(folder, "ace_finetune.json", record)]


def _identify(folder: Path) -> None:
    resolve_checkpoint(folder)
    check_module_classes(folder)
    identify_model(folder)


def _inverted_file(folder: Path) -> list[Path]:
    from llama_index_ace_finetune.stores.ann.ivf_builder import IVFBuilder

    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with IVFBuilder(folder, 8) as builder:
        builder.add(list(range(40)), [f"n{number}" for number in range(40)], vectors)
    return sorted(folder.iterdir())


def _search_inverted_file(folder: Path) -> None:
    from llama_index_ace_finetune.stores.ann.ivf import IVFIndex

    with np.errstate(all="ignore"):
        IVFIndex(folder).search(np.ones(8, np.float32), 3)


def _store(folder: Path) -> list[Path]:
    from qdrant_client import models

    from llama_index_ace_finetune.stores.qdrant.folder_client import FolderQdrant

    store = FolderQdrant(folder)
    store.create_collection("memories", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
    store.close()
    return [folder / "meta.json"]


def _open_store(folder: Path) -> None:
    from llama_index_ace_finetune.stores.qdrant.folder_client import FolderQdrant

    FolderQdrant(folder).close()


RUN = "q1 Q0 d1 1 2.5 bm25\nq1 Q0 d2 2 1.5 bm25\nq2 Q0 d1 1 0.5 bm25\n"

DATA_READERS: dict[str, Reader] = {
    "suite": _data("a.json", FILES.suite()),
    "inventory": _data("a.json", FILES.inventory()),
    "playbook": _data("a.json", FILES.BULLETS),
    "QA dataset": _data("a.json", FILES.QA),
    "memories, JSON": _data("a.json", [{"uuid": str(number), "value": text} for number, text in enumerate(TEXTS)]),
    "docstore": _data("docstore.json", FILES.DOCSTORE),
    "pairs, JSON": _data("a.json", FILES.PAIRS),
    "pairs, JSON Lines": _data("a.jsonl", _lines(FILES.PAIRS)),
    "pairs, gzip": _data("a.jsonl.gz", gzip.compress(_lines(FILES.PAIRS).encode(), mtime=0)),
    "pairs, CSV": _data("a.csv", _table(",")),
    "pairs, TSV": _data("a.tsv", _table("\t")),
    "pairs, Parquet": Reader(_parquet, lambda folder: read_dataset(folder / "a.parquet")),
    "BEIR and qrels": Reader(_beir, read_dataset),
}
READERS: dict[str, Reader] = {
    **DATA_READERS,
    "TREC run": Reader(lambda f: [_written(f, "run.txt", RUN)], lambda f: read_run(f / "run.txt")),
    "split": Reader(_split, lambda folder: Split.load(folder / "split.json")),
    "training data": Reader(_training_data, lambda folder: TrainingData.load(folder / "t.json")),
    "training settings, JSON": Reader(_config_json, lambda folder: TrainingConfig.load(folder / "c.json")),
    "training settings, YAML": Reader(
        lambda f: [_written(f, "c.yaml", "epochs: 2\nmode: full\ndimensions: [8]\nlearning_rate: 2e-5\n")],
        lambda folder: TrainingConfig.load(folder / "c.yaml"),
    ),
    "run configuration": Reader(
        lambda folder: [_written(folder, "c.yaml", config_text())],
        lambda folder: run_settings(folder / "c.yaml", {}),
        fraction=0.15,
    ),
    "report page": Reader(_run, _report_of, fraction=0.02),
    "report of a run": Reader(_run, lambda folder: RunFolder.open(folder).serving()),
    "values per query": Reader(
        lambda folder: [per_query_path(_run(folder)[0])],
        lambda folder: PerQuery.read(folder / "report.per_query.jsonl"),
    ),
    "manifest": Reader(_manifest, _read_manifest),
    "BM25 index": Reader(_bm25, _search_bm25),
    "BM25 index, forged": Reader(_bm25, _search_bm25, fraction=0.3, after=_forged_checksum),
    "vector cache": Reader(_cache, _look_up),
    "model record": Reader(_provenance, read_provenance),
    "export record": Reader(_export, ExportRecord.read),
    "model JSON": Reader(_model, _identify, fraction=0.5),
    "safetensors": Reader(_weights, _identify, fraction=0.5),
    "inverted file": Reader(_inverted_file, _search_inverted_file),
    "store description": Reader(_store, _open_store, fraction=0.06),
}
