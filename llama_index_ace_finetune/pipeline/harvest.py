"""Turn a query log with feedback into data to train on."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.splits.earlier import EARLIER_FIELD, EarlierSplit
from llama_index_ace_finetune.datasets.splits.manifest import Split
from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.judgements import HarvestSettings, Judgement, Judgements, judgements_of
from llama_index_ace_finetune.production.judgements import labels as describe_counts
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import Memories, read_dataset
from llama_index_ace_finetune.utils.atomic import new_file, require_regular, write_json

__all__ = ["HarvestResult", "HarvestSettings", "describe_counts", "harvest"]


@dataclass(frozen=True, kw_only=True, slots=True)
class HarvestResult:
    """What was harvested.

    Attributes:
        path: data, one judged pair a line.
        memories: all memories, for the option --memories of the other verbs.
        report: counts, and samples of what was left out; also written beside the data.
    """

    path: Path
    memories: Path
    report: Mapping[str, Any]


def harvest(
    log: str | Path,
    out: str | Path,
    *,
    run: str | Path | None = None,
    memories: Memories | None = None,
    settings: HarvestSettings | None = None,
) -> HarvestResult:
    """Write the judgements of a query log as pairs that `run` and every other verb reads.

    `OUT` holds a query, a memory and a grade per line: 1 for a positive, 0 for a memory that was judged not relevant,
    which mining takes as the first negative. Beside it, `NAME.memories.jsonl` holds all memories, and
    `NAME.report.json` the counts. With `run`, each query says what the earlier run did with it (`earlier_split`), so
    that a split of these data trains on no test query of that run, and tests on nothing that it trained on.

    Args:
        log: path of the query log.
        out: file to write, such as `data.jsonl`.
        run: the run that was served; its memories are used.
        memories: further or current memories: a path, the address of a Qdrant collection, or LlamaIndex nodes; needed
            without a run.
        settings: when a use counts as a positive.

    Raises:
        LogError: if the log cannot be read.
        AceFinetuneError: if there are neither a run nor memories, or nothing in the log can be used.
    """
    out = Path(out)
    if out.suffix != ".jsonl":
        raise AceFinetuneError(f"The output {str(out)!r} is JSON Lines; give a path that ends in .jsonl.")
    require_regular(out)
    earlier, texts = _earlier_and_texts(None if run is None else RunFolder.open(Path(run)), memories)
    with QueryLog.open(log, read_only=True) as opened:
        judgements = judgements_of(opened.records, opened.feedback_records(), settings)
    rows = _rows(judgements, texts, earlier)
    counts = judgements.counts
    if not any(row["label"] for row in rows):
        found = "; ".join(describe_counts(counts)) or "it is empty"
        raise AceFinetuneError(f"The query log {str(log)!r} has no positive to train on ({found}); collect feedback.")
    all_memories = out.with_name(f"{out.stem}.memories.jsonl")
    report = {
        "log": str(log),
        "run": None if run is None else str(run),
        "settings": vars(settings or HarvestSettings()),
        "counts": dict(counts),
        "samples": {
            name: [{"query": query, "memory_id": node_id} for query, node_id in some]
            for name, some in judgements.samples.items()
        },
    }
    _write_lines(all_memories, [{**_metadata(m), "id": m.id, "text": m.text} for m in texts.values()])
    write_json(out.with_name(f"{out.stem}.report.json"), report)
    _write_lines(out, rows)
    return HarvestResult(path=out, memories=all_memories, report=report)


def _earlier_and_texts(
    run: RunFolder | None, memories: Memories | None
) -> tuple[EarlierSplit | None, dict[str, Memory]]:
    """Return the split of the run, and the memories by id; those of `memories` override those of the run."""
    if run is None and memories is None:
        raise AceFinetuneError("A harvest needs the texts of the memories; give --run RUN, or --memories FILE.")
    texts: dict[str, Memory] = {}
    if run is not None:
        manifest = run.read_manifest()
        sources = [source for source in (manifest.get("data"), manifest.get("memories")) if source is not None]
        if not sources and memories is None:
            raise AceFinetuneError(f"The run in {str(run.path)!r} names no data; give its memories with --memories.")
        if sources:
            of_run = read_dataset(*sources, columns=manifest.get("columns"))
            texts.update(of_run.memories)
    if memories is not None:
        texts.update(read_dataset(memories).memories)
    return None if run is None else EarlierSplit.of_manifest(Split.load(run.split).manifest()), texts


def _rows(judgements: Judgements, texts: Mapping[str, Memory], earlier: EarlierSplit | None) -> list[dict[str, Any]]:
    usable: dict[str, list[Judgement]] = {}
    for one in judgements.found:
        if one.node_id in texts:
            usable.setdefault(one.query, []).append(one)
        else:
            judgements.leave_out("memory_without_text", one.query, one.node_id)
    rows, parts = [], Counter[str]()
    for query, found in usable.items():
        positives = [texts[one.node_id].text for one in found if one.relevant]
        part = earlier.part(query, positives) if earlier else None
        if positives and earlier:
            parts[f"{part or 'new'}_queries"] += 1
        for one in found:
            row = {"query": query, "memory_id": one.node_id, "passage": texts[one.node_id].text}
            rows.append({**row, "label": int(one.relevant), **({EARLIER_FIELD: part} if part else {})})
    judgements.counts.update(parts)
    return rows


def _metadata(memory: Memory) -> dict[str, Any]:
    return {name: value for name, value in memory.metadata.items() if name not in ("text", "id", "payload")}


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    with new_file(path) as handle:
        for row in rows:
            handle.write(f"{json.dumps(row, ensure_ascii=False, default=str)}\n".encode())
