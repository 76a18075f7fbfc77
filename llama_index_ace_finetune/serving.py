"""Serving: the system that a retriever serves by a run's decision, and how it is read from the run's files."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from typing_extensions import NotRequired, TypedDict

from llama_index_ace_finetune.errors import AceFinetuneError, quoted
from llama_index_ace_finetune.late_interaction.settings import LARGEST_POOLING
from llama_index_ace_finetune.ranking.further_vectors import LARGEST_OFFSET
from llama_index_ace_finetune.ranking.fusion_settings import FusionKind, FusionSettings
from llama_index_ace_finetune.ranking.known_field import LARGEST_WEIGHT
from llama_index_ace_finetune.ranking.reciprocal_rank_fusion import FUSION_DEPTH
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.validation import checked

RUN_FILE: Final = Refusal("The file", "make the run again")


@dataclass(frozen=True, slots=True)
class SparseEncoderRecord:
    """The sparse encoder that a run was evaluated with: its folder or hub name, and its fingerprint."""

    name: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Serving:
    """The system selected on dev: vectors of the tuned or the base model, the legs, and how they are fused.

    Attributes:
        vectors: of the tuned or the base model.
        weights: of the dense and the BM25 leg under RRF; a leg with weight 0 is not needed.
        baseline_weights: used if retrieval falls back to the base model; None if they are the same.
        fusion: legs, weights and fusion method of the system; None for RRF with `weights`.
        baseline_fusion: used if retrieval falls back to the base model; None for RRF with `baseline_weights`.
        sparse_encoder: of the leg "sparse"; None if neither fusion has it.
        known_query_offset: what is taken off the cosine with a known query, if known queries are further vectors of
            their memories; None if they are not.
        windows: whether windows of long texts are further vectors of their memories.
        known_query_weight: of known queries in BM25; 0 if BM25 reads the texts only.
        token_pooling: tokens per stored vector of late interaction.
    """

    vectors: Literal["model", "base"] = "model"
    weights: tuple[float, float] = (1.0, 1.0)
    baseline_weights: tuple[float, float] | None = None
    fusion: FusionSettings | None = None
    baseline_fusion: FusionSettings | None = None
    sparse_encoder: SparseEncoderRecord | None = None
    known_query_offset: float | None = None
    windows: bool = False
    known_query_weight: int = 0
    token_pooling: int = 1

    @property
    def uses_known_queries(self) -> bool:
        """Whether the system needs the known queries of the memories."""
        return self.known_query_offset is not None or self.known_query_weight > 0

    @property
    def has_late_interaction(self) -> bool:
        """Whether the system needs the token vectors of the memories."""
        return self.fusion is not None and "late" in self.fusion.weights


def parse_serving(content: dict[str, Any], file: Path) -> Serving:
    """Return the system in the content of a report or a manifest; errors name its file.

    Raises:
        AceFinetuneError: if it is corrupt.
    """
    chosen = checked(content, _Report, file, RUN_FILE)["serving"]
    serving = Serving(
        chosen["vectors"],
        chosen["weights"],
        chosen.get("baseline_weights"),
        _fusion(chosen.get("fusion"), file, "fusion"),
        _fusion(chosen.get("baseline_fusion"), file, "baseline_fusion"),
        SparseEncoderRecord(**encoder) if (encoder := chosen.get("sparse_encoder")) else None,
        chosen.get("known_query_offset"),
        chosen.get("windows", False),
        chosen.get("known_query_weight", 0),
        chosen.get("token_pooling", 1),
    )
    offset = serving.known_query_offset
    if offset is not None and not 0 <= offset <= LARGEST_OFFSET:
        raise RUN_FILE.because(file, f"is corrupt (serving.known_query_offset: {quoted(offset)})")
    if not 0 <= serving.known_query_weight <= LARGEST_WEIGHT:
        raise RUN_FILE.because(file, f"is corrupt (serving.known_query_weight: {quoted(serving.known_query_weight)})")
    if serving.token_pooling not in range(1, LARGEST_POOLING + 1):
        raise RUN_FILE.because(file, f"is corrupt (serving.token_pooling: {quoted(serving.token_pooling)})")
    for pair in (serving.weights, serving.baseline_weights):
        if pair and not all(0 <= weight < math.inf for weight in pair):
            raise RUN_FILE.because(file, f"is corrupt (serving.weights: {quoted(pair)})")
    return serving


def _fusion(chosen: _Fusion | None, file: Path, name: str) -> FusionSettings | None:
    if chosen is None:
        return None
    try:
        return FusionSettings(
            kind=chosen["kind"],
            weights={leg: weight for leg, weight in chosen["weights"].items() if weight != 0},  # type: ignore[misc]
            depth=chosen.get("depth", FUSION_DEPTH),
        )
    except AceFinetuneError as error:
        raise RUN_FILE.because(file, f"is corrupt (serving.{name}: {str(error).rstrip('.')})") from error


class _Fusion(TypedDict):
    kind: FusionKind
    weights: dict[str, float]
    depth: NotRequired[int]


class _Chosen(TypedDict):
    vectors: Literal["model", "base"]
    weights: tuple[float, float]
    baseline_weights: NotRequired[tuple[float, float] | None]
    fusion: NotRequired[_Fusion | None]
    baseline_fusion: NotRequired[_Fusion | None]
    sparse_encoder: NotRequired[_SparseEncoder | None]
    known_query_offset: NotRequired[float | None]
    windows: NotRequired[bool]
    known_query_weight: NotRequired[int]
    token_pooling: NotRequired[int]


class _SparseEncoder(TypedDict):
    name: str
    fingerprint: str


class _Report(TypedDict):
    """The part of a report that serving reads."""

    serving: _Chosen
