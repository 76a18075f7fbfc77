"""Tasks made from the training data themselves: duplicates, paraphrases, categories, structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.training.config import TaskName
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.memory_parts import memory_parts
from llama_index_ace_finetune.training.data.task import MAX_DEV_QUERIES, TrainingTask

Groups: TypeAlias = Sequence[Sequence[int]]

_TITLES = ("title", "duplicate_of")
_CATEGORIES = ("category", "difficulty")
_SECTIONS = ("section", "parent", "parent_id")
_MOST_WITH_A_TITLE = 20  # "Introduction" and "Untitled" do not make memories duplicates
_MOST_OF_A_GROUP = 200
_FEWEST_COMPONENTS = 10


def derive_task(
    name: TaskName,
    examples: IndexedExamples,
    *,
    metadata: Mapping[str, Mapping[str, Any]],
    held_out: NDArray[np.bool_],
    dev: float,
    seed: int,
) -> TrainingTask | None:
    """Return a task over training queries, or over memories; None if the data have no material for it.

    - "paraphrases": two train queries with a positive in common.
    - "duplicates": two memories that are relevant to one train query, or that have the same `title` (of at most 20
      memories) or `duplicate_of` in their metadata.
    - "category": two memories with the same `category` in their metadata; `difficulty` where no memory has one.
    - "structure": the title and the halves of one memory, and those of memories with the same `section`, `parent` or
      `parent_id` (of at most 20 memories). It needs no query: independent cropping, Izacard et al. 2022
      (arXiv:2112.09118), without overlap, as in the inverse cloze task (Lee et al. 2019, arXiv:1906.00300).

    Texts that are related are positives of each other, and all others of a batch are negatives. A part of the texts is
    its dev: of whole groups of related texts, or of single texts where there are few groups.

    Args:
        name: of the task.
        examples: the training queries, and the corpus.
        metadata: of the memories, by id.
        held_out: whether a row of the corpus is relevant to a held-out query, bool [m]; such memories are left out.
        dev: fraction of the texts for its dev.
        seed: of the parts, and of a sample of groups that are large.
    """
    role, texts, groups = _MATERIAL[name](examples, metadata, held_out)
    random = np.random.default_rng(seed)
    groups = _without_excess([sorted(set(group)) for group in groups], random)
    groups = [group for group in groups if len(group) > 1]
    used = sorted({row for group in groups for row in group})
    if len(groups) < 2:
        return None
    place = {row: number for number, row in enumerate(used)}
    related: list[set[int]] = [set() for _ in used]
    for group in groups:
        members = [place[row] for row in group]
        for member in members:
            related[member].update(members)
    is_dev = _dev_rows([[place[row] for row in group] for group in groups], len(used), dev, random)
    ids = tuple(texts[row][0] for row in used)
    corpus = tuple(texts[row][1] for row in used)

    def part(anchors: NDArray[np.int64], among: NDArray[np.bool_]) -> IndexedExamples | None:
        relevant = [_rolled(related[row], row, among) for row in anchors.tolist()]
        kept = [number for number, rows in enumerate(relevant) if len(rows)]
        if len(kept) < 2:
            return None
        own = anchors[kept]
        return IndexedExamples(
            query_ids=tuple(ids[row] for row in own),
            queries=tuple(corpus[row] for row in own),
            corpus_ids=ids,
            corpus=corpus,
            relevant=tuple(relevant[number] for number in kept),
            negatives=tuple(np.empty(0, np.int64) for _ in kept),
            own=own,
        )

    train = part(np.flatnonzero(~is_dev), ~is_dev)
    if train is None:
        return None
    chosen = np.sort(random.permutation(np.flatnonzero(is_dev))[:MAX_DEV_QUERIES])
    return TrainingTask(
        name=name,
        examples=train,
        dev=part(chosen, np.ones(len(used), bool)),
        query_role=role,
        document_role=role,
        derived=True,
    )


def _rolled(related: set[int], row: int, among: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the related rows in an order that starts behind `row`, so that each text has another first positive."""
    others = np.array(sorted(related - {row}), np.int64)
    others = others[among[others]] if len(others) else others
    return np.roll(others, -int(np.searchsorted(others, row)))


def _without_excess(groups: Groups, random: np.random.Generator) -> Groups:
    """Leave out texts of large groups, from all groups: as members of another group they would be negatives."""
    excess: set[int] = set()
    for group in groups:
        if len(group) > _MOST_OF_A_GROUP:
            excess.update(random.permutation(np.array(group))[_MOST_OF_A_GROUP:].tolist())
    return [[row for row in group if row not in excess] for group in groups]


