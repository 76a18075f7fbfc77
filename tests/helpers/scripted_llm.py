"""A language model whose answers a test writes, and which records its prompts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from pydantic import PrivateAttr


class ScriptedLLM(CustomLLM):
    """Answers each prompt by a function, which may raise; `delay` in seconds."""

    delay: float = 0.0
    _answer: Callable[[str], str] = PrivateAttr()
    _prompts: list[str] = PrivateAttr(default_factory=list)
    _running: int = PrivateAttr(default=0)
    _most_running: int = PrivateAttr(default=0)

    def __init__(self, answer: Callable[[str], str], **values: Any) -> None:
        super().__init__(**values)
        self._answer = answer

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name="scripted")

    @property
    def prompts(self) -> list[str]:
        return self._prompts

    @property
    def most_running(self) -> int:
        return self._most_running

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._prompts.append(prompt)
        return CompletionResponse(text=self._answer(prompt))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self._running += 1
        self._most_running = max(self._most_running, self._running)
        try:
            await asyncio.sleep(self.delay)
            return self.complete(prompt)
        finally:
            self._running -= 1

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError
