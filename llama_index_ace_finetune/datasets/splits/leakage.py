"""Leakage check of training data against its split."""

from __future__ import annotations

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import LeakageError

_LATER = {"training": ("dev", "test", "dev_known", "test_known"), "dev": ("test", "test_known")}


def require_held_out(data: TrainingData) -> None:
    """Raise LeakageError if a train example holds a query or an answer of dev or test, or a dev example one of test.

    Checked by the hashes of the split's manifest, so that edited texts and changed ids are noticed. Data without a
    manifest pass, since nothing is known to be held out. Negatives of dev examples are not used and not checked.
    """

    def hashes(kind: str, parts: tuple[str, ...]) -> set[str]:
        held = (data.split or {}).get(kind) or {}
        return {hashed for part in parts for hashed in (held.get(part) or {}).values()}

    held_out = {part: (hashes("queries", later), hashes("answers", later)) for part, later in _LATER.items()}
    known = any(answers for _, answers in held_out.values())
    texts = {identifier: text_hash(text) for identifier, text in data.memories.items()} if known else {}
    for example in data.examples:
        if example.split == "test":
            continue
        part = "dev" if example.split == "dev" else "training"
        queries, answers = held_out[part]
        if text_hash(example.query) in queries:
            raise LeakageError(
                f"The {part} query {example.query_id!r} is held out by the split; generate the training data again."
            )
        negatives = example.negative_ids if part == "training" else ()
        for kind, identifiers in (("positive", example.positive_ids), ("negative", negatives)):
            leaked = next((i for i in identifiers if texts.get(i) in answers), None)
            if leaked is not None:
                raise LeakageError(
                    f"The memory {leaked!r}, a {kind} of {part} query {example.query_id!r}, is held out; "
                    "generate the training data again."
                )
