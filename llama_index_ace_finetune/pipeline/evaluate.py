"""Evaluate a model folder on queries that it has not seen."""

from __future__ import annotations

import random
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.known_queries import KnownQueries
from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.splits.unseen_queries import unseen_queries
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance, settings_of_base
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.corpus_windows import CorpusWindows
from llama_index_ace_finetune.evaluation.decision.verdict import Verdict, reach_verdict
from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
from llama_index_ace_finetune.evaluation.report.report import build_report, write_report
from llama_index_ace_finetune.evaluation.report.run_files import check_run_files, write_run_files
from llama_index_ace_finetune.evaluation.result import Evaluation
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.learning_curve import train_curve
from llama_index_ace_finetune.pipeline.report_context import report_context
from llama_index_ace_finetune.pipeline.sparse_encoder import load_sparse_vectors, record_sparse_encoder
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.utils.atomic import require_regular
from llama_index_ace_finetune.utils.new_folder import require_writable


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluation, its verdict, and the report of both as JSON values."""

    evaluation: Evaluation
    verdict: Verdict
    report: dict[str, Any]


def evaluate(
    data: Data,
    model: str | Path,
    *,
    memories: Memories | None = None,
    columns: str | None = None,
    out: str | Path | None = None,
    run_files: str | Path | None = None,
    max_queries: int | None = None,
    base_model: str | None = None,
    also: Sequence[str] = (),
    runs: Sequence[Path] = (),
    curve: Sequence[int] = (),
    query_ms: float | None = None,
    bytes_per_memory: float | None = None,
    sparse_encoder: str | None = None,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    command: str = "",
    title: str = "",
    events: PipelineEvents | None = None,
) -> EvaluationResult:
    """Compare BM25, base model, tuned model, hybrids and further systems on queries that the model has not seen.

    Args:
        data: a dataset, or a file or folder in any format that `read_dataset` takes.
        model: folder of the tuned model; its record says what it was trained on.
        memories: further memories, so that the corpus is the one of production.
        columns: names of the columns of a table, as `read_dataset` takes them.
        out: JSON file to write; the HTML page and the values of every query are written beside it.
        run_files: folder for TREC files: a run of each system, and `qrels.txt`.
        max_queries: evaluate on a random sample of N queries.
        base_model: baseline to compare with; by default the recorded base model.
        also: further untuned models to compare with, by folder or hub name.
        runs: TREC run files to compare with.
        curve: also train on subsets of N queries of the run's training data, for a learning curve.
        query_ms: milliseconds per query, encoding included, that the system to serve may take.
        bytes_per_memory: bytes per memory that the system to serve may store.
        sparse_encoder: folder or hub name of a sparse encoder, to compare systems with it too.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`.
        command: named in the report as the way to reproduce it.
        title: of the report; by default the name of the data.
        events: receives progress.

    Raises:
        LeakageError: if the model was trained on a query that its split holds out.
        DatasetError: for data that cannot be read, or if no unseen query is left.
        ModelError: if a model cannot be loaded.
        OutputExistsError: if `out` is a folder.
    """
    output = None if out is None else check_report_output(Path(out))
    limits = ServingLimits(query_ms=query_ms, bytes_per_memory=bytes_per_memory)
    for name in (model, *([base_model] if base_model else []), *also):
        resolve_checkpoint(name)
    sparse = load_sparse_vectors(sparse_encoder, device=device) if sparse_encoder else None
    dataset = read_dataset(data, memories, columns=columns)
    if run_files is not None:
        check_run_files(Path(run_files), (*dataset.queries, *dataset.answers))
    result = evaluate_model(
        dataset,
        Path(model),
        selected=_selected_of(Path(model)),
        base_model=base_model,
        max_queries=max_queries,
        also=also,
        runs=runs,
        curve=curve,
        limits=limits,
        sparse=sparse,
        device=device,
        precision=precision,
        command=command,
        title=title,
        events=events,
    )
    if output is not None:
        write_report(result.report, output, evaluation=result.evaluation)
    if run_files is not None:
        write_run_files(Path(run_files), result.evaluation)
    return result


def check_report_output(path: Path) -> Path:
    """Return the path if a report can be written there.

    Raises:
        OutputExistsError: if it is a folder.
        DatasetError: if its suffix is not .json.
        AceFinetuneError: if nothing can be written there.
    """
    if path.is_dir():
        raise OutputExistsError(f"The output {str(path)!r} is a directory; give the path of a JSON file.")
    if path.suffix != ".json":
        raise DatasetError(f"The output {str(path)!r} should end in .json; an .html page is written beside it.")
    require_writable(path)
    require_regular(path)
    return path


def evaluate_model(
    dataset: RetrievalDataset,
    model: Path,
    *,
    selected: Path | None = None,
    refit: Mapping[str, Any] | None = None,
    max_queries: int | None = None,
    base_model: str | None = None,
    also: Sequence[str] = (),
    runs: Sequence[Path] = (),
    curve: Sequence[int] = (),
    limits: ServingLimits | None = None,
    sparse: StoredSparseVectors | None = None,
    kept_tokens: MutableMapping[str, TokenReranker] | None = None,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    cache: Path | None = None,
    tuned: Encoder | None = None,
    command: str = "",
    title: str = "",
    run: str = "",
    seed: int = 0,
    events: PipelineEvents | None = None,
) -> EvaluationResult:
    """Compare BM25, base, tuned, hybrids and further systems on the queries that the model has not seen.

    Args:
        dataset: corpus, queries and judgements.
        model: the model folder; its record names its training queries and its base model.
        selected: folder of its weights before they were trained on the dev queries too; these choose on dev.
        refit: of the model that was trained on every query afterwards and ships in place of this one, as its record
            has it, for the report.
        max_queries: evaluate on a random sample of N queries.
        base_model: baseline to compare with; by default the recorded base model.
        also: further untuned models to compare with, by folder or name.
        runs: TREC run files to compare with.
        curve: also train on subsets of N queries of the run's training data, for a learning curve.
        limits: of the system to serve.
        sparse: of a sparse encoder, to compare systems with it too; the vectors of the corpus are added to it.
        kept_tokens: receives the token vectors of the corpus, as in `evaluate_systems`.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`. The report names the one that was used.
        cache: folder for vectors.
        tuned: the model, if it is loaded already.
        command: named in the report as the way to reproduce it.
        title: of the report; by default the name of the data.
        run: name of the run folder, for the next steps in the report; that of the model by default.
        seed: of the sample.
        events: receives progress.
    """
    settings = EncoderSettings(device=device, precision=precision)
    tuned = tuned or Encoder.load(model, settings=settings)
    record = read_provenance(model)
    queries = unseen_queries(dataset, record)
    chooser = None
    if selected is not None:
        chooser = Encoder.load(selected, settings=settings)
        queries = replace(queries, dev=unseen_queries(dataset, read_provenance(selected)).dev)
    test = list(queries.test)
    if max_queries is not None and len(test) > max_queries:
        test = sorted(random.Random(seed).sample(test, max_queries))
    test_known = queries.test_known[:max_queries]
    base_name = base_model or (record or {}).get("base_model") or DEFAULT_BASE_MODEL
    base = Encoder.load(base_name, settings=settings_of_base(record, base_name, settings))
    others = [Encoder.load(name, settings=settings) for name in also]
    # Texts for vectors, and the corpus for token vectors.
    count = len(test) + len(queries.dev) + len(test_known) + len(queries.dev_known)
    known = KnownQueries.of(dataset, record) if queries.dev_known else None
    total = (2 + len(others)) * (count + len(dataset.answers)) + 2 * len(dataset.answers)
    corpus = [memory.text for memory in dataset.answers.values()]
    total += 0 if sparse is None else len(sparse.missing(corpus))
    models = {"base": base, **({"tuned": tuned} if tuned.fingerprint != base.fingerprint else {})}
    windows = {name: CorpusWindows.of(encoder, corpus) for name, encoder in models.items()}
    total += sum(len(one.texts) for one in windows.values())
    if chooser is not None:
        total += count + 2 * len(dataset.answers) + len(windows["tuned"].texts if "tuned" in windows else ())
    total += 2 * len(known.texts) if known else 0
    events = events or PipelineEvents()
    with events.texts_progress("encoding", total) as advance:
        encoded = 0

        def progress(count: int) -> None:
            nonlocal encoded
            advance(count)
            encoded += count
            if encoded >= total:
                events.on_phase("evaluating")

        if sparse is not None:
            sparse.add(corpus, progress=progress)
        evaluation = evaluate_systems(
            dataset,
            test=test,
            dev=queries.dev,
            test_known=test_known,
            dev_known=queries.dev_known,
            known_queries=known,
            base=base,
            tuned=tuned,
            selected=chooser,
            also=others,
            runs=runs,
            cache=cache,
            sparse=sparse,
            windows=windows,
            limits=limits,
            kept_tokens=kept_tokens,
            progress=progress,
        )
        refit = refit or shipped_refit(record)
        verdict = reach_verdict(evaluation, (record or {}).get("selection"), refit=refit)
    learning_curve = None
    if curve:
        data = TrainingData.load(model.resolve().parent / "training_data.json")
        learning_curve = train_curve(
            evaluation, data, curve, record=record or {}, device=device, cache=cache, seed=seed, events=events
        )
    context = report_context(
        dataset,
        record,
        base_model=str(base_name),
        model=model,
        test=test,
        refit=refit,
        learning_curve=learning_curve,
        warnings=queries.warnings,
        title=title,
        command=command,
        run=run,
    )
    report = {**build_report(evaluation, verdict, context), "precision": base.compute_backend}
    if sparse is not None:
        record_sparse_encoder(report, sparse)
    return EvaluationResult(evaluation, verdict, report)


def _selected_of(model: Path) -> Path | None:
    """Return the weights that a run selected on dev, if its model was then trained on the dev queries too."""
    refit, run = shipped_refit(read_provenance(model)), RunFolder.of_model(model)
    return run.selected if refit and run and run.model == model.resolve() and run.selected.is_dir() else None
