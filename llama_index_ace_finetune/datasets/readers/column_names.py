"""Known names of columns; case, spaces, hyphens and underscores do not matter."""

from __future__ import annotations

import re
from collections.abc import Iterable

QUERY = (
    "query", "query_text", "question", "question_text", "anchor", "sentence_0", "search_query", "search_term",
    "search_text", "user_query", "user_question", "user_input", "prompt", "utterance", "sentence_1", "frage", "anfrage",
    "pergunta", "pregunta", "consulta", "domanda", "質問", "クエリ", "问题", "問題", "查询", "instruction",
    "queries", "questions",
)  # fmt: skip
"""Names of columns of queries, the most usual first."""

POSITIVE = ("positive", "positives", "pos", "positive_text", "positive_passage", "positive_passages", "positive_ctxs",
            "positive_document", "positive_documents")  # fmt: skip
PASSAGE = (
    "passage", "passages", "passage_text", "document", "documents", "document_text", "doc", "doc_text", "context",
    "contexts", "reference_contexts", "chunk", "chunk_text", "memory", "memory_text", "snippet", "snippet_text",
    "sentence_1", "sentence_2",
)  # fmt: skip
ANSWER = (
    "answer", "answers", "answer_text", "reference", "reference_answer", "ground_truth", "response", "reply",
    "completion", "antwort", "resposta", "respuesta", "réponse", "risposta", "回答", "答え", "答案",
)  # fmt: skip
TEXT = ("text", "content", "contents", "body", "page_content", "lesson", "fact")
"""Names of columns that hold any text: of a pair, or of a memory in a list of memories."""

LABEL = (
    "label", "score", "relevance", "relevant", "is_relevant", "grade", "relevance_score", "similarity",
    "similarity_score", "cosine", "cosine_similarity",
)  # fmt: skip
QUERY_ID = ("query_id", "qid", "question_id")
MEMORY_ID = (
    "memory_id", "positive_id", "positive_ids", "answer_id", "answer_ids", "passage_id", "context_id", "chunk_id",
    "node_id", "snippet_id", "corpus_id", "pid",
)  # fmt: skip
DOCUMENT_ID = ("doc_id", "document_id", "docid")
"""Ids of memories, or of documents that were cut into several memories."""

_NOT_A_TEXT = re.compile(r"(ids?|scores?|ranks?|sources?|counts?|labels?|types?|num|n|difficulty)$")


def squash(name: str) -> str:
    """Return the form under which names are compared: `Query ID`, `query-id` and `queryId` are one."""
    return re.sub(r"[\W_]+", "", name).casefold()


def first_of(names: Iterable[str], present: Iterable[str]) -> str | None:
    """Return the column of `present` that matches the first possible of `names`."""
    held: dict[str, str] = {}
    for column in present:
        held.setdefault(squash(column), column)
    return next((held[squash(name)] for name in names if squash(name) in held), None)


def is_negative(column: str) -> bool:
    """Return whether a column holds texts of negatives: `negative`, `hard_negatives`, `neg_1`, but not their ids."""
    words = [word for word in re.split(r"[\W_]+|(?<=[a-z])(?=[A-Z])", column) if word]
    name = squash(column)
    if not words or not ("negative" in name or re.fullmatch(r"(hard|easy|random)?negs?(ctxs|passages)?\d*", name)):
        return False
    numeric = words[0].casefold() in ("is", "num", "n", "count", "number")
    return not numeric and not _NOT_A_TEXT.fullmatch(words[-1].casefold())
