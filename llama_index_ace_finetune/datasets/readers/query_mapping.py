"""Queries given as a mapping beside memories that have none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder, identifier_of
from llama_index_ace_finetune.datasets.source_location import Place
from llama_index_ace_finetune.datasets.text import id_from_text
from llama_index_ace_finetune.errors import DatasetError

RightAnswers: TypeAlias = str | int | Iterable[str | int] | Mapping[str, float]


def read_query_mapping(queries: Mapping[str, RightAnswers], builder: DatasetBuilder) -> None:
    """Add `{query text: memory id, several ids, or {memory id: grade}}`; query ids are made from the texts.

    Raises DatasetError.
    """
    if not isinstance(queries, Mapping):
        raise DatasetError("queries: a mapping of query texts to memory ids is expected; give a dict.")
    for number, (text, right) in enumerate(queries.items()):
        place = Place("queries", 0, f"entry {number}")
        query_id = builder.add_query(id_from_text("q", str(text)), text, place)
        for memory_id, grade in _grades(right, place).items():
            builder.judge(query_id, memory_id, grade, place)


def _grades(right: object, place: Place) -> dict[str, float]:
    if isinstance(right, Mapping):
        grades = {identifier_of(key, place): value for key, value in right.items()}
        if all(isinstance(value, (int, float)) for value in grades.values()):
            return {key: float(value) for key, value in grades.items()}
        raise DatasetError(f"{place}: a grade is no number; give memory ids with grades such as 0 or 1.")
    if isinstance(right, (str, int)):
        right = [right]
    if not isinstance(right, Iterable):
        raise DatasetError(f"{place}: a memory id or a list of ids is expected, found {type(right).__name__}.")
    return {identifier_of(key, place): 1.0 for key in right}
