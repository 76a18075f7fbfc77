"""Whether training data keeps away from what its split holds out."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.normalise import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import LeakageError


def require_held_out(data: TrainingData) -> None:
    """Raise LeakageError if a train example holds a query or an answer that the split holds out.

    Checked by the hashes of the split's manifest, so that edited texts and changed ids are noticed too. Data without a
    manifest passes: nothing is known to be held out.
    """
    split = data.split or {}
    queries, answers = split.get("queries") or {}, split.get("answers") or {}
    held_queries = {hashed for part in ("dev", "test") for hashed in (queries.get(part) or {}).values()}
    held_answers = {hashed for part in ("dev", "test") for hashed in (answers.get(part) or {}).values()}
    hashes = {identifier: text_hash(text) for identifier, text in data.memories.items()} if held_answers else {}
    for example in data.examples:
        if example.split in ("dev", "test"):
            continue
        if text_hash(example.query) in held_queries:
            raise LeakageError(
                f"The training query {example.query_id!r} is held out by the split; generate the training data again."
            )
        for kind, identifiers in (("right answer", example.positive_ids), ("negative", example.negative_ids)):
            leaked = next((i for i in identifiers if hashes.get(i) in held_answers), None)
            if leaked is not None:
                raise LeakageError(
                    f"The memory {leaked!r}, a {kind} of training query {example.query_id!r}, is held out; "
                    "generate the training data again."
                )
