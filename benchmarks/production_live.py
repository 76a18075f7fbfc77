"""False alarms and power of live comparisons, by simulated users: part of production.py."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
from findings import Findings
from numpy.typing import NDArray

from llama_index_ace_finetune.evaluation.stats.confidence_sequence import log_capital
from llama_index_ace_finetune.ranking.team_draft import team_draft

CREDIT = (-1.0, 1.0)
ALPHA = 0.05
MODEL = (
    "Users: a list of 10 is read from the top; rank r is reached with probability .85^(r-1), and a result that is read "
    "is used with probability .6 if it is relevant and .05 if not; 'position only': .2 in any case. A query has 3 "
    "relevant memories among 40; a system ranks them by relevance plus normal noise. Credit is that of `compare-live`. "
    "Streams are drawn from 20,000 such queries and the same with A and B exchanged, so that the expected credit is 0."
)
_POOL = 20_000


def measure_live(settings: Any, findings: Findings) -> None:
    """Add the tables of false alarms and of power."""
    check = settings.check
    rng = np.random.default_rng(0)
    streams, steps = (10_000, 500) if check else (10_000, 2_000)
    rows = []
    for name, lengths, failing, position_only in (
        ("two systems of equal quality", (10, 10), 0.0, False),
        ("B returns 5 results, A 10; users go by position only", (10, 5), 0.0, True),
        ("identical rankings", None, 0.0, False),
        ("B fails on every fifth query", (10, 10), 0.2, False),
    ):
        pool = outcomes(_POOL // (4 if check else 1), lengths, failing=failing, position_only=position_only)
        called, naive = false_alarms(pool, streams, steps, rng)
        rows.append(f"| {name} | {(pool != 0).mean():.0%} | {called:.2%} | {naive:.1%} |")
        findings.ask(f"{name}: at most 5% of {streams:,} streams call a winner", called <= ALPHA)
    findings.section(
        f"False alarms: {streams:,} streams of {steps:,} queries, checked after every query",
        "| A/A comparison | queries with credit | a winner is ever called | the same by a z-test |",
        rows,
    )
    findings.sections.append(MODEL)
    power(findings, rng, streams=200 if check else 1_000, steps=3_000 if check else 20_000)


def outcomes(
    count: int, lengths: tuple[int, int] | None, *, failing: float, position_only: bool
) -> NDArray[np.float64]:
    """Return the credit of simulated queries, and of the same with A and B exchanged, float64 [2 n]."""
    rng, coin = np.random.default_rng(1), Random(1)
    credit = []
    for _ in range(count):
        relevance = np.zeros(40)
        relevance[:3] = 1.0
        rankings = [np.argsort(-(relevance + rng.normal(0, 0.6, 40)))[:10].tolist() for _ in range(2)]
        if lengths is None:
            rankings[1] = rankings[0]
        else:
            rankings = [one[:length] for one, length in zip(rankings, lengths, strict=True)]
        if rng.random() < failing:
            continue  # the other system serves, and the query is left out
        total = 0
        for rank, hit in enumerate(team_draft(*rankings, top_k=10, random=coin)):
            use = 0.2 if position_only else 0.6 if relevance[hit.id] else 0.05
            if hit.team and rng.random() < 0.85**rank * use:
                total += 1 if hit.team == "b" else -1
        credit.append(np.sign(total))
    values = np.array(credit, np.float64)
    return np.concatenate([values, -values])


def false_alarms(pool: NDArray[np.float64], streams: int, steps: int, rng: np.random.Generator) -> tuple[float, float]:
    """Return the fraction of streams that ever call a winner, by the confidence sequence and by a z-test at 5%."""
    called, naive = 0, 0
    for _ in range(0, streams, 500):
        values = rng.choice(pool, (min(500, streams), steps))
        called += int(_rejected(values).any(axis=1).sum())
        number = np.arange(1, steps + 1)
        sums, squares = np.cumsum(values, axis=1), np.cumsum(values**2, axis=1)
        z = np.abs(sums) / np.sqrt(np.maximum(squares - sums**2 / number, 1e-9))
        naive += int(((z > 1.96) & (number >= 30) & (squares >= 5)).any(axis=1).sum())
    return called / streams, naive / streams


def power(findings: Findings, rng: np.random.Generator, *, streams: int, steps: int) -> None:
    """Add the table of how many queries a true difference needs."""
    marks = [mark for mark in (300, 1_000, 3_000, 10_000, 20_000) if mark <= steps]
    rows = []
    for decided in (0.6, 0.2):
        for difference in (0.02, 0.05, 0.10):
            chances = [(decided - difference) / 2, 1 - decided, (decided + difference) / 2]
            found = np.zeros(steps)
            for _ in range(0, streams, 100):
                values = rng.choice([-1.0, 0.0, 1.0], (100, steps), p=chances)
                found += np.maximum.accumulate(_rejected(values), axis=1).sum(axis=0)
            found /= streams
            half = int(np.argmax(found >= 0.5)) + 1 if found[-1] >= 0.5 else None
            cells = " | ".join(f"{found[mark - 1]:.0%}" for mark in marks)
            rows.append(
                f"| {difference:.2f} | {decided:.0%} | {cells} | {f'{half:,}' if half else f'over {steps:,}'} |"
            )
            if (difference, decided) == (0.10, 0.6):
                findings.ask("a difference of .10 is found within 3,000 queries in 95%", found[2_999] >= 0.95)
    header = " | ".join(f"by {mark:,}" for mark in marks)
    findings.section(
        f"Power: {streams:,} streams, checked after every query",
        f"| difference in credit | queries with credit | {header} | half the streams by |",
        rows,
    )


def _rejected(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.asarray(log_capital(values, 0.0, bounds=CREDIT, alpha=ALPHA) >= np.log(1 / ALPHA))
