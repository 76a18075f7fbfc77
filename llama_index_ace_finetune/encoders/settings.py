"""Settings of an encoder."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from llama_index_ace_finetune.errors import ModelError, quoted


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Settings that affect vectors, and where they are computed.

    Attributes:
        max_seq_length: maximum tokens per text; by default that of the checkpoint.
        query_prompt: overrides the prompt of the checkpoint or its family; None keeps it.
        document_prompt: the same for documents.
        truncate_dim: keep the first dimensions only (Matryoshka models); all by default.
        precision: "float32"; "bfloat16", faster on hardware that computes in it; "auto" uses bfloat16 if the device
            supports it natively. Vectors agree to a cosine of about .9999, so it is not part of the fingerprint; mined
            hard negatives differ.
        trust_remote_code: run code in the model folder; off by default.
        device: torch device; the best one by default. Not part of the fingerprint.
        batch_size: texts per forward pass. Not part of the fingerprint.
    """

    max_seq_length: int | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    truncate_dim: int | None = None
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    trust_remote_code: bool = False
    device: str | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ModelError(f"The precision is {quoted(self.precision)}; it must be auto, float32 or bfloat16.")

    def vector_settings(self) -> dict[str, object]:
        """The settings that change the vector space."""
        kept = asdict(self)
        for name in ("device", "batch_size", "precision", "trust_remote_code"):
            del kept[name]
        return kept
