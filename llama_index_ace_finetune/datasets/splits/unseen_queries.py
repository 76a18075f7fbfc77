"""Which queries of a dataset a model has not seen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError, LeakageError


@dataclass(frozen=True, slots=True)
class UnseenQueries:
    """Query ids that may be tested on, those that choices may be made on, and what a reader must know."""

    test: tuple[str, ...]
    dev: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def unseen_queries(dataset: RetrievalDataset, record: Mapping[str, Any] | None) -> UnseenQueries:
    """Divide a dataset's queries by what a model's record says that it has seen.

    A query is seen if its text, or the text of one of its right answers, was trained on or chosen on. Of the data that
    the model's split is of, only what it holds out is tested on; of other data, all that was not seen.

    Raises:
        LeakageError: if a query that the model's split holds out was seen all the same.
        DatasetError: if nothing is left to test on.
    """
    labelled = [query_id for query_id in dataset.queries if dataset.relevant(query_id)]
    if record is None:
        warning = "It is not known what this model was trained on; if it saw these queries, its figures are too high."
        return UnseenQueries(test=tuple(labelled), dev=(), warnings=(warning,))
    seen = record.get("seen") or {}
    train, dev = (_Seen(seen.get(part) or {}) for part in ("train", "dev"))
    held_out = set(((record.get("split") or {}).get("queries") or {}).get("test", {}).values())
    hashes = {query_id: text_hash(dataset.queries[query_id].text) for query_id in labelled}
    others = held_out.isdisjoint(hashes.values())
    chosen: dict[str, list[str]] = {"test": [], "dev": []}
    for query_id, query in hashes.items():
        answers = {text_hash(dataset.memories[answer].text) for answer in dataset.relevant(query_id)}
        if query in held_out and (train.holds(query, answers) or dev.holds(query, answers)):
            raise LeakageError(
                f"{dataset.name}: the query {query_id!r} is held out for testing, but the model has seen it or one of "
                "its right answers; split and train again."
            )
        if train.holds(query, answers):
            continue
        if dev.holds(query, answers):
            if query in dev.queries:
                chosen["dev"].append(query_id)
        elif others or query in held_out:
            chosen["test"].append(query_id)
    if not chosen["test"]:
        raise DatasetError(
            f"{dataset.name}: the model was trained on all of these queries or their answers, so none is left to test "
            "it on; evaluate on other data."
        )
    warning = (
        "None of these queries is one that the model's split holds out; those that it has not seen word for word were "
        "tested, of which some may be close to those that it has."
    )
    return UnseenQueries(tuple(chosen["test"]), tuple(chosen["dev"]), (warning,) if others and held_out else ())


class _Seen:
    def __init__(self, part: Mapping[str, Any]) -> None:
        self.queries = frozenset(part.get("query_hashes") or ())
        self.answers = frozenset(part.get("answer_hashes") or ())

    def holds(self, query: str, answers: set[str]) -> bool:
        return query in self.queries or not self.answers.isdisjoint(answers)
