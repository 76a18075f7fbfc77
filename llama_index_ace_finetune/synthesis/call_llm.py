"""Call a language model for many prompts, with bounded concurrency, retries and a log of the answers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from llama_index_ace_finetune.errors import AceFinetuneError, first_line
from llama_index_ace_finetune.synthesis.answer_log import AnswerLog
from llama_index_ace_finetune.synthesis.settings import CallSettings

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

_MAX_WAIT: Final = 60.0
# Prompts in a row that fail after all retries, before any succeeds, until the model counts as unreachable.
_HOPELESS: Final = 5
_SHORTEST_KEY: Final = 8  # shorter ones are placeholders of servers without keys


@dataclass(frozen=True)
class CallCounts:
    """How many prompts were answered by calls, were answered in the log, or failed after all retries."""

    called: int
    logged: int
    failed: int


async def call_llm(
    llm: LLM,
    prompts: Mapping[str, str],
    log: AnswerLog,
    *,
    settings: CallSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> CallCounts:
    """Write the model's answer to each prompt to the log; prompts with an answer there are not sent.

    Args:
        llm: any LlamaIndex language model.
        prompts: texts by the key of `prompt_key`.
        log: receives each answer as soon as it arrives.
        settings: concurrency, time limit, retries.
        progress: called with 1 for each prompt that is finished.

    Raises:
        AceFinetuneError: if the first prompts all fail.
    """
    calls = _Calls(llm, log, settings or CallSettings(), progress or (lambda count: None))
    waiting = [(key, prompt) for key, prompt in prompts.items() if key not in log.answers]
    calls.progress(len(prompts) - len(waiting))
    queue = iter(waiting)
    workers = [asyncio.ensure_future(calls.work(queue)) for _ in range(min(calls.settings.concurrency, len(waiting)))]
    try:
        await asyncio.gather(*workers)
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
    return CallCounts(called=calls.called, logged=len(prompts) - len(waiting), failed=calls.failed)


class _Calls:
    """The state that the workers share."""

    def __init__(self, llm: LLM, log: AnswerLog, settings: CallSettings, progress: Callable[[int], None]) -> None:
        self.llm, self.log, self.settings, self.progress = llm, log, settings, progress
        self.called = self.failed = 0
        self._next_start = 0.0

    async def work(self, queue: object) -> None:
        for key, prompt in queue:  # type: ignore[attr-defined]  # an iterator shared by all workers
            try:
                answer = await self._answer(prompt)
            except Exception as error:  # of any provider's library
                self.failed += 1
                if not self.called and self.failed >= _HOPELESS:
                    reason = first_line(error)
                    shown = self._without_key(reason)
                    raise AceFinetuneError(
                        f"The language model answered none of the first {self.failed} prompts "
                        f"({shown}); check its address, name and key."
                    ) from (error if shown == reason else None)
            else:
                self.called += 1
                self.log.add(key, answer)
            self.progress(1)

    async def _answer(self, prompt: str) -> str:
        for attempt in range(self.settings.retries + 1):
            await self._wait_for_turn()
            try:
                response = await asyncio.wait_for(self.llm.acomplete(prompt), self.settings.timeout)
                return str(response.text or "")
            except Exception as error:
                if attempt == self.settings.retries:
                    raise
                wait = _retry_after(error) or self.settings.backoff * 2**attempt * (1 + random.random())
                await asyncio.sleep(min(wait, _MAX_WAIT))
        raise AssertionError("unreachable")

    def _without_key(self, text: str) -> str:
        """Mask the API key, which some gateways send back in their errors."""
        key = getattr(self.llm, "api_key", None)
        return text.replace(key, "***") if isinstance(key, str) and len(key) >= _SHORTEST_KEY else text

    async def _wait_for_turn(self) -> None:
        if self.settings.requests_per_minute is None:
            return
        now = asyncio.get_running_loop().time()
        start = max(now, self._next_start)
        self._next_start = start + 60 / self.settings.requests_per_minute
        await asyncio.sleep(start - now)


def _retry_after(error: Exception) -> float | None:
    """Return the seconds of a Retry-After header, which the errors of HTTP clients carry."""
    headers = getattr(getattr(error, "response", None), "headers", None)
    try:
        return float(headers["retry-after"]) if headers else None
    except (KeyError, TypeError, ValueError):
        return None
