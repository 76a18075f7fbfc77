"""A small language model in this process, as a LlamaIndex LLM."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import torch
from llama_index.core.bridge.pydantic import PrivateAttr
from llama_index.core.llms import CompletionResponse, CompletionResponseGen, CustomLLM, LLMMetadata
from transformers import AutoModelForCausalLM, AutoTokenizer

CONTEXT = 2048  # tokens of a prompt; a longer one loses its start


class LocalLLM(CustomLLM):
    """A model folder of transformers, which completes a prompt greedily; prompts that wait together are one batch."""

    folder: str
    max_tokens: int = 24
    batch: int = 16
    tokens: int = 0  # written so far, and the seconds that they took
    seconds: float = 0.0
    _model: Any = PrivateAttr()
    _tokenizer: Any = PrivateAttr()
    _waiting: list[tuple[str, asyncio.Future[str]]] = PrivateAttr(default_factory=list)
    _one_batch: asyncio.Lock = PrivateAttr(default_factory=asyncio.Lock)

    def __init__(self, folder: Path, **options: Any) -> None:
        super().__init__(folder=str(folder), **options)
        sides = {"padding_side": "left", "truncation_side": "left"}
        self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, **sides)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(model_name=Path(self.folder).name, is_chat_model=False)

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return CompletionResponse(text=self._answers([prompt])[0])

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        raise NotImplementedError

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting.append((prompt, answer))
        async with self._one_batch:
            while not answer.done():
                chosen = self._waiting[: self.batch]
                texts = await asyncio.to_thread(self._answers, [prompt for prompt, _ in chosen])
                del self._waiting[: len(chosen)]
                for (_, future), text in zip(chosen, texts, strict=True):
                    future.set_result(text)
        return CompletionResponse(text=await answer)

    @torch.inference_mode()
    def _answers(self, prompts: list[str]) -> list[str]:
        start = time.perf_counter()
        inputs = self._tokenizer(prompts, return_tensors="pt", padding=True, truncation=True, max_length=CONTEXT)
        written = self._model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False)
        answers = written[:, inputs["input_ids"].shape[1] :]
        self.tokens += answers.numel()
        self.seconds += time.perf_counter() - start
        return self._tokenizer.batch_decode(answers, skip_special_tokens=True)
