"""Teacher scores of the training pairs, on the scale of cosines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llama_index_ace_finetune.encoders.teacher import Teacher
from llama_index_ace_finetune.errors import ModelError, quoted
from llama_index_ace_finetune.training.data.examples import IndexedExamples

_LARGEST_COSINE = 1.001


def teacher_scores(
    teacher: Teacher, examples: IndexedExamples, *, name: str = "", cache: Path | None
) -> list[Mapping[int, float]]:
    """Return, per query, the teacher's score of each of its positives and mined negatives, by corpus row.

    Scores that are not cosines (such as the logits of a cross-encoder) are scaled to [0, 1]. Teachers take texts, so
    their tokenizers may be others than that of the model.

    Args:
        teacher: scores all pairs.
        examples: the training queries.
        name: of the teacher, for messages.
        cache: folder for vectors.

    Raises:
        ModelError: if the teacher leaves out a pair, or gives it a score that is NaN or infinite.
    """
    rows = [np.concatenate([a, b]) for a, b in zip(examples.relevant, examples.negatives, strict=True)]
    owner = np.repeat(np.arange(len(rows)), [len(of_query) for of_query in rows])
    flat = np.concatenate(rows).astype(np.int64)
    scores = teacher.score(examples.queries, examples.corpus, (owner, flat), cache=cache).astype(np.float64)
    if len(scores) != len(flat):
        raise ModelError(f"The teacher {name!r} gives {len(scores)} scores for {len(flat)} pairs; use another model.")
    broken = np.flatnonzero(~np.isfinite(scores))
    if len(broken):
        query, memory = examples.query_ids[owner[broken[0]]], examples.corpus_ids[flat[broken[0]]]
        raise ModelError(
            f"The teacher {name!r} gives {len(broken)} of {len(flat)} pairs no finite score (the first: query "
            f"{quoted(query)}, memory {quoted(memory)}); its weights are broken, use another model."
        )
    if len(scores) and np.abs(scores).max() > _LARGEST_COSINE:
        scores = (scores - scores.min()) / max(float(np.ptp(scores)), 1e-12)
    found: list[dict[int, float]] = [{} for _ in rows]
    for query, row, score in zip(owner.tolist(), flat.tolist(), scores.tolist(), strict=True):
        found[query][row] = score
    return list(found)