def _dev_rows(groups: Groups, count: int, fraction: float, random: np.random.Generator) -> NDArray[np.bool_]:
    """Return which rows are dev, bool [count]."""
    rows = np.concatenate([np.asarray(group, np.int64) for group in groups])
    owner = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    links = sparse.coo_matrix((np.ones(len(rows)), (rows, count + owner)), shape=(count + len(groups),) * 2)
    components, label = connected_components(links, directed=False)
    if components < _FEWEST_COMPONENTS:
        components, label = count, np.arange(count)
    chosen = random.permutation(components)[: round(fraction * components)]
    return np.asarray(np.isin(label[:count], chosen), np.bool_)


Role: TypeAlias = Literal["query", "document"]
Material: TypeAlias = tuple[Role, Sequence[tuple[str, str]], Groups]


def _paraphrases(examples: IndexedExamples, metadata: object, held_out: object) -> Material:
    """Distinct train queries, grouped by positive."""
    rows: dict[str, int] = {}
    texts: list[tuple[str, str]] = []
    groups: dict[int, list[int]] = {}
    for identifier, query, relevant in zip(examples.query_ids, examples.queries, examples.relevant, strict=True):
        row = rows.setdefault(normalise(query), len(texts))
        if row == len(texts):
            texts.append((identifier, query))
        for positive in relevant.tolist():
            groups.setdefault(positive, []).append(row)
    return "query", texts, list(groups.values())


def _duplicates(
    examples: IndexedExamples, metadata: Mapping[str, Mapping[str, Any]], held_out: NDArray[np.bool_]
) -> Material:
    """Memories, grouped by train query, title, or the memory of which they are duplicates."""
    groups = [[row for row in relevant.tolist() if not held_out[row]] for relevant in examples.relevant]
    rows = {identifier: row for row, identifier in enumerate(examples.corpus_ids)}
    for field in _TITLES:
        for value, titled in _labelled(examples, metadata, held_out, field).items():
            original = rows.get(value) if field == "duplicate_of" else None
            same = titled if original is None or held_out[original] else [*titled, original]
            if len(same) <= _MOST_WITH_A_TITLE:
                groups.append(same)
    return "document", list(zip(examples.corpus_ids, examples.corpus, strict=True)), groups


def _category(
    examples: IndexedExamples, metadata: Mapping[str, Mapping[str, Any]], held_out: NDArray[np.bool_]
) -> Material:
    """Memories, grouped by category."""
    found = (_labelled(examples, metadata, held_out, field) for field in _CATEGORIES)
    groups = next((list(by_label.values()) for by_label in found if len(by_label) > 1), [])
    return "document", list(zip(examples.corpus_ids, examples.corpus, strict=True)), groups


def _structure(
    examples: IndexedExamples, metadata: Mapping[str, Mapping[str, Any]], held_out: NDArray[np.bool_]
) -> Material:
    """Distinct parts of memories, grouped by memory and by section; a part that many memories share is left out."""
    parts = {
        row: memory_parts(text, metadata.get(examples.corpus_ids[row], {}))
        for row, text in enumerate(examples.corpus)
        if not held_out[row]
    }
    owners: dict[str, list[int]] = {}
    for row, found in parts.items():
        for part in dict.fromkeys(normalise(part) for part in found):
            owners.setdefault(part, []).append(row)
    rows: dict[str, int] = {}
    texts: list[tuple[str, str]] = []
    of_memory: dict[int, list[int]] = {}
    for row, found in parts.items():
        for number, part in enumerate(found):
            key = normalise(part)
            if len(owners[key]) > _MOST_WITH_A_TITLE:
                continue
            if key not in rows:
                rows[key] = len(texts)
                texts.append((f"{examples.corpus_ids[row]}, part {number}", part))
            of_memory.setdefault(row, []).append(rows[key])
    groups = list(of_memory.values())
    for field in _SECTIONS:
        for members in _labelled(examples, metadata, held_out, field).values():
            if len(members) <= _MOST_WITH_A_TITLE:
                groups.append([part for member in members for part in of_memory.get(member, ())])
    return "document", texts, groups


def _labelled(
    examples: IndexedExamples, metadata: Mapping[str, Mapping[str, Any]], held_out: NDArray[np.bool_], field: str
) -> dict[str, list[int]]:
    """Return the rows of the corpus by the labels in a field of their metadata, held-out ones left out."""
    found: dict[str, list[int]] = {}
    for row, identifier in enumerate(examples.corpus_ids):
        for label in () if held_out[row] else labels_of(metadata.get(identifier, {}).get(field)):
            key = label if field == "duplicate_of" else normalise(label)
            if key:
                found.setdefault(key, []).append(row)
    return found


_MATERIAL: Final[Mapping[TaskName, Callable[..., Material]]] = {
    "duplicates": _duplicates,
    "paraphrases": _paraphrases,
    "category": _category,
    "structure": _structure,
}
