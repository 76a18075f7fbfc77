"""How a model is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from llama_index_ace_finetune.errors import ModelError, quoted


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """What changes a vector, and where it is computed.

    Attributes:
        max_seq_length: tokens per text; the checkpoint's own by default.
        query_prompt: overrides the prompt that the checkpoint or its family gives; None leaves it.
        document_prompt: likewise for documents.
        truncate_dim: keep the first dimensions only (Matryoshka models); all by default.
        precision: "float32"; "bfloat16", a few times as fast where the processor has it; "auto" takes bfloat16
            where the device says that it computes in it. Vectors agree to a cosine of about .9999, so it does not enter
            the fingerprint; hard negatives that were mined with one or the other differ.
        trust_remote_code: run code that comes with a model; off unless asked for.
        device: torch device; the best one by default. Does not enter the fingerprint.
        batch_size: texts per forward pass. Does not enter the fingerprint.
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
        """The settings that change the space a vector lies in."""
        kept = asdict(self)
        for name in ("device", "batch_size", "precision", "trust_remote_code"):
            del kept[name]
        return kept
