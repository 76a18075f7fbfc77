"""Mining report: counts, histograms and samples of a mining run."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.plot import plot_mining
from llama_index_ace_finetune.mining.results import MinedNegative, MinedNegatives
from llama_index_ace_finetune.utils.atomic import write_json

# The file published with the original has 12 distinct texts among 5,190 negatives: a sign of a broken index.
_MIN_DISTINCT_FRACTION = 0.01
_LONG_KEYS = ("histograms", "samples")


def mining_report(mined: MinedNegatives, *, queries: int, wanted: int) -> dict[str, Any]:
    """Return the counts and histograms of a mining run, as JSON-compatible values.

    `candidates` = `kept` + all of `filtered` + `not_needed`. `passing` holds the acceptance rate of each filter: the
    fraction accepted of the candidates that reached it.
    """
    return {
        "queries": queries,
        "wanted_per_query": wanted,
        "candidates": mined.candidates,
        "candidates_per_source": {name: count for name, count in mined.candidates_per_source.items() if count},
        "filtered": mined.filtered,
        "passing": mined.acceptance_rates,
        "relaxed": [
            {"relative_margin": step.relative_margin, "queries": step.queries, "negatives": step.negatives}
            for step in mined.backoff_steps
        ],
        "kept": mined.kept,
        "not_needed": mined.not_needed,
        "distinct": mined.distinct,
        "queries_with_fewer": int(((mined.rows >= 0).sum(axis=1) < wanted).sum()),
        "suspicious": bool(mined.kept > 500 and mined.distinct < _MIN_DISTINCT_FRACTION * mined.kept),
        "histograms": mined.histograms.to_dict(),
    }


def mining_counts(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report without histograms and samples, for training_data.json."""
    return {name: value for name, value in report.items() if name not in _LONG_KEYS}


def require_negatives(mined: MinedNegatives) -> None:
    """Raise DatasetError if no negatives are left, naming the filter that rejected most candidates."""
    if mined.kept or not len(mined.rows):
        return
    if not mined.candidates:
        raise DatasetError(
            "No candidates for hard negatives were found; add documents to the corpus that are not positives."
        )
    worst = max(mined.filtered, key=lambda name: mined.filtered[name])
    raise DatasetError(
        f"All {mined.candidates} candidates for hard negatives were rejected, {mined.filtered[worst]} of them as "
        f"{worst!r}; add memories to the corpus or loosen that filter."
    )


SAMPLES = 20
_MAX_CHARACTERS = 200


def mining_samples(
    mined: MinedNegatives,
    *,
    queries: Sequence[str],
    corpus: Sequence[str],
    relevant: Sequence[NDArray[np.int64]],
    seed: int,
    count: int = SAMPLES,
) -> list[dict[str, Any]]:
    """Sample `count` queries and return each with a positive and its negatives; texts are cut to 200 characters.

    Args:
        mined: negatives of the queries.
        queries: texts of the queries.
        corpus: texts of the corpus rows.
        relevant: corpus rows of the positives of each query; the first is shown.
        seed: random seed.
        count: number of queries; all if there are fewer.
    """
    selected = sorted(random.Random(seed).sample(range(len(queries)), min(count, len(queries))))
    return [
        {
            "query": queries[query][:_MAX_CHARACTERS],
            "right": corpus[int(relevant[query][0])][:_MAX_CHARACTERS] if len(relevant[query]) else None,
            "right_answers": len(relevant[query]),
            "negatives": [_sample_negative(negative, corpus) for negative in mined.negatives_of(query)],
        }
        for query in selected
    ]


def _sample_negative(negative: MinedNegative, corpus: Sequence[str]) -> dict[str, Any]:
    return {
        "text": corpus[negative.row][:_MAX_CHARACTERS],
        "source": negative.source,
        "rank": negative.rank,
        "score": _rounded(negative.score),
        "similarity": _rounded(negative.similarity),
        "found_by": {hit.source: {"rank": hit.rank, "score": _rounded(hit.score)} for hit in negative.hits},
    }


def _rounded(score: float | None) -> float | None:
    return None if score is None else round(score, 6)


REPORT_NAME = "mining_report.json"
PLOT_NAME = "mining_report.png"


def save_mining_report(report: Mapping[str, Any], folder: str | Path) -> None:
    """Write `mining_report.json` and `mining_report.png` into a folder; existing files are replaced.

    Args:
        report: `HardNegativeMiner.report` after a run.
        folder: created if it does not exist.

    Raises:
        AceFinetuneError: if nothing has been mined yet, or the folder is a file.
    """
    folder = Path(folder)
    if not report:
        raise AceFinetuneError("There is no mining report to save; mine first.")
    if folder.exists() and not folder.is_dir():
        raise AceFinetuneError(f"The folder for the mining report, {str(folder)!r}, is a file; give a folder.")
    write_json(folder / REPORT_NAME, dict(report))
    plot_mining(report, folder / PLOT_NAME)
