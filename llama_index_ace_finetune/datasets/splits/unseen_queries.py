"""Which queries of a dataset a model has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.datasets.splits.manifest import KNOWN_PARTS
from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError, LeakageError


@dataclass(frozen=True, slots=True)
class UnseenQueries:
    """Ids of queries for the test, ids of queries for selection on dev, and warnings for the reader.

    `test_known` and `dev_known` are the held-out queries of the split about memories that the model was trained on.
    """

    test: tuple[str, ...]
    dev: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    test_known: tuple[str, ...] = ()
    dev_known: tuple[str, ...] = ()


def unseen_queries(dataset: RetrievalDataset, record: Mapping[str, Any] | None) -> UnseenQueries:
    """Divide a dataset's queries by the record of a model: unseen ones for the test, seen dev queries for selection.

    A query was seen if its text, or the text of one of its positives, was used for training or for selection on dev. If
    the model's split was made of this dataset, only the test queries of the split are unseen. Queries that the split
    held out although their memories were trained on are returned apart.

    Args:
        dataset: queries, memories, judgements.
        record: of the model (`ace_finetune.json`); None if there is none.

    Raises:
        LeakageError: if the model has seen a test query of its split; after a refit on all queries it has.
        DatasetError: if no unseen query is left.
    """
    labelled = [query_id for query_id in dataset.queries if dataset.relevant(query_id)]
    if record is None:
        warning = "It is not known what this model was trained on; if it saw these queries, its figures are too high."
        return UnseenQueries(test=tuple(labelled), dev=(), warnings=(warning,))
    seen = record.get("seen") or {}
    train, dev = (_Seen(seen.get(part) or {}) for part in ("train", "dev"))
    parts = (record.get("split") or {}).get("queries") or {}
    held_out = set(parts.get("test", {}).values())
    known_part = {hashed: name for name in KNOWN_PARTS for hashed in (parts.get(name) or {}).values()}
    hashes = {query_id: text_hash(dataset.queries[query_id].text) for query_id in labelled}
    refit = shipped_refit(record)
    refitted_on_all = refit is not None and refit["on"] == "all"
    others = held_out.isdisjoint(hashes.values())
    found: dict[str, list[str]] = {"test": [], "dev": [], **{name: [] for name in KNOWN_PARTS}}
    for query_id, query in hashes.items():
        answers = {text_hash(dataset.memories[answer].text) for answer in dataset.relevant(query_id)}
        if refitted_on_all and (query in held_out or query in known_part):
            raise LeakageError(
                f"{dataset.name}: the model was trained on every query of its data, the test query {query_id!r} "
                "included (--refit all), so they cannot measure it; evaluate it on other data, or the weights in the "
                "folder 'selected' of its run."
            )
        if query in held_out and (train.holds(query, answers) or dev.holds(query, answers)):
            raise LeakageError(
                f"{dataset.name}: the query {query_id!r} is held out for testing, but the model has seen it or one of "
                "its positives; split and train again."
            )
        if query in known_part:
            if query in train.queries or query in dev.queries:
                raise LeakageError(
                    f"{dataset.name}: the query {query_id!r} is held out, but the model has seen it; split and train "
                    "again."
                )
            found[known_part[query]].append(query_id)
            continue
        if train.holds(query, answers):
            continue
        if dev.holds(query, answers):
            if query in dev.queries:
                found["dev"].append(query_id)
        elif others or query in held_out:
            found["test"].append(query_id)
    if not found["test"]:
        raise DatasetError(
            f"{dataset.name}: the model was trained on all of these queries or their answers, so none is left to test "
            "it on; evaluate on other data."
        )
    warning = (
        "None of these queries is a test query of the model's split; the model was tested on queries that it has not "
        "seen word for word, and some may be similar to queries that it has seen."
    )
    return UnseenQueries(
        tuple(found["test"]),
        tuple(found["dev"]),
        (warning,) if others and held_out else (),
        tuple(found["test_known"]),
        tuple(found["dev_known"]),
    )


class _Seen:
    def __init__(self, part: Mapping[str, Any]) -> None:
        self.queries = frozenset(part.get("query_hashes") or ())
        self.answers = frozenset(part.get("answer_hashes") or ())

    def holds(self, query: str, answers: set[str]) -> bool:
        return query in self.queries or not self.answers.isdisjoint(answers)
