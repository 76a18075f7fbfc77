"""Write an evaluation as TREC files for other tools: one run per system, and the qrels."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import numpy as np

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.metrics.trec_run import TrecRun, write_run
from llama_index_ace_finetune.evaluation.result import Evaluation
from llama_index_ace_finetune.evaluation.systems import EvaluationSet, System
from llama_index_ace_finetune.utils.atomic import write_text
from llama_index_ace_finetune.utils.new_folder import new_folder, require_replaceable

QRELS: Final = "qrels.txt"
_KIND: Final = "run files"


def check_run_files(folder: Path, identifiers: Iterable[str]) -> None:
    """Raise the errors of `write_run_files` before any work."""
    require_replaceable(folder, kind=_KIND)
    for identifier in identifiers:
        if not identifier or re.search(r"\s", identifier):
            raise DatasetError(
                f"The id {identifier!r:.80} is empty or contains a space, which run files do not allow; rename it, "
                "or do not write run files."
            )


def write_run_files(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write `qrels.txt` and a run file of each system; return their paths.

    The lines are in the order of the rankings. Scores are strictly decreasing, so that a tool that sorts by score keeps
    the order: equal scores are written one float32 step apart, and fused rankings, which have no scores, count down.
    Run files of an earlier call are replaced.

    Raises:
        OutputExistsError: if the folder contains other files.
        DatasetError: for an id that is empty or contains a space.
    """
    data = evaluation.data
    check_run_files(folder, (*data.query_ids, *data.corpus_ids))
    names = [QRELS]
    with new_folder(folder, kind=_KIND) as fresh:
        write_text(fresh / QRELS, _qrels(data))
        for system in evaluation.systems:
            tag = _tag(system.name)
            if f"{tag}.run" in names:
                tag = f"{tag}-{len(names)}"
            names.append(f"{tag}.run")
            write_run(fresh / names[-1], TrecRun(tag, _hits(system, data)))
    return [folder / name for name in names]


def _qrels(data: EvaluationSet) -> str:
    lines = []
    for place, query in enumerate(data.query_ids):
        rows = data.relevant[place].tolist()
        grades = [1.0] * len(rows) if data.grades is None else data.grades[place].tolist()
        lines += [f"{query} 0 {data.corpus_ids[row]} {grade:g}\n" for row, grade in zip(rows, grades, strict=True)]
    return "".join(lines)


def _hits(system: System, data: EvaluationSet) -> dict[str, list[tuple[str, float]]]:
    hits: dict[str, list[tuple[str, float]]] = {}
    for place, query in enumerate(data.query_ids):
        rows = system.rankings[place].tolist()
        depth = len(rows)
        scores = [float(depth - rank) for rank in range(depth)] if system.scores is None else system.scores[place]
        found: list[tuple[str, float]] = []
        for row, score in zip(rows, scores, strict=True):
            if row < 0:
                continue
            # A hit that is not in the corpus keeps its rank.
            name = data.corpus_ids[row] if row < len(data.corpus_ids) else f"not-in-the-corpus-{row}"
            # In float32, the precision of trec_eval.
            highest = np.nextafter(np.float32(found[-1][1]), np.float32(-np.inf)) if found else np.float32(np.inf)
            found.append((name, float(min(np.float32(score), highest))))
        if found:
            hits[query] = found
    return hits


def _tag(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "system"
