"""FallbackEvent: tells LlamaIndex's instrumentation that a search was not served by the tuned model."""

from __future__ import annotations

from llama_index.core.instrumentation.events.base import BaseEvent  # type: ignore[attr-defined]


class FallbackEvent(BaseEvent):
    """A step down the ladder.

    failed: whose vectors could not be searched, "finetuned" or "baseline".
    reason: "missing", "mismatch", "error", "timeout", or "paused" while it is left alone after failures.
    detail: the error's message.
    """

    failed: str
    reason: str
    detail: str

    @classmethod
    def class_name(cls) -> str:
        """Name under which LlamaIndex serialises the class."""
        return "FallbackEvent"
