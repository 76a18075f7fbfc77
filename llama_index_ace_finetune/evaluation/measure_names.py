"""A measure by its name."""

from __future__ import annotations

import re

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.measures import MAP, MRR, NDCG, Measure, Recall, Success

_KINDS: dict[str, type[Measure]] = {
    "success": Success, "hit": Success, "recall": Recall, "mrr": MRR, "ndcg": NDCG, "map": MAP,
}  # fmt: skip
_NAME = re.compile(r"([a-z]+)@(\d{1,9})", re.IGNORECASE)


def parse_measure(name: str, *, original_names: bool = False) -> Measure:
    """Return the measure that prints itself as `name`; upper and lower case are the same.

    Args:
        name: such as `Success@5`, `Recall@5`, `MRR@10`, `nDCG@10`, `MAP@100`; `Hit@5` is another name of `Success@5`.
        original_names: read `Recall@k` as the original meant it, which is `Success@k`.

    Raises:
        AceFinetuneError: for a name that is none of these.
    """
    match = _NAME.fullmatch(name.strip())
    kind = _KINDS.get(match[1].lower()) if match else None
    if match is None or kind is None:
        raise AceFinetuneError(
            f"There is no measure {name!r}; write Success@k, Recall@k, MRR@k, nDCG@k or MAP@k with a number for k."
        )
    return (Success if original_names and kind is Recall else kind)(int(match[2]))
