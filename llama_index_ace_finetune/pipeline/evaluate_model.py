"""Evaluate a model folder on queries that it has not seen."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.datasets.oracle import upper_bound
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import DatasetError, LeakageError
from llama_index_ace_finetune.evaluation.decision.verdict import Verdict, reach_verdict
from llama_index_ace_finetune.evaluation.evaluate import Evaluation, evaluate_systems
from llama_index_ace_finetune.evaluation.report.report import ReportContext, build_report
from llama_index_ace_finetune.pipeline.learning_curve import train_curve
from llama_index_ace_finetune.utils.console import texts_progress


@dataclass(frozen=True)
class EvaluatedModel:
    """An evaluation with its verdict and the report made of both."""

    evaluation: Evaluation
    verdict: Verdict
    report: dict[str, Any]


@dataclass(frozen=True, slots=True)
class UnseenQueries:
    """Query ids that may be tested on, those that choices may be made on, and what a reader must know."""

    test: tuple[str, ...]
    dev: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def unseen_queries(dataset: RetrievalDataset, record: Mapping[str, Any] | None) -> UnseenQueries:
    """Divide a dataset's queries by what a model's record says that it has seen.

    A query is seen if its text, or the text of one of its right answers, was trained on or chosen on. Of the data that
    the model's split is of, only what it holds out is tested on; of other data, all that was not seen.

    Raises:
        LeakageError: if a query that the model's split holds out was seen all the same.
        DatasetError: if nothing is left to test on.
    """
    labelled = [query_id for query_id in dataset.queries if dataset.relevant(query_id)]
    if record is None:
        warning = "It is not known what this model was trained on; if it saw these queries, its figures are too high."
        return UnseenQueries(test=tuple(labelled), dev=(), warnings=(warning,))
    seen = record.get("seen") or {}
    train, dev = (_Seen(seen.get(part) or {}) for part in ("train", "dev"))
    held_out = set(((record.get("split") or {}).get("queries") or {}).get("test", {}).values())
    hashes = {query_id: text_hash(dataset.queries[query_id].text) for query_id in labelled}
    others = held_out.isdisjoint(hashes.values())
    chosen: dict[str, list[str]] = {"test": [], "dev": []}
    for query_id, query in hashes.items():
        answers = {text_hash(dataset.memories[answer].text) for answer in dataset.relevant(query_id)}
        if query in held_out and (train.holds(query, answers) or dev.holds(query, answers)):
            raise LeakageError(
                f"{dataset.name}: the query {query_id!r} is held out for testing, but the model has seen it or one of "
                "its right answers; split and train again."
            )
        if train.holds(query, answers):
            continue
        if dev.holds(query, answers):
            if query in dev.queries:
                chosen["dev"].append(query_id)
        elif others or query in held_out:
            chosen["test"].append(query_id)
    if not chosen["test"]:
        raise DatasetError(
            f"{dataset.name}: the model was trained on all of these queries or their answers, so none is left to test "
            "it on; evaluate on other data."
        )
    warning = (
        "None of these queries is one that the model's split holds out; those that it has not seen word for word were "
        "tested, of which some may be close to those that it has."
    )
    return UnseenQueries(tuple(chosen["test"]), tuple(chosen["dev"]), (warning,) if others and held_out else ())


class _Seen:
    def __init__(self, part: Mapping[str, Any]) -> None:
        self.queries = frozenset(part.get("query_hashes") or ())
        self.answers = frozenset(part.get("answer_hashes") or ())

    def holds(self, query: str, answers: set[str]) -> bool:
        return query in self.queries or not self.answers.isdisjoint(answers)


def evaluate_model(
    dataset: RetrievalDataset,
    model: Path,
    *,
    max_queries: int | None = None,
    base_model: str | None = None,
    also: Sequence[str] = (),
    runs: Sequence[Path] = (),
    curve: Sequence[int] = (),
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    cache: Path | None = None,
    tuned: Encoder | None = None,
    command: str = "",
    seed: int = 0,
) -> EvaluatedModel:
    """Compare BM25, base, tuned, hybrids and further systems on the queries that the model has not seen.

    Args:
        dataset: corpus, queries and judgements.
        model: the model folder; its record says what it has seen and what its base is.
        max_queries: test on a random sample of so many.
        base_model: baseline to compare with; the recorded base by default.
        also: further untuned models to compare with, by folder or name.
        runs: TREC run files to compare with.
        curve: train on so many queries of the run's training data too, and draw what more data gives.
        device: torch device.
        precision: of all vectors; see `EncoderSettings`. The report names what was used.
        cache: folder for vectors.
        tuned: the model, if it is loaded already.
        command: what the report names as the way to reproduce it.
        seed: of the sample.
    """
    settings = EncoderSettings(device=device, precision=precision)
    tuned = tuned or Encoder.load(model, settings=settings)
    record = read_provenance(model)
    queries = unseen_queries(dataset, record)
    test = list(queries.test)
    if max_queries is not None and len(test) > max_queries:
        test = sorted(random.Random(seed).sample(test, max_queries))
    base_name = base_model or (record or {}).get("base_model") or DEFAULT_BASE_MODEL
    base = Encoder.load(base_name, settings=settings)
    others = [Encoder.load(name, settings=settings) for name in also]
    total = (2 + len(others)) * (len(test) + len(queries.dev) + len(dataset.answers))
    with texts_progress("evaluating", total) as progress:
        evaluation = evaluate_systems(
            dataset,
            test=test,
            dev=queries.dev,
            base=base,
            tuned=tuned,
            also=others,
            runs=runs,
            cache=cache,
            progress=progress,
        )
    verdict = reach_verdict(evaluation, (record or {}).get("selection"))
    learning_curve = None
    if curve:
        data = TrainingData.load(model.resolve().parent / "training_data.json")
        learning_curve = train_curve(
            evaluation, data, curve, record=record or {}, device=device, cache=cache, seed=seed
        )
    context = ReportContext(
        title=f"{dataset.name}: does fine-tuning help?",
        base_model=str(base_name),
        tuned_model=str(model),
        split=_split_facts((record or {}).get("split") or {}),
        data=_data_facts(dataset),
        training={name: (record or {}).get(name) for name in ("selection", "metrics", "config", "history")},
        learning_curve=learning_curve,
        ceiling=upper_bound(_only(dataset, test)),
        seen_answers=_seen_answers(dataset, record),
        warnings=queries.warnings,
        command=command,
    )
    report = {**build_report(evaluation, verdict, context), "precision": base.computed_in}
    return EvaluatedModel(evaluation, verdict, report)


def _only(dataset: RetrievalDataset, query_ids: Sequence[str]) -> RetrievalDataset:
    return replace(
        dataset,
        queries={query_id: dataset.queries[query_id] for query_id in query_ids},
        judgements={query_id: dataset.judgements.get(query_id, {}) for query_id in query_ids},
    )


def _seen_answers(dataset: RetrievalDataset, record: Mapping[str, Any] | None) -> frozenset[str] | None:
    if record is None:
        return None
    hashes = frozenset(((record.get("seen") or {}).get("train") or {}).get("answer_hashes") or ())
    return frozenset(i for i, memory in dataset.answers.items() if text_hash(memory.text) in hashes)


def _split_facts(split: Mapping[str, Any]) -> dict[str, Any]:
    if not split:
        return {}
    manifest = json.dumps(split, sort_keys=True, ensure_ascii=False)
    return {
        **{name: split.get(name) for name in ("counts", "settings", "notes")},
        "sha256": hashlib.sha256(manifest.encode("utf-8")).hexdigest(),
    }


def _data_facts(dataset: RetrievalDataset) -> dict[str, Any]:
    return {
        "name": dataset.name,
        "format": dataset.ledger.format,
        "memories": len(dataset.memories),
        "distinct_memories": len(dataset.answers),
        "queries": len(dataset.queries),
        "repairs": dict(dataset.ledger.counts),
    }
