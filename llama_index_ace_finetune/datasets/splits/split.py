"""Leak-free train, dev and test parts: each component of connected queries goes to one part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.splits.assignment import Component, assign
from llama_index_ace_finetune.datasets.splits.components import group_values, query_components
from llama_index_ace_finetune.datasets.splits.earlier import EARLIER_FIELD, MIXED, EarlierSplit, earlier_parts
from llama_index_ace_finetune.datasets.splits.known import hold_out_known
from llama_index_ace_finetune.datasets.splits.manifest import PARTS, Split
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError

__all__ = ["Split", "SplitSettings", "k_folds", "resplit_train_dev", "split_dataset"]

_TRAIN = 0
_MIN_TIED = 3
"""The connections of a smaller component are not explained."""


def split_dataset(
    dataset: RetrievalDataset, *, settings: SplitSettings | None = None, earlier: EarlierSplit | None = None
) -> Split:
    """Split the queries that have a relevant answer into train, dev and test.

    No component (see `components.query_components`) is ever divided. One that is larger than the test fraction goes to
    train, and the notes say so. A component with queries of an earlier training, by `earlier` or by the metadata field
    `earlier_split`, stays in its part: what was trained on is never tested on, and test queries are never trained on;
    those that are connected with training queries by now are in no part. Of the train queries, some are then held out
    as queries about known memories (`hold_out_known`). The result depends on ids, texts, judgements and the seed, not
    on their order.
    Raises DatasetError if a part with a fraction above 0 would be empty.
    """
    settings = settings or SplitSettings()
    components, without_answer = _components(dataset, settings)
    components, kept, kept_notes = _keep_earlier(components, earlier_parts(dataset, earlier))
    parts, notes = _divide(components, settings, kept)
    notes = [*kept_notes, *notes]
    empty = [name for name in PARTS if getattr(settings, name) > 0 and not parts[name]]
    if empty and kept:
        raise DatasetError(
            f"{dataset.name}: an earlier training used or held out the memories of all queries but those of "
            f"{len(components) - len(kept)} independent group(s), which leaves {' and '.join(empty)} empty; give "
            "queries about other memories, or set the fraction of that part to 0."
        )
    if empty:
        raise DatasetError(
            f"{dataset.name}: the queries form {len(components)} independent group(s), which leaves "
            f"{' and '.join(empty)} empty; {_advice(dataset, components, settings)}."
        )
    return Split.of(
        dataset,
        _with_known(dataset, parts, settings, earlier),
        settings,
        components=len(components),
        largest_component=max((c.size for c in components), default=0),
        without_answer=without_answer,
        notes=tuple(notes),
    )


def k_folds(
    dataset: RetrievalDataset, *, k: int, settings: SplitSettings | None = None, first: Split | None = None
) -> list[Split]:
    """Return k splits whose test parts are disjoint and together hold every query with a relevant answer.

    The rest of each fold is divided into train and dev in the proportion of the settings' fractions. With `first`, that
    split is the first fold: the others share the queries outside of its test part, and hold out queries about known
    memories as it does; its settings are used. Raises DatasetError if k is below 2 or above the number of components,
    or, with `first`, if a fold has no train or no dev query left.
    """
    settings = first.settings if first else settings or SplitSettings()
    components, without_answer = _components(dataset, settings)
    fold_of = _fold_numbers(dataset, components, k, settings.seed, first)
    total = sum(c.size for c in components)
    folds = [first] if first else []
    for fold in range(len(folds), k):
        test = [c for c, f in zip(components, fold_of, strict=True) if f == fold]
        rest = [c for c, f in zip(components, fold_of, strict=True) if f != fold]
        dev_fraction = settings.dev / (settings.train + settings.dev) if settings.train + settings.dev else 0.0
        parts, notes = _divide(rest, replace(settings, train=1 - dev_fraction, dev=dev_fraction, test=0.0))
        parts["test"] = [i for c in test for i in c.query_ids]
        tested = len(parts["test"]) / total if first else 1 / k
        fold_settings = replace(
            settings,
            train=(1 - dev_fraction) * (1 - tested),
            dev=dev_fraction * (1 - tested),
            test=tested,
            known=settings.known if first else 0.0,
        )
        empty = [name for name in PARTS if getattr(fold_settings, name) > 0 and not parts[name]]
        if first and empty:
            raise DatasetError(
                f"{dataset.name}: fold {fold + 1} of {k} tests {len(parts['test'])} of {total} queries, which leaves "
                f"{' and '.join(empty)} empty; choose another number of folds, or add queries."
            )
        folds.append(
            Split.of(
                dataset,
                _with_known(dataset, parts, fold_settings, None) if first else parts,
                fold_settings,
                components=len(components),
                largest_component=max(c.size for c in components),
                without_answer=without_answer,
                notes=(f"Fold {fold + 1} of {k}.", *notes),
            )
        )
    return folds


def _fold_numbers(
    dataset: RetrievalDataset, components: Sequence[Component], k: int, seed: int, first: Split | None
) -> list[int]:
    """Return the fold, from 0, whose test part each component is in."""
    tested = frozenset(first.test if first else ())
    rest = [c for c in components if tested.isdisjoint(c.query_ids)]
    given = len(rest) < len(components)
    if not 2 <= k <= len(rest) + given:
        raise DatasetError(
            f"{dataset.name}: {k} folds cannot be made of {len(components)} independent group(s) of queries"
            + (f", of which {len(components) - len(rest)} are in the test part of the split" if given else "")
            + f"; choose between 2 and {len(rest) + given}."
        )
    numbers = iter(assign(rest, [1 / (k - given)] * (k - given), seed=seed, fixed={}))
    return [next(numbers) + given if tested.isdisjoint(c.query_ids) else 0 for c in components]


def resplit_train_dev(
    dataset: RetrievalDataset, split: Split, *, dev_fraction: float, seed: int | None = None
) -> Split:
    """Split train and dev again, with `dev_fraction` of their queries in dev; the test part stays as it is.

    The held-out queries about known memories are divided with them, and some are held out again.

    Raises DatasetError for a fraction outside [0, 1] or one that leaves a part empty.
    """
    seed = split.settings.seed if seed is None else seed
    settings = replace(split.settings, train=1 - dev_fraction, dev=dev_fraction, test=0.0, seed=seed)
    ids = sorted((*split.train, *split.dev, *split.dev_known, *split.test_known))
    # Components of all queries: two that are connected through a third one stay together.
    components, _ = _components(dataset, settings, ids)
    parts, notes = _divide(components, settings)
    empty = [name for name in ("train", "dev") if getattr(settings, name) > 0 and not parts[name]]
    if empty:
        raise DatasetError(
            f"{dataset.name}: {len(components)} independent group(s) of queries outside the test part leave "
            f"{' and '.join(empty)} empty; choose another dev_fraction."
        )
    parts["test"] = list(split.test)
    outside = 1 - split.settings.test
    kept = replace(split.settings, train=outside * (1 - dev_fraction), dev=outside * dev_fraction, seed=seed)
    return Split.of(
        dataset,
        _with_known(dataset, parts, kept, None),
        kept,
        components=split.components,
        largest_component=split.largest_component,
        without_answer=split.without_answer,
        notes=(*split.notes, f"Train and dev were split again with a dev fraction of {dev_fraction:g}.", *notes),
    )


def _with_known(
    dataset: RetrievalDataset, parts: Mapping[str, Sequence[str]], settings: SplitSettings, earlier: EarlierSplit | None
) -> dict[str, list[str]]:
    """Return the parts with some train queries held out; never one that an earlier training may have seen."""
    seen = [
        query_id
        for query_id in parts["train"]
        if EARLIER_FIELD in dataset.queries[query_id].metadata
        or (earlier is not None and earlier.part(dataset.queries[query_id].text, ()) is not None)
    ]
    dev, test = hold_out_known(dataset, parts["train"], settings, excluded=seen)
    held = {*dev, *test}
    train = [query_id for query_id in parts["train"] if query_id not in held]
    return {**{name: list(ids) for name, ids in parts.items()}, "train": train, "dev_known": dev, "test_known": test}


def _components(
    dataset: RetrievalDataset, settings: SplitSettings, only: Sequence[str] | None = None
) -> tuple[list[Component], tuple[str, ...]]:
    """Return the components of the queries with a relevant answer, and the ids of those without."""
    ordered = sorted(dataset.queries)
    ids = [i for i in ordered if dataset.relevant(i)]
    if not ids:
        if not ordered:
            raise DatasetError(
                f"{dataset.name}: there are {len(dataset.memories)} memories and no queries; give the queries that "
                "users ask, with the ids of their memories, as --data and this as --memories, or write synthetic ones "
                "with `ace-finetune synthesize`."
            )
        raise DatasetError(f"{dataset.name}: no query has a relevant memory; give judgements above 0.")
    without_answer = tuple(i for i in ordered if not dataset.relevant(i))
    numbers = query_components(dataset, ids, threshold=settings.near_duplicate, group_field=settings.group_field)
    wanted = None if only is None else set(only)
    members: dict[int, list[str]] = {}
    for query_id, number in zip(ids, numbers.tolist(), strict=True):
        if wanted is None or query_id in wanted:
            members.setdefault(number, []).append(query_id)
    return [Component(tuple(m), _categories(dataset, m, settings)) for m in members.values()], without_answer


def _categories(dataset: RetrievalDataset, query_ids: Sequence[str], settings: SplitSettings) -> Counter[str]:
    found = (dataset.queries[i].metadata.get(settings.category_field) for i in query_ids)
    return Counter(label for category in found for label in labels_of(category))


def _advice(dataset: RetrievalDataset, components: Sequence[Component], settings: SplitSettings) -> str:
    """Return what connects most queries, if anything does, and what to do about it."""
    largest = max(components, key=lambda component: component.size)
    total = sum(component.size for component in components)
    if largest.size < max(_MIN_TIED, total / 2):
        return "add more queries, or set that fraction to 0"
    shared = Counter(answer for query_id in largest.query_ids for answer in dataset.relevant(query_id))
    answer, count = min(shared.items(), key=lambda held: (-held[1], held[0]))
    if count >= largest.size / 2:
        text = " ".join(dataset.memories[answer].text.split())
        return (
            f"{count} of {total} queries have the relevant memory {answer!r:.60} ({text[:60]!r}), which connects "
            "them; remove its judgements, or add queries to which it is not relevant"
        )
    if settings.group_field is not None:
        groups = Counter(g for i in largest.query_ids for g in group_values(dataset, i, settings.group_field))
        group, count = min(groups.items(), key=lambda held: (-held[1], held[0]), default=("", 0))
        if count >= largest.size / 2:
            return (
                f"{count} of {total} queries have the {settings.group_field} {group[:60]!r}, which connects them; "
                "group by another field, or add queries with other values"
            )
    return (
        f"{largest.size} of {total} queries are connected, one by one, by shared positives or near-duplicate texts "
        f"(such as {dataset.queries[largest.query_ids[0]].text[:60]!r}); add queries that differ"
    )


def _keep_earlier(
    components: Sequence[Component], earlier: Mapping[str, str]
) -> tuple[list[Component], dict[int, int], list[str]]:
    """Return the components, the part of each with queries of an earlier split, and notes.

    Queries of its test part that are in a component with others of its queries are taken out.
    """
    kept: dict[int, int] = {}
    left: list[Component] = []
    for component in components:
        parts = {earlier[query_id] for query_id in component.query_ids if query_id in earlier}
        if parts and parts != {"test"}:
            ids = tuple(q for q in component.query_ids if earlier.get(q) not in ("test", MIXED))
            component = Component(ids, component.categories if len(ids) == component.size else {})
        if not component.size:
            continue
        if parts:
            kept[len(left)] = PARTS.index("train" if parts - {"dev", "test"} else min(parts))
        left.append(component)
    notes = []
    if kept:
        notes.append(f"{len(kept)} of {len(components)} components stay in their parts of an earlier training.")
    removed = sum(c.size for c in components) - sum(c.size for c in left)
    if removed:
        notes.append(
            f"{removed} queries of an earlier test part are connected with queries of its other parts, and left out."
        )
    return left, kept, notes


def _divide(
    components: Sequence[Component], settings: SplitSettings, kept: Mapping[int, int] | None = None
) -> tuple[dict[str, list[str]], list[str]]:
    """Return the query ids per part and notes for the manifest; `kept` are the parts of components that have one."""
    kept = kept or {}
    total = sum(c.size for c in components)
    largest_held_out = (settings.test or settings.dev) * total
    # A part needs one component, however large: without this, three components could never be split.
    oversized = {n: _TRAIN for n, c in enumerate(components) if c.size > max(1.0, largest_held_out)}
    if settings.train == 0:
        oversized = {}
    fractions = [getattr(settings, name) for name in PARTS]
    oversized = {number: part for number, part in oversized.items() if number not in kept}
    chosen = assign(components, fractions, seed=settings.seed, fixed={**oversized, **kept}, immovable=kept)
    parts: dict[str, list[str]] = {name: [] for name in PARTS}
    for component, part in zip(components, chosen, strict=True):
        parts[PARTS[part]].extend(component.query_ids)
    notes = [_oversized_note(components[n], total, PARTS[chosen[n]], settings) for n in sorted(oversized)]
    return parts, notes


def _oversized_note(component: Component, total: int, part: str, settings: SplitSettings) -> str:
    name, fraction = ("test", settings.test) if settings.test else ("dev", settings.dev)
    end = "goes to train" if part == "train" else f"goes to {part}, which would be empty otherwise"
    return (
        f"A component of {component.size} of {total} queries (from {component.query_ids[0]}) is larger than the "
        f"{name} fraction of {fraction:g} and {end}."
    )
