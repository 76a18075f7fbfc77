"""Compare two systems in production, from a query log."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.compared_queries import shadow_queries
from llama_index_ace_finetune.production.live_comparison import LiveComparison
from llama_index_ace_finetune.production.live_comparison import compare_live as compare_systems
from llama_index_ace_finetune.production.plots import credit_plot, svg_document
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.utils.atomic import write_text

JUDGED_QUERIES: Final = 200
_COLUMNS: Final = ("query_id", "node_id", "value", "query", "text")
# A spreadsheet would run a text that starts so as a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def compare_live(
    log: str | Path, *, name: str | None = None, alpha: float = 0.05, plot: str | Path | None = None
) -> LiveComparison:
    """Compare the two systems of an `InterleavedRetriever`, a `UserSplit` or a `ShadowRetriever` by their feedback.

    Args:
        log: query log.
        name: of the comparison; not needed if the log has only one.
        alpha: probability that the interval ever misses the true value.
        plot: SVG file to write: the interval over time.

    Raises:
        AceFinetuneError: for a log that cannot be read or has no such comparison, or a plot that cannot be written.
    """
    with QueryLog.open(log, read_only=True) as opened:
        found = compare_systems(opened, name=name, alpha=alpha)
    if plot is not None:
        drawn = credit_plot(found)
        if drawn is None:
            raise AceFinetuneError("A plot needs two queries or more; compare again when there are some.")
        _write(Path(plot), svg_document(drawn))
    return found


def write_judge_file(
    log: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    run: str | Path | None = None,
    queries: int = JUDGED_QUERIES,
    seed: int = 0,
) -> int:
    """Write the queries on which a shadow system differs, to be judged; return the number of rows.

    Each row is a result of one of the systems, in random order and without saying of which, with an empty `value`.
    Enter a value above 0 for relevant and below 0 for not relevant, and import the file with `ace-finetune feedback`.

    Args:
        log: query log.
        out: file to write: `.jsonl`, else CSV.
        name: of the comparison; not needed if the log has only one.
        run: run folder whose texts of the memories are added.
        queries: largest number of queries; those whose rankings have the least in common come first.
        seed: of the order.

    Raises:
        AceFinetuneError: if the log or the run cannot be read, the comparison is not a shadow, or the file cannot be
            written.
    """
    texts = {} if run is None else TrainingData.load(RunFolder.open(Path(run)).training_data).memories
    with QueryLog.open(log, read_only=True) as opened:
        rows = [*_judge_rows(opened, name, texts, queries, random.Random(seed))]
    if Path(out).suffix.lower() in (".jsonl", ".ndjson"):
        content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({**row, "query": _as_text(row["query"]), "text": _as_text(row["text"])} for row in rows)
        content = buffer.getvalue()
    _write(Path(out), content)
    return len(rows)


def _judge_rows(
    log: QueryLog, name: str | None, texts: Mapping[str, str], queries: int, order: random.Random
) -> Iterator[dict[str, Any]]:
    for served, unseen, _ in shadow_queries(log, name)[:queries]:
        ids = sorted({hit.node_id for hit in (*served.hits, *unseen.hits)})
        order.shuffle(ids)
        for node_id in ids:
            yield {"query_id": served.query_id, "node_id": node_id, "value": "", "query": served.query,
                   "text": texts.get(node_id, "")}  # fmt: skip


def _as_text(value: str) -> str:
    return f"'{value}" if value.startswith(_FORMULA) else value


def _write(path: Path, content: str) -> None:
    try:
        write_text(path, content)
    except OSError as error:
        raise AceFinetuneError(
            f"The file {str(path)!r} cannot be written ({error.strerror}); give another path."
        ) from error
