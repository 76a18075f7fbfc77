"""TREC run files: one line `query Q0 document rank score tag` per hit."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text_files import iterate_lines
from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.utils.atomic import write_text

_SPACE = re.compile(r"\s")


@dataclass(frozen=True)
class TrecRun:
    """A run: per query id its hits as (document id, score), best first; a query without a hit is not in it."""

    tag: str
    hits: Mapping[str, Sequence[tuple[str, float]]]


def read_run(path: Path) -> TrecRun:
    """Read a run file, gzipped or not.

    Hits are ordered by score, as in trec_eval; ties by the rank in the file (trec_eval: by descending document id). The
    tag is that of the first line.

    Raises:
        DatasetError: with file and line, for a line without six fields, a rank that is not an integer, a score that is
            not a finite number, or a document that is repeated for a query; for a file without a hit.
    """
    found: dict[str, dict[str, tuple[float, int]]] = {}
    tag = ""
    for number, line in iterate_lines(path):
        if not line or line.isspace():
            continue
        place = SourceLocation(str(path), number)
        fields = line.split()
        if len(fields) != 6:
            raise DatasetError(f"{place}: the line has {len(fields)} fields; write query Q0 document rank score tag.")
        query, _, document, rank, score, line_tag = fields
        held = found.setdefault(query, {})
        if document in held:
            raise DatasetError(f"{place}: document {document!r:.80} is repeated for query {query!r:.80}; remove one.")
        held[document] = (_score(score, place), _rank(rank, place))
        tag = tag or line_tag
    if not found:
        raise DatasetError(f"{path}: the run file has no hits; give a run file with at least one line.")
    hits = {
        query: tuple(
            (document, score) for document, (score, _) in sorted(held.items(), key=lambda hit: (-hit[1][0], hit[1][1]))
        )
        for query, held in found.items()
    }
    return TrecRun(tag, hits)


def write_run(path: Path, run: TrecRun) -> None:
    """Write a run file atomically; ranks count from 1, and scores read back exactly equal.

    Raises:
        DatasetError: for an id or a tag that is empty or contains a space, since no reader could separate the fields;
            for scores that are not finite or not in descending order.
    """
    for name in (run.tag, *run.hits, *(document for held in run.hits.values() for document, _ in held)):
        if not name or _SPACE.search(name):
            raise DatasetError(
                f"{path}: the id {name!r:.80} is empty or contains a space, which run files do not allow; rename it."
            )
    lines = []
    for query, held in run.hits.items():
        scores = [score for _, score in held]
        if not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
            raise DatasetError(
                f"{path}: the scores of query {query!r:.80} are not finite or not in descending order; sort them."
            )
        lines += [
            f"{query} Q0 {document} {rank} {float(score)!r} {run.tag}\n"
            for rank, (document, score) in enumerate(held, start=1)
        ]
    write_text(path, "".join(lines))


def run_to_rankings(
    run: TrecRun, *, query_ids: Sequence[str], corpus_ids: Sequence[str], other_queries: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Return a run as rankings int32 [n, depth], padded with -1, and scores float64 [n, depth] (0 at padding).

    A query that is not in the run has an empty ranking, and so counts as 0.

    Args:
        run: the run.
        query_ids: the judged queries, in the order of the result.
        corpus_ids: document ids by corpus row.
        other_queries: ignore queries of the run that are not in `query_ids`, instead of raising.

    Raises:
        DatasetError: if the run shares no query with `query_ids`, has other queries without `other_queries`, or has a
            document that is not in the corpus.
    """
    wanted = set(query_ids)
    others = [query for query in run.hits if query not in wanted]
    if run.hits and len(others) == len(run.hits):
        raise DatasetError(
            f"The run {run.tag!r} shares no query with the qrels: it has {others[0]!r:.80} and they "
            f"{next(iter(query_ids), '')!r:.80}; give a run with the same ids."
        )
    if others and not other_queries:
        raise DatasetError(
            f"The run {run.tag!r} has {len(others)} queries that are not in the qrels, such as {others[0]!r:.80}; "
            "give a run and qrels of the same queries."
        )
    row_of = {identifier: row for row, identifier in enumerate(corpus_ids)}
    depth = max((len(held) for query, held in run.hits.items() if query in wanted), default=0)
    rankings = np.full((len(query_ids), depth), -1, np.int32)
    scores = np.zeros((len(query_ids), depth))
    for number, query in enumerate(query_ids):
        for place, (document, score) in enumerate(run.hits.get(query, ())):
            if document not in row_of:
                raise DatasetError(
                    f"The run {run.tag!r} has document {document!r:.80} for query {query!r:.80}, which is not in the "
                    "corpus; give a run with the same ids."
                )
            rankings[number, place], scores[number, place] = row_of[document], score
    return rankings, scores


def _score(text: str, place: SourceLocation) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise DatasetError(f"{place}: the score {text!r:.80} is not a finite number; give a number.")
    return score


def _rank(text: str, place: SourceLocation) -> int:
    if not re.fullmatch(r"\d{1,18}", text, re.ASCII):
        raise DatasetError(f"{place}: the rank {text!r:.80} is not an integer of 0 or more; number the hits from 1.")
    return int(text)
