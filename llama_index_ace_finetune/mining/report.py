"""What a mining run found, for people and for training_data.json."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.plot import mining_picture
from llama_index_ace_finetune.mining.results import MinedNegative, MinedNegatives
from llama_index_ace_finetune.utils.atomic import write_json

# The original's published file held 12 distinct texts in 5,190 places: a sign of a broken index, not of hard negatives.
_FEW_DISTINCT = 0.01
_LONG = ("histograms", "samples")


def mining_report(mined: MinedNegatives, *, queries: int, wanted: int) -> dict[str, Any]:
    """Return what `save_mining_report` writes, as plain numbers.

    `candidates` = `kept` + all of `filtered` + `not_needed`. `passing` is the yield of each filter: of the candidates
    that reached it, the share that passed.
    """
    return {
        "queries": queries,
        "wanted_per_query": wanted,
        "candidates": mined.candidates,
        "candidates_per_source": {name: count for name, count in mined.found.items() if count},
        "filtered": mined.filtered,
        "passing": mined.passing_shares,
        "relaxed": [
            {"relative_margin": step.relative_margin, "queries": step.queries, "negatives": step.negatives}
            for step in mined.relaxed
        ],
        "kept": mined.kept,
        "not_needed": mined.not_needed,
        "distinct": mined.distinct,
        "queries_with_fewer": int(((mined.rows >= 0).sum(axis=1) < wanted).sum()),
        "suspicious": bool(mined.kept > 500 and mined.distinct < _FEW_DISTINCT * mined.kept),
        "histograms": mined.histograms.to_dict(),
    }


def mining_counts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a report that is short enough for training_data.json."""
    return {name: value for name, value in report.items() if name not in _LONG}


def require_some(mined: MinedNegatives) -> None:
    """Raise DatasetError, naming the filter that took most, where not a single negative is left."""
    if mined.kept or not len(mined.rows):
        return
    if not mined.candidates:
        raise DatasetError("No candidates for hard negatives were found; the corpus needs more than the right answers.")
    worst = max(mined.filtered, key=lambda name: mined.filtered[name])
    raise DatasetError(
        f"All {mined.candidates} candidates for hard negatives were filtered, {mined.filtered[worst]} of them as "
        f"{worst!r}; add memories to the corpus or loosen that filter."
    )


SAMPLES = 20
_LETTERS = 200


def mining_samples(
    mined: MinedNegatives,
    *,
    queries: Sequence[str],
    corpus: Sequence[str],
    relevant: Sequence[NDArray[np.int64]],
    seed: int,
    count: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Draw `count` queries and return each with a right answer and its negatives; texts are cut to 200 characters.

    Args:
        mined: negatives of the queries.
        queries: their texts.
        corpus: texts of the corpus rows.
        relevant: right rows of each query; the first is shown.
        seed: of the draw.
        count: fewer come back where there are fewer queries.
    """
    chosen = sorted(random.Random(seed).sample(range(len(queries)), min(count, len(queries))))
    return [
        {
            "query": queries[query][:_LETTERS],
            "right": corpus[int(relevant[query][0])][:_LETTERS] if len(relevant[query]) else None,
            "right_answers": len(relevant[query]),
            "negatives": [_shown(negative, corpus) for negative in mined.negatives_of(query)],
        }
        for query in chosen
    ]


def _shown(negative: MinedNegative, corpus: Sequence[str]) -> dict[str, Any]:
    return {
        "text": corpus[negative.row][:_LETTERS],
        "source": negative.source,
        "rank": negative.rank,
        "score": _rounded(negative.score),
        "similarity": _rounded(negative.similarity),
        "found_by": {hit.source: {"rank": hit.rank, "score": _rounded(hit.score)} for hit in negative.hits},
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


REPORT_NAME = "mining_report.json"
PICTURE_NAME = "mining_report.png"


def save_mining_report(report: Mapping[str, Any], folder: str | Path) -> None:
    """Write `mining_report.json` and `mining_report.png` into a folder; files of these names are replaced.

    Args:
        report: `HardNegativeMiner.report` after a run.
        folder: made if it is not there.

    Raises:
        AceFinetuneError: if nothing was mined yet, or the folder is a file.
    """
    folder = Path(folder)
    if not report:
        raise AceFinetuneError("There is no mining report to save; mine first.")
    if folder.exists() and not folder.is_dir():
        raise AceFinetuneError(f"The folder for the mining report, {str(folder)!r}, is a file; give a folder.")
    write_json(folder / REPORT_NAME, dict(report))
    mining_picture(report, folder / PICTURE_NAME)
