"""call_llm and AnswerLog: no answer lost, no call repeated."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import traceback
from pathlib import Path

import pytest

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.synthesis.answer_log import AnswerLog, prompt_key
from llama_index_ace_finetune.synthesis.call_llm import CallCounts, call_llm
from llama_index_ace_finetune.synthesis.settings import CallSettings
from tests.helpers.scripted_llm import ScriptedLLM

FAST = CallSettings(concurrency=4, retries=2, backoff=0.0, timeout=5)
PROMPTS = {prompt_key("scripted", f"prompt {n}"): f"prompt {n}" for n in range(20)}


def call(llm: ScriptedLLM, path: Path, settings: CallSettings = FAST) -> tuple[CallCounts, dict[str, str]]:
    with AnswerLog.open(path) as log:
        return asyncio.run(call_llm(llm, PROMPTS, log, settings=settings)), dict(log.answers)


def test_every_prompt_is_answered_once(tmp_path: Path) -> None:
    llm = ScriptedLLM(lambda prompt: prompt.upper(), delay=0.01)
    counts, answers = call(llm, tmp_path / "answers.jsonl")
    assert counts == CallCounts(called=20, logged=0, failed=0)
    assert answers == {key: prompt.upper() for key, prompt in PROMPTS.items()}
    assert sorted(llm.prompts) == sorted(PROMPTS.values())
    assert llm.most_running == 4
    again = ScriptedLLM(lambda prompt: "other")
    assert call(again, tmp_path / "answers.jsonl") == (CallCounts(called=0, logged=20, failed=0), answers)
    assert again.prompts == []


def test_failed_calls_are_retried_and_then_counted(tmp_path: Path) -> None:
    failures = {"prompt 3": 2, "prompt 4": 3}

    def answer(prompt: str) -> str:
        if failures.get(prompt, 0) > 0:
            failures[prompt] -= 1
            raise RuntimeError("429 Too Many Requests")
        return "ok"

    counts, answers = call(ScriptedLLM(answer), tmp_path / "answers.jsonl")
    assert counts == CallCounts(called=19, logged=0, failed=1)
    assert prompt_key("scripted", "prompt 4") not in answers
    assert call(ScriptedLLM(answer), tmp_path / "answers.jsonl")[0] == CallCounts(called=1, logged=19, failed=0)


def test_timeout_counts_as_failure(tmp_path: Path) -> None:
    slow = ScriptedLLM(lambda prompt: "late", delay=5)
    with pytest.raises(AceFinetuneError, match=r"answered none of the first 5 prompts .*check its address"):
        call(slow, tmp_path / "answers.jsonl", CallSettings(timeout=0.01, retries=0, backoff=0, concurrency=4))


def test_unreachable_model_stops_early(tmp_path: Path) -> None:
    def refuse(prompt: str) -> str:
        raise ConnectionError("Connection refused")

    llm = ScriptedLLM(refuse)
    with pytest.raises(AceFinetuneError, match="Connection refused"):
        call(llm, tmp_path / "answers.jsonl", CallSettings(retries=0, backoff=0, concurrency=1))
    assert len(llm.prompts) == 5


def test_a_key_that_a_gateway_sends_back_is_masked(tmp_path: Path) -> None:
    class WithKey(ScriptedLLM):
        @property
        def api_key(self) -> str:
            return "sk-0123456789-secret"

    def refuse(prompt: str) -> str:
        raise ConnectionError("401: no user has the key sk-0123456789-secret")

    with pytest.raises(AceFinetuneError, match=r"no user has the key \*\*\*\)") as failed:
        call(WithKey(refuse), tmp_path / "answers.jsonl", CallSettings(retries=0, backoff=0, concurrency=1))
    assert "secret" not in "".join(traceback.format_exception(failed.value))  # as with --verbose


def test_wait_that_the_server_asks_for(tmp_path: Path) -> None:
    class RateLimitError(Exception):
        response = type("Response", (), {"headers": {"retry-after": "0.2"}})()

    refused: list[float] = []

    def answer(prompt: str) -> str:
        if not refused:
            refused.append(time.monotonic())
            raise RateLimitError
        return "ok"

    started = time.monotonic()
    call(ScriptedLLM(answer), tmp_path / "answers.jsonl", CallSettings(concurrency=1, backoff=0))
    assert time.monotonic() - started >= 0.2


def test_requests_per_minute(tmp_path: Path) -> None:
    started = time.monotonic()
    call(ScriptedLLM(str.upper), tmp_path / "answers.jsonl", CallSettings(requests_per_minute=6000))
    assert time.monotonic() - started >= 19 * 0.01


def test_incomplete_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"key": "a", "answer": "one"}\n{"key": "b", "ans')
    with AnswerLog.open(path) as log:
        assert log.answers == {"a": "one"}
        log.add("c", "zwei \ud800")
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "c"]


@pytest.mark.parametrize("line", ["[]", '{"key": 1, "answer": "x"}', "query,answer", "[" * 100_000])
def test_other_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(AceFinetuneError, match="line 1 is not a stored answer"), AnswerLog.open(path):
        pass
    assert path.read_text() == line + "\n"


def test_second_process_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with (
        AnswerLog.open(path),
        pytest.raises(AceFinetuneError, match="Another process is writing"),
        AnswerLog.open(path),
    ):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_kill_loses_no_answer(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    script = textwrap.dedent(f"""
        import asyncio
        from pathlib import Path
        from llama_index_ace_finetune.synthesis.answer_log import AnswerLog
        from llama_index_ace_finetune.synthesis.call_llm import call_llm
        from tests.helpers.scripted_llm import ScriptedLLM
        def answer(prompt):
            print(prompt, flush=True)
            return prompt
        with AnswerLog.open(Path({str(path)!r})) as log:
            asyncio.run(call_llm(ScriptedLLM(answer, delay=.002), {{str(n): f"p{{n}}" for n in range(5000)}}, log))
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    answered = [process.stdout.readline().strip() for _ in range(100)]
    os.kill(process.pid, signal.SIGKILL)
    answered += process.stdout.read().split()
    process.wait()
    process.stdout.close()
    with AnswerLog.open(path) as log:
        # Answers that came in the moment of the kill may be missing, at most one per concurrent call.
        assert len(set(answered) - set(log.answers.values())) <= 8
        assert len(log.answers) >= 92
