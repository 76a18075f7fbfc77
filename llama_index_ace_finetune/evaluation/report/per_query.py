"""Per-query values as JSON lines, so that runs can be compared later."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.text_files import iterate_lines
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, quoted
from llama_index_ace_finetune.evaluation.report.rank_changes import first_relevant_ranks
from llama_index_ace_finetune.evaluation.result import Evaluation
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.read_json import parse_json

_TOP = 5


def per_query_path(report: Path) -> Path:
    """Return the path of the per-query values of a report, in the same folder."""
    return report.with_suffix(".per_query.jsonl")


def write_per_query(evaluation: Evaluation, path: Path) -> None:
    """Write per query its text, its relevant documents and, per system, the measures, first relevant rank and top 5."""
    data = evaluation.data
    ranks = {one.name: first_relevant_ranks(one.rankings, data.relevant) for one in evaluation.systems}
    lines = []
    for row, query_id in enumerate(data.query_ids):
        systems = {
            system.name: {
                **{name: round(float(value[row]), 6) for name, value in evaluation.values[system.name].items()},
                "rank": int(ranks[system.name][row]) or None,
                "top": [data.corpus_ids[hit] for hit in system.rankings[row, :_TOP] if 0 <= hit < len(data.corpus)],
            }
            for system in evaluation.systems
        }
        record = {
            "query_id": query_id,
            "query": data.queries[row],
            "query_hash": text_hash(data.queries[row]),
            "group": data.groups[row],
            "right": [data.corpus_ids[int(hit)] for hit in data.relevant[row]],
            "metadata": evaluation.metadata.get(query_id, {}),
            "systems": systems,
        }
        lines.append(json.dumps(record, ensure_ascii=False, default=str) + "\n")
    write_text(path, "".join(lines))


@dataclass(frozen=True)
class PerQuery:
    """Per-query values of a report.

    Attributes:
        query_ids: in the order of the file.
        hashes: hashes of the query texts, to check whether two files have the same queries.
        groups: the resampling group of each query.
        values: per system and measure, float64 [n].
    """

    query_ids: tuple[str, ...]
    hashes: tuple[str, ...]
    groups: tuple[str, ...]
    values: Mapping[str, Mapping[str, NDArray[np.float64]]]

    @classmethod
    def read(cls, path: Path) -> PerQuery:
        """Read a file written by `write_per_query`.

        Raises:
            DatasetError: with file and line, for a damaged file.
            AceFinetuneError: if the file does not exist.
        """
        if not path.is_file():
            raise AceFinetuneError(
                f"The file {str(path)!r} does not exist; evaluate again to write it next to the report."
            )
        records = [
            _record(line, SourceLocation(str(path), number)) for number, line in iterate_lines(path) if line.strip()
        ]
        if not records:
            raise DatasetError(f"{path}: the file contains no query; evaluate again.")
        try:
            return cls(
                query_ids=tuple(str(record["query_id"]) for record in records),
                hashes=tuple(str(record["query_hash"]) for record in records),
                groups=tuple(str(record["group"]) for record in records),
                values={
                    system: {
                        measure: np.array([float(record["systems"][system][measure]) for record in records])
                        for measure in measured
                        if measure not in ("rank", "top")
                    }
                    for system, measured in records[0]["systems"].items()
                },
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{path}: a value is missing or invalid ({quoted(str(error))}); evaluate again."
            ) from error


def _record(line: str, place: SourceLocation) -> dict[str, Any]:
    try:
        record = parse_json(line, finite=True)
    except ValueError as error:
        raise DatasetError(f"{place}: the line is not valid JSON ({error}); evaluate again.") from error
    systems = record.get("systems") if isinstance(record, dict) else None
    if not isinstance(systems, dict) or not all(isinstance(measured, dict) for measured in systems.values()):
        raise DatasetError(f"{place}: the line is not a JSON object with the measures of systems; evaluate again.")
    return record  # type: ignore[no-any-return]
