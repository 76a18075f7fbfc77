"""False alarms and detection of drift, on the queries of public sets: part of production.py."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
from findings import Findings
from sets import load

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.production.drift import QuerySample, measure_drift
from llama_index_ace_finetune.ranking.tokenizer import Tokenizer

SETS = ("ace", "msvc_errors", "nl2bash", "locomo")
_WINDOW = 200
_MAX_QUERIES = 1_000


def measure_watch(settings: Any, findings: Findings) -> None:
    """Add the tables of false alarms and of detection."""
    data, check = settings.data, settings.check
    encoder = Encoder.load(DEFAULT_BASE_MODEL)
    names = SETS[:2] if check else SETS
    queries = {name: texts_of(data, name) for name in names}
    vectors = {name: encoder.encode(texts, role="query") for name, texts in queries.items()}
    domains = {name: Domain(encoder, data, name, check=check) for name in names}
    rng = np.random.default_rng(0)
    windows = 100 if check else 1_000
    rows, alarms, total = [], 0, 0
    for name in names:
        domain = domains[name]
        part = windows // len(names)
        called = sum(
            bool(measure_drift(*domain.split(rng, queries[name], vectors[name]), seed=seed).found)
            for seed in range(part)
        )
        rows.append(f"| {name} | {len(queries[name]):,} | {part:,} | {called / part:.1%} |")
        alarms, total = alarms + called, total + part
    findings.section(
        f"Drift: false alarms of windows of up to {_WINDOW} queries against as many others of the same set",
        "| set | distinct queries | windows | alarms |",
        [*rows, f"| all | | {total:,} | {alarms / total:.1%} |"],
    )
    allowed = 0.05 + 2 * (0.0475 / total) ** 0.5  # two standard errors of an estimated rate of 5%
    findings.ask(f"at most 5% of {total:,} windows without drift alarm, up to sampling", alarms / total <= allowed)
    swaps(findings, names, queries, vectors, domains, rng, repeats=3 if check else 10)


class Domain:
    """The memories of a set: top scores and known words of queries."""

    def __init__(self, encoder: Encoder, data: Path, name: str, *, check: bool) -> None:
        texts = [memory.text for memory in load(data, name).answers.values()]
        texts = texts[: 1_000 if check else 3_000]
        self._tokenizer = Tokenizer()
        self._vocabulary = {term for text in texts for term in self._tokenizer(text)}
        self._memories = encoder.encode(texts, role="document")

    def sample(self, queries: list[str], vectors: np.ndarray) -> QuerySample:
        unknown = []
        for query in queries:
            terms = self._tokenizer(query)
            unknown.append(sum(term not in self._vocabulary for term in terms) / max(1, len(terms)))
        return QuerySample(vectors, (vectors @ self._memories.T).max(axis=1).astype(float), np.array(unknown))

    def split(self, rng: np.random.Generator, queries: list[str], vectors: np.ndarray) -> list[QuerySample]:
        """Return two random samples without a common query."""
        rows = rng.permutation(len(queries))[: 2 * _WINDOW]
        half = len(rows) // 2
        return [self.sample([queries[row] for row in part], vectors[part]) for part in (rows[:half], rows[half:])]


def swaps(findings, names, queries, vectors, domains, rng, *, repeats: int) -> None:
    """Add the table of detection: the last 200 queries, of which some are of another set."""
    marks = (25, 50, 100, 200)
    found = dict.fromkeys(marks, 0)
    pairs = list(permutations(names, 2))
    for old, new in pairs:
        for seed in range(repeats):
            rows = rng.permutation(len(queries[old]))
            half = min(_WINDOW, len(rows) // 2)
            reference = domains[old].sample([queries[old][row] for row in rows[:half]], vectors[old][rows[:half]])
            for mark in marks:
                kept = rows[half : half + max(0, half - mark)]
                swapped = rng.permutation(len(queries[new]))[:mark]
                texts = [*(queries[old][row] for row in kept), *(queries[new][row] for row in swapped)]
                recent = domains[old].sample(texts, np.concatenate([vectors[old][kept], vectors[new][swapped]]))
                found[mark] += bool(measure_drift(recent, reference, seed=seed).found)
    total = len(pairs) * repeats
    rows = [f"| {mark} | {found[mark] / total:.0%} |" for mark in marks]
    findings.section(
        f"Drift: detection of a swap of domain, {len(pairs)} pairs of sets, {repeats} times each",
        f"| queries of the new domain among the last {_WINDOW} | detected |",
        rows,
    )
    findings.ask("a swap is detected within 200 queries", found[200] == total)


def texts_of(data: Path, name: str) -> list[str]:
    dataset = load(data, name)
    distinct = sorted({query.text for query in dataset.queries.values()})
    rng = np.random.default_rng(0)
    return [distinct[row] for row in rng.permutation(len(distinct))[:_MAX_QUERIES]]
