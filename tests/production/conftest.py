from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llama_index_ace_finetune.production.log_settings import LogSettings
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import LoggedHit, RetrievalRecord


@pytest.fixture
def log(tmp_path: Path):
    with QueryLog.open(tmp_path / "queries.db", LogSettings(keep_days=None)) as log:
        yield log


@pytest.fixture
def record() -> Callable[..., RetrievalRecord]:
    """Records with hits "a", "b", ... unless they are given."""

    def make(query_id: str = "q1", query: str = "big uploads", hits: str = "abc", **fields: Any) -> RetrievalRecord:
        found = tuple(LoggedHit(node_id=node_id, rank=rank) for rank, node_id in enumerate(hits, start=1))
        return RetrievalRecord(**{"query_id": query_id, "query": query, "hits": found, "time": 2e9, "seconds": 0.01,
                                  **fields})  # fmt: skip

    return make
