"""Small datasets in every format, written for these tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset

DOCSTORE = {
    "docstore/metadata": {},
    "docstore/data": {
        "note-1": {
            "__data__": {
                "id_": "note-1",
                "metadata": {"team": "it"},
                "text": "Retry the upload with a growing delay",
                "text_template": "{metadata_str}\n\n{content}",
                "metadata_template": "{key}: {value}",
                "metadata_seperator": "\n",
                "class_name": "TextNode",
            },
            "__type__": "1",
        },
        "whole": {"__data__": {"id_": "whole", "text": "A whole page", "class_name": "Document"}, "__type__": "4"},
    },
}


def suite() -> dict[str, Any]:
    """Two memories with three queries, one of them asked of both."""
    return {
        "metadata": {"generation_stats": {"total_queries_generated": 4}},
        "test_cases": [
            {
                "memory_id": 11,
                "content": "Retry the upload with a growing delay",
                "category": "ERRORS",
                "severity": 7,
                "original_queries": ["not used"],
                "generated_queries": [
                    {"query": "retry upload", "category": "direct", "difficulty": "easy", "expected_rank": 1},
                    {"query": "what to check first", "category": "casual", "difficulty": "hard"},
                ],
            },
            {
                "memory_id": "wal",
                "content": "Switch the journal to write-ahead logging",
                "category": "STORAGE",
                "generated_queries": [
                    {"query": "What to  check first", "category": "casual", "difficulty": "hard"},
                    {"query": "journal mode"},
                ],
            },
        ],
    }


def inventory() -> list[dict[str, Any]]:
    """The first memory of the suite, a copy of its text, and another one."""
    return [
        {"id": 11, "payload": {"lesson": "Retry the upload with a growing delay", "category": "ERRORS"}},
        {"id": 12, "payload": {"lesson": "retry the upload with a  growing delay", "severity": 3}},
        {"id": 13, "payload": {"content": "Close the file before renaming it"}},
    ]


CORPUS = [
    {"_id": "d1", "title": "Deadlocks", "text": "take locks in one order"},
    {"_id": "d2", "title": "", "text": "keep transactions short", "metadata": {"page": 3}},
    {"_id": "d3", "text": "back off and try again"},
]
QUERIES = [
    {"_id": "q1", "text": "why do my threads hang", "metadata": {"category": "symptom"}},
    {"_id": "q2", "text": "database is locked"},
]
QRELS = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq2\td3\t1\n"

QA = {
    "queries": {"q1": "why do my threads hang", "q2": "database is locked"},
    "corpus": {"d1": "take locks in one order", "d2": "keep transactions short"},
    "relevant_docs": {"q1": ["d1"], "q2": ["d2", "d1"]},
    "mode": "text",
}

BULLETS = {
    "bullets": {
        "s-1": {"id": "s-1", "section": "strategy", "content": "Read the log first", "helpful": 3, "status": "active"},
        "s-2": {"id": "s-2", "section": "strategy", "content": "Guess", "status": "invalid"},
        "s-3": {"id": "s-3", "content": "Pin it", "embedding_text": "Pin the versions", "embedding": [0.1, 0.2]},
    },
    "sections": {"strategy": ["s-1", "s-2"]},
    "next_id": 4,
}
LEGACY = {
    "sections": {"tools": [{"id": "t-1", "content": "Use ripgrep"}], "strategy": [{"id": "s-1", "content": "Plan"}]}
}
SKILLS = {"skills": {"k-1": {"id": "k-1", "section": "a", "content": "Quote the paths", "status": "active"}}}
SCHEMA_2 = {
    "schema_version": "2",
    "skills": {
        "k-1": {
            "id": "k-1",
            "section": "context",
            "issue": "The build hangs.",
            "insight": "Kill the daemon.",
            "keywords": ["gradle", "daemon"],
            "active": True,
        },
        "k-2": {"id": "k-2", "issue": "Old.", "insight": "", "keywords": [], "active": False},
    },
}

PAIRS = [
    {"query": "why do my threads hang", "positive": "take locks in one order", "negative": "keep transactions short"},
    {"query": "database is locked", "positive": "keep transactions short", "negative": "take locks in one order"},
]


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_json_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_beir(folder: Path, corpus: Any = None, queries: Any = None, qrels: str = QRELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(folder / "corpus.jsonl", CORPUS if corpus is None else corpus)
    write_json_lines(folder / "queries.jsonl", QUERIES if queries is None else queries)
    (folder / "qrels.tsv").write_text(qrels, encoding="utf-8")
    return folder


def make_dataset(
    queries: Mapping[str, str],
    memories: Mapping[str, str],
    judgements: Mapping[str, Mapping[str, float]],
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> RetrievalDataset:
    about = metadata or {}
    return RetrievalDataset(
        "made",
        {i: Memory(i, text) for i, text in memories.items()},
        {i: Query(i, text, about.get(i, {})) for i, text in queries.items()},
        judgements,
    )
