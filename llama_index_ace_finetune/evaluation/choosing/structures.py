"""Structure: a system that can be served, without its weights; and the structures that are compared on dev."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.ranking.fusion_settings import FusionKind, FusionSettings, Leg

Embedding = Literal["tuned", "base", "none"]

# About milliseconds per query plus kilobytes per memory, with 10,000 memories of 100 words. Measured times would make
# the choice differ from run to run.
_COST: Final[Mapping[Leg, float]] = {
    "bm25": 1.0,
    "bm25_unstemmed": 1.0,
    "char_ngrams": 4.0,
    "dense": 10.0,
    "late": 10.0,
    "base": 12.0,
    "sparse": 15.0,
}
_WINDOW_COST: Final = 3.0
WINDOWS: Final = "windows"
LEG_NAMES: Final[Mapping[Leg, str]] = {
    "base": "base",
    "bm25": "BM25",
    "bm25_unstemmed": "BM25 unstemmed",
    "char_ngrams": "character n-grams",
    "sparse": "sparse encoder",
    "late": "late interaction",
}
_LEXICAL: Final[tuple[Leg, ...]] = ("bm25", "bm25_unstemmed", "char_ngrams", "sparse")
# A cosine of unrelated texts is far above its floor and a BM25 score is near it, so small weights of BM25 matter most.
_LEXICAL_WEIGHTS: Final = (0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
_LEXICAL_WEIGHTS_COARSE: Final = (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.45, 0.65)
_LATE_WEIGHTS: Final = (0.2, 0.4, 0.6, 0.75, 0.9)
_BASE_WEIGHTS: Final = (0.25, 0.5)
_RRF_WEIGHTS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Near the highest mean MRR@10 over four public datasets, with the untuned model.
_NEUTRAL_LEXICAL: Final = 0.15
_NEUTRAL_LEXICAL_BESIDE_LATE: Final = 0.1
_NEUTRAL_LATE: Final = 0.75
_NEUTRAL_BASE: Final = 0.25


@dataclass(frozen=True)
class Structure:
    """A system without its weights.

    Attributes:
        embedding: the model of the dense leg and of late interaction; "none" for lexical legs only.
        kind: fusion method; of a single leg, which needs none, "convex".
        legs: in the order of the weights.
        grid: weights to try, each row with a sum of 1.
        neutral: the weights to prefer where dev shows no difference.
        windows: whether windows of long texts are further vectors of their memories in the dense leg.
    """

    embedding: Embedding
    kind: FusionKind
    legs: tuple[Leg, ...]
    grid: tuple[tuple[float, ...], ...]
    neutral: tuple[float, ...]
    windows: bool = False

    @cached_property
    def name(self) -> str:
        """The name in reports."""
        dense = f"{self.embedding} ({WINDOWS})" if self.windows else self.embedding
        legs = [dense if leg == "dense" else LEG_NAMES[leg] for leg in self.legs]
        kind = {"rrf": ", RRF", "convex": ", convex"}[self.kind] if len(legs) > 1 else ""
        return " + ".join(legs) + kind

    def system_name(self, row: int) -> str:
        """The name with the weights of a row of the grid: rank fusion is named by whether they are equal."""
        if self.kind == "convex":
            return self.name
        return self.name.replace(", RRF", "" if len(set(self.grid[row])) == 1 else ", dev weights")

    @property
    def trained(self) -> bool:
        """Whether it needs the tuned model."""
        return self.embedding == "tuned"

    @property
    def cost(self) -> float:
        """Typical cost, to compare structures: about milliseconds per query plus kilobytes per memory."""
        return sum(_COST[leg] for leg in self.legs) + (_WINDOW_COST if self.windows else 0.0)

    @property
    def neutral_row(self) -> int:
        """The row of the neutral weights in the grid."""
        return self.grid.index(self.neutral)

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """How far the weights of each row of the grid are from neutral, float64 [w]."""
        distances: NDArray[np.float64] = np.abs(np.array(self.grid) - np.array(self.neutral)).sum(axis=1).round(9)
        return distances

    def settings(self, row: int) -> FusionSettings:
        """Return the system with the weights of a row of the grid."""
        return FusionSettings(kind=self.kind, weights=dict(zip(self.legs, self.grid[row], strict=True)))


def structures(available: Collection[Leg], *, embeddings: Sequence[Embedding]) -> tuple[Structure, ...]:
    """Return the structures to compare, from cheap to dear.

    Args:
        available: legs that can be served, the dense one not named.
        embeddings: the models that can be served, "tuned" or "base"; lexical legs only are compared in any case.
    """
    found = [_structure("none", "convex", legs) for legs in _LEXICAL_ONLY]
    for embedding in embeddings:
        found.append(_structure(embedding, "convex", ("dense",)))
        found.append(_structure(embedding, "rrf", ("dense", "bm25")))
        for late in ((), ("late",)):
            found += [_structure(embedding, "convex", ("dense", *lexical, *late)) for lexical in _BESIDE_DENSE]
            if late:
                found.append(_structure(embedding, "convex", ("dense", *late)))
            if embedding == "tuned":
                found += [
                    _structure(embedding, "convex", ("dense", "base", *lexical, *late)) for lexical in _BESIDE_BASE
                ]
    can_be_served = {"dense", *available}
    return tuple(sorted((one for one in found if can_be_served.issuperset(one.legs)), key=lambda one: one.cost))


def with_windows(those: Sequence[Structure]) -> tuple[Structure, ...]:
    """Return the structures with a dense leg that is fused by score, or dense only, each with windows."""
    return tuple(replace(one, windows=True) for one in those if one.kind == "convex" and "dense" in one.legs)


_LEXICAL_ONLY: Final[tuple[tuple[Leg, ...], ...]] = (
    ("bm25",),
    ("bm25_unstemmed",),
    ("bm25", "bm25_unstemmed"),
    ("bm25", "bm25_unstemmed", "char_ngrams"),
)
_BESIDE_DENSE: Final[tuple[tuple[Leg, ...], ...]] = (
    ("bm25",),
    ("bm25_unstemmed",),
    ("bm25", "bm25_unstemmed"),
    ("bm25", "char_ngrams"),
    ("bm25", "bm25_unstemmed", "char_ngrams"),
    ("sparse",),
    ("bm25", "sparse"),
)
_BESIDE_BASE: Final[tuple[tuple[Leg, ...], ...]] = (("bm25",), ("bm25", "bm25_unstemmed", "char_ngrams"))


def _structure(embedding: Embedding, kind: FusionKind, legs: tuple[Leg, ...]) -> Structure:
    if kind == "rrf":
        pairs = tuple((round(1 - weight, 10), weight) for weight in _RRF_WEIGHTS)
        return Structure(embedding, kind, legs, pairs, (0.5, 0.5))
    lexical = tuple(leg for leg in legs if leg in _LEXICAL)
    semantic = len(legs) > len(lexical)
    mixes = _mixes(len(lexical))
    weights = _LEXICAL_WEIGHTS if len(legs) == 2 else _LEXICAL_WEIGHTS_COARSE
    options = (
        weights if lexical and semantic else (1.0,) if lexical else (0.0,),
        _LATE_WEIGHTS if "late" in legs else (0.0,),
        _BASE_WEIGHTS if "base" in legs else (0.0,),
    )
    grid = [_weights(legs, lexical, mix, *shares) for mix in mixes for shares in itertools.product(*options)]
    shares = (
        _NEUTRAL_LEXICAL_BESIDE_LATE if "late" in legs else _NEUTRAL_LEXICAL,
        _NEUTRAL_LATE if "late" in legs else 0.0,
        _NEUTRAL_BASE if "base" in legs else 0.0,
    )
    if not (lexical and semantic):
        shares = (float(bool(lexical)), *shares[1:])
    neutral = _weights(legs, lexical, mixes[0], *shares)
    return Structure(embedding, kind, legs, tuple(dict.fromkeys([neutral, *grid])), neutral)


def _mixes(count: int) -> tuple[tuple[float, ...], ...]:
    """Shares of the lexical legs, the neutral ones first."""
    if count == 2:
        return ((0.75, 0.25), (0.5, 0.5), (0.25, 0.75))
    return ((1 / count,) * count,) if count else ((),)


def _weights(
    legs: tuple[Leg, ...], lexical: tuple[Leg, ...], mix: tuple[float, ...], words: float, late: float, base: float
) -> tuple[float, ...]:
    """Return the weights in the order of `legs`, from shares: words of all, late of the rest, base of that."""
    rest = 1 - words
    of: dict[Leg, float] = {
        "dense": rest * (1 - late) * (1 - base),
        "base": rest * (1 - late) * base,
        "late": rest * late,
        **{leg: words * one for leg, one in zip(lexical, mix, strict=True)},
    }
    return tuple(round(of[leg], 6) for leg in legs)
