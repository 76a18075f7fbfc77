"""Qrels: the relevant corpus rows of each query, with their grades."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llama_index_ace_finetune.errors import AceFinetuneError


@dataclass(frozen=True, eq=False)
class Qrels:
    """The relevant rows of n queries in CSR form; build them with `of` or `from_csr`.

    Attributes:
        starts: int64 [n + 1]; the relevant rows of query i are `rows[starts[i]:starts[i + 1]]`.
        rows: corpus rows int64 [m], per query by descending grade, equal grades by row.
        grades: float64 [m], all above 0.
    """

    starts: NDArray[np.int64]
    rows: NDArray[np.int64]
    grades: NDArray[np.float64]

    @classmethod
    def of(cls, relevant: Sequence[ArrayLike], grades: Sequence[ArrayLike] | None = None) -> Qrels:
        """Build qrels from one list of rows per query, and one list of grades per query (1 by default).

        Raises:
            AceFinetuneError: as `from_csr`, and if rows and grades of a query differ in number.
        """
        lengths = [np.size(rows) for rows in relevant]
        if grades is not None and [np.size(values) for values in grades] != lengths:
            raise AceFinetuneError("Rows and grades of a query differ in number; give each judged row one grade.")
        return cls.from_csr(
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]),
            _joined(relevant, np.int64),
            None if grades is None else _joined(grades, np.float64),
        )

    @classmethod
    def from_csr(cls, starts: ArrayLike, rows: ArrayLike, grades: ArrayLike | None = None) -> Qrels:
        """Build qrels from the concatenated rows of all queries.

        A row with a grade of 0 or less is not relevant, as is one without a grade, and is left out. A row that is
        repeated for a query counts once, with its highest grade.

        Args:
            starts: int [n + 1], index of the first row of each query; the last is the number of rows.
            rows: int [m].
            grades: float [m]; 1 each by default.

        Raises:
            AceFinetuneError: for a negative row, a grade that is NaN or infinite, or lengths that do not match.
        """
        begins, judged = np.asarray(starts, np.int64), np.asarray(rows, np.int64)
        values = np.ones(len(judged)) if grades is None else np.asarray(grades, np.float64)
        if not len(begins) or begins[0] != 0 or begins[-1] != len(judged) or (np.diff(begins) < 0).any():
            raise AceFinetuneError(f"The starts of the qrels must rise from 0 to {len(judged)}, the number of rows.")
        if len(values) != len(judged):
            raise AceFinetuneError(f"There are {len(values)} grades for {len(judged)} judged rows; give one each.")
        queries = np.repeat(np.arange(len(begins) - 1), np.diff(begins))
        bad = np.flatnonzero((judged < 0) | ~np.isfinite(values))
        if len(bad):
            first = bad[0]
            raise AceFinetuneError(
                f"The qrels of query {queries[first]} name row {judged[first]} with grade {values[first]:g}; "
                "give a row of 0 or more and a finite grade."
            )
        kept = values > 0
        queries, judged, values = queries[kept], judged[kept], values[kept]
        order = np.lexsort((-values, judged, queries))
        queries, judged, values = queries[order], judged[order], values[order]
        again = (queries[1:] == queries[:-1]) & (judged[1:] == judged[:-1])
        once = np.concatenate([[True], ~again])[: len(judged)]
        queries, judged, values = queries[once], judged[once], values[once]
        order = np.lexsort((judged, -values, queries))
        counts = np.bincount(queries, minlength=len(begins) - 1)
        return cls(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), judged[order], values[order])

    def __len__(self) -> int:
        """Return the number of queries."""
        return len(self.starts) - 1

    @property
    def relevant_counts(self) -> NDArray[np.int64]:
        """Number of relevant rows of each query, int64 [n]."""
        return np.diff(self.starts)

    @property
    def queries(self) -> NDArray[np.int64]:
        """The query of each judged row, int64 [m]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.relevant_counts)


def _joined(parts: Sequence[ArrayLike], dtype: type) -> NDArray[np.generic]:
    return np.concatenate([np.asarray(part, dtype).ravel() for part in parts]) if len(parts) else np.empty(0, dtype)
