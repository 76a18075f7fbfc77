"""What a report says beside the figures: the data, the split and the training, from a dataset and a model's record."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.oracle import upper_bound
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.evaluation.report.learning_curve import LearningCurve
from llama_index_ace_finetune.evaluation.report.report import ReportContext
from llama_index_ace_finetune.run_folder import RunFolder


def report_context(
    dataset: RetrievalDataset,
    record: Mapping[str, Any] | None,
    *,
    base_model: str,
    model: Path,
    test: Sequence[str],
    refit: Mapping[str, Any] | None,
    learning_curve: LearningCurve | None,
    warnings: tuple[str, ...],
    title: str,
    command: str,
    run: str,
) -> ReportContext:
    """Return the context of an evaluation.

    Args:
        dataset: that was evaluated on.
        record: of the model; None for one that this package did not train.
        base_model: name of the base model.
        model: folder of the tuned model.
        test: ids of the queries that were measured.
        refit: of the model that ships, if it was trained on every query afterwards.
        learning_curve: if one was measured.
        warnings: for the reader.
        title: by default the name of the data.
        command: the command that reproduces the report.
        run: name of the run folder; that of the model by default.
    """
    return ReportContext(
        title=title or f"{dataset.name}: does fine-tuning help?",
        base_model=base_model,
        tuned_model=str(model),
        split=_split_facts((record or {}).get("split") or {}),
        data=_data_facts(dataset),
        training=_training_facts(record, refit),
        learning_curve=learning_curve,
        ceiling=upper_bound(_only(dataset, test)),
        seen_answers=_seen_answers(dataset, record),
        warnings=warnings,
        command=command,
        run=run or _run_name(model),
    )


def _training_facts(record: Mapping[str, Any] | None, refit: Mapping[str, Any] | None) -> dict[str, Any]:
    found = {name: (record or {}).get(name) for name in ("selection", "metrics", "config", "history")}
    return {**found, "metrics": {**(found["metrics"] or {}), "refit": dict(refit)}} if refit else found


def _run_name(model: Path) -> str:
    run = RunFolder.of_model(model)
    return run.path.name if run else ""


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
