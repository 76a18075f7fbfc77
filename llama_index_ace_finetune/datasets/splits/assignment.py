"""Assign components to parts so that sizes and categories match the targets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Component:
    """Queries that stay together: their sorted ids and how many of each category there are."""

    query_ids: tuple[str, ...]
    categories: Mapping[str, int]

    @property
    def size(self) -> int:
        """Number of queries."""
        return len(self.query_ids)


def assign(
    components: Sequence[Component],
    fractions: Sequence[float],
    *,
    seed: int,
    fixed: Mapping[int, int],
    immovable: Collection[int] = (),
) -> list[int]:
    """Return the part of each component.

    Greedy, largest component first (equal sizes in an order drawn from the seed and the ids): of the parts with room,
    the one is chosen that most lowers the squared relative deviation from the targets, of the number of queries and
    of each category; if no part has room, only the number of queries counts. `fixed` maps components to parts that
    are given. A part with fraction 0 gets nothing; a part that would stay empty gets the smallest component of the
    part that has most of them.
    """
    totals: Counter[str] = Counter()
    for component in components:
        totals.update(component.categories)
    size = sum(component.size for component in components)
    parts = [_Part(f * size, {c: f * n for c, n in totals.items()}) for f in fractions]
    chosen = [-1] * len(components)
    for number, part in fixed.items():
        chosen[number] = part
        parts[part].add(components[number])
    order = sorted(range(len(components)), key=lambda i: (-components[i].size, _draw(components[i], seed)))
    open_parts = [i for i, fraction in enumerate(fractions) if fraction > 0]
    for number in order:
        if chosen[number] < 0:
            chosen[number] = _best(components[number], parts, open_parts)
            parts[chosen[number]].add(components[number])
    movable = [number for number in order if number not in immovable]
    _fill_empty(chosen, sorted(open_parts, key=lambda i: -fractions[i]), movable)
    return chosen


class _Part:
    def __init__(self, target: float, category_targets: Mapping[str, float]) -> None:
        self.target = target
        self.category_targets = category_targets
        self.size = 0
        self.categories: Counter[str] = Counter()

    def add(self, component: Component) -> None:
        self.size += component.size
        self.categories.update(component.categories)

    def size_cost(self, component: Component) -> float:
        """Change of the squared relative deviation of the size if the component is added."""
        return _change(self.size, component.size, self.target)

    def cost(self, component: Component) -> float:
        """The same plus the changes for the categories."""
        return self.size_cost(component) + sum(
            _change(self.categories[category], count, self.category_targets[category])
            for category, count in component.categories.items()
        )


def _change(held: int, more: int, target: float) -> float:
    """Return ((held + more - target)^2 - (held - target)^2) / target."""
    return more * (2 * (held - target) + more) / target


def _best(component: Component, parts: Sequence[_Part], open_parts: Sequence[int]) -> int:
    room = [i for i in open_parts if parts[i].size + component.size <= parts[i].target + _ROUNDING]
    if room:
        return min(room, key=lambda i: parts[i].cost(component))
    return min(open_parts, key=lambda i: parts[i].size_cost(component))


def _fill_empty(chosen: list[int], parts: Sequence[int], order: Sequence[int]) -> None:
    for part in parts:
        if part in chosen:
            continue
        held = Counter(chosen)
        donors = [i for i in reversed(order) if held[chosen[i]] > 1]
        if donors:
            fullest = max(held[chosen[i]] for i in donors)
            chosen[next(i for i in donors if held[chosen[i]] == fullest)] = part


def _draw(component: Component, seed: int) -> str:
    return hashlib.sha256(f"{seed}:{component.query_ids[0]}".encode("utf-8", "surrogatepass")).hexdigest()
