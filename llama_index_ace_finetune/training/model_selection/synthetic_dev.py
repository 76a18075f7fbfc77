"""How far from the base the weights may be where only synthetic queries decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from llama_index_ace_finetune.datasets.training_data import TrainingExample
from llama_index_ace_finetune.datasets.types import OFFLINE, SYNTHETIC
from llama_index_ace_finetune.evaluation.choosing.choose import MIN_QUERIES

LARGEST_ALPHA: Final = 0.5


def largest_alpha(dev: Sequence[TrainingExample]) -> float:
    """Return the largest share of the tuned weights (alpha) that ships after a selection on these queries: 1, or half.

    Synthetic dev queries resemble the synthetic training queries, so that they favour all of the tuned weights, and
    cannot show what queries of users lose. Interpolated weights keep most of what a base model can do on queries of
    another kind (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). Half is the limit if all dev queries are made of the
    memories' own words, or are synthetic and fewer than 40. MRR@10 on test queries of users, by alpha:

    | set | made by | dev | 0 | .25 | .5 | 1 |
    |---|---|---|---|---|---|---|
    | ace | own words | 149 | .443 | .502 | .529 | .498 |
    | msvc_errors | own words | 146 | .463 | .506 | .490 | .454 |
    | nl2bash | a language model | 13 | .488 | .485 | .481 | .465 |
    | ace | a language model | 123 | .443 | .496 | .539 | .579 |
    """
    makers = [example.metadata.get(SYNTHETIC) for example in dev]
    if not makers or not all(makers):
        return 1.0
    return LARGEST_ALPHA if len(makers) < MIN_QUERIES or set(makers) == {OFFLINE} else 1.0
