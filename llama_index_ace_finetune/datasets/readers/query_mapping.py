"""Queries as a mapping, for memories without queries."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from llama_index_ace_finetune.datasets.builder import DatasetBuilder, identifier_of
from llama_index_ace_finetune.datasets.source_location import SourceLocation
from llama_index_ace_finetune.datasets.text import id_from_text
from llama_index_ace_finetune.errors import DatasetError

RelevantIds: TypeAlias = str | int | Iterable[str | int] | Mapping[str, float]


def read_query_mapping(queries: Mapping[str, RelevantIds], builder: DatasetBuilder) -> None:
    """Add `{query text: memory id, several ids, or {memory id: grade}}`; query ids are derived from the texts.

    Raises DatasetError.
    """
    if not isinstance(queries, Mapping):
        raise DatasetError("queries: a mapping of query texts to memory ids is expected; give a dict.")
    for number, (text, relevant) in enumerate(queries.items()):
        location = SourceLocation("queries", 0, f"entry {number}")
        query_id = builder.add_query(id_from_text("q", str(text)), text, location)
        for memory_id, grade in _grades(relevant, location).items():
            builder.judge(query_id, memory_id, grade, location)


def _grades(relevant: object, location: SourceLocation) -> dict[str, float]:
    if isinstance(relevant, Mapping):
        grades = {identifier_of(key, location): value for key, value in relevant.items()}
        if all(isinstance(value, (int, float)) for value in grades.values()):
            return {key: float(value) for key, value in grades.items()}
        raise DatasetError(f"{location}: a grade is not a number; give memory ids with grades such as 0 or 1.")
    if isinstance(relevant, (str, int)):
        relevant = [relevant]
    if not isinstance(relevant, Iterable):
        raise DatasetError(f"{location}: a memory id or a list of ids is expected, found {type(relevant).__name__}.")
    return {identifier_of(key, location): 1.0 for key in relevant}
