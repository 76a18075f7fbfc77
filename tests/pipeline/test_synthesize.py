"""synthesize: files, resumption, the command, and a real HTTP endpoint."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.pipeline.synthesize import synthesize
from llama_index_ace_finetune.synthesis.endpoint import endpoint_llm
from llama_index_ace_finetune.synthesis.settings import SynthesisSettings
from tests.helpers.scripted_llm import ScriptedLLM

MEMORIES = [
    {"id": f"note-{n}", "text": f"{thing} of the {place} are checked by the {who} every {n + 2} days."}
    for n, (thing, place, who) in enumerate(
        (thing, place, who)
        for thing in ("Valves", "Filters", "Sensors")
        for place in ("boiler", "pump house")
        for who in ("night shift", "contractor")
    )
]


def part_of_the_memory(prompt: str) -> str:
    """The memory of a prompt without its last words: all of it would be a copy."""
    return " ".join(prompt.split("<memory>")[-1].split("Article: ")[-1].strip().split("\n")[0].split()[:-3])


@pytest.fixture
def memories(tmp_path: Path) -> Path:
    path = tmp_path / "memories.json"
    path.write_text(json.dumps(MEMORIES))
    return path


def test_offline_output_is_a_dataset(memories: Path, tmp_path: Path) -> None:
    result = synthesize(memories, tmp_path / "synthetic.jsonl", base_model=None)
    assert result.path is not None
    made = read_dataset(result.path, memories)
    assert len(made.queries) == result.report["kept"] > 12
    assert set(made.memories) == {row["id"] for row in MEMORIES}
    assert {query.metadata["synthetic"] for query in made.queries.values()} == {"offline"}
    report = json.loads((tmp_path / "synthetic.report.json").read_text())
    assert report["generated"] == report["kept"] + sum(report["left_out"].values())
    again = synthesize(memories, tmp_path / "again.jsonl", base_model=None)
    assert again.path is not None
    assert again.path.read_bytes() == result.path.read_bytes()


def test_language_model_is_not_called_again(memories: Path, tmp_path: Path) -> None:
    llm = ScriptedLLM(part_of_the_memory)
    settings = SynthesisSettings(num_queries=12, round_trip=None)
    out = tmp_path / "synthetic.jsonl"
    first = synthesize(memories, out, llm=llm, base_model=None, settings=settings)
    assert first.report["calls"] == {"called": 12, "logged": 0, "failed": 0}
    content = out.read_bytes()
    second = synthesize(memories, out, llm=llm, base_model=None, settings=settings)
    assert second.report["calls"] == {"called": 0, "logged": 12, "failed": 0}
    assert (len(llm.prompts), out.read_bytes()) == (12, content)


def test_nothing_left_is_an_error_and_writes_no_dataset(memories: Path, tmp_path: Path) -> None:
    out = tmp_path / "synthetic.jsonl"
    with pytest.raises(AceFinetuneError, match="No synthetic query is left of 0 \\(12 answers refusal\\)"):
        synthesize(memories, out, llm=ScriptedLLM(lambda prompt: "I'm sorry, I cannot."), base_model=None)
    assert not out.exists()


def test_dry_run_calls_and_writes_nothing(memories: Path, tmp_path: Path) -> None:
    llm = ScriptedLLM(lambda prompt: "never")
    result = synthesize(memories, tmp_path / "out" / "synthetic.jsonl", llm=llm, base_model=None, dry_run=True)
    assert (result.report["prompts"], llm.prompts, (tmp_path / "out").exists()) == (12, [], False)
    assert result.report["estimated_input_tokens"] == sum(map(len, result.plan.prompts.values())) // 4


class _Endpoint(BaseHTTPRequestHandler):
    """An OpenAI-compatible endpoint: the first call is refused for its rate, the others answer by the memory."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.headers["Authorization"], body["model"]))  # type: ignore[attr-defined]
        if len(self.server.seen) == 1:  # type: ignore[attr-defined]
            self.send_response(429)
            self.send_header("Retry-After", "0.01")
            self.end_headers()
            return
        if self.path == "/v1/completions":
            kind, content = "text_completion", {"text": f" {part_of_the_memory(body['prompt'])}\n\nArticle: more"}
        else:
            text = json.dumps([part_of_the_memory(body["messages"][-1]["content"])])
            kind, content = "chat.completion", {"message": {"role": "assistant", "content": text}}
        answer = json.dumps(
            {"id": "1", "object": kind, "created": 0, "model": body["model"],
             "choices": [{"index": 0, "finish_reason": "stop", **content}]}
        ).encode()  # fmt: skip
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def endpoint() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Endpoint) as server:
        server.seen = []  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


def test_openai_compatible_endpoint(memories: Path, tmp_path: Path, endpoint: ThreadingHTTPServer) -> None:
    openai_like = pytest.importorskip("llama_index.llms.openai_like")
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    llm = openai_like.OpenAILike(
        model="small", api_base=url, api_key="secret-key", is_chat_model=True, max_retries=0, timeout=5
    )
    out = tmp_path / "synthetic.jsonl"
    result = synthesize(memories, out, llm=llm, base_model=None, settings=SynthesisSettings(num_queries=12))
    assert result.report["calls"] == {"called": 12, "logged": 0, "failed": 0}
    assert endpoint.seen[0] == ("Bearer secret-key", "small")  # type: ignore[attr-defined]
    assert len(endpoint.seen) == 13  # type: ignore[attr-defined]
    assert not any("secret-key" in file.read_text() for file in tmp_path.glob("synthetic*"))


def test_small_model_completes_a_text(memories: Path, tmp_path: Path, endpoint: ThreadingHTTPServer) -> None:
    pytest.importorskip("llama_index.llms.openai_like")
    llm = endpoint_llm(f"http://127.0.0.1:{endpoint.server_port}/v1", "small", chat=False)
    settings = SynthesisSettings(num_queries=12, round_trip=None)
    out = tmp_path / "synthetic.jsonl"
    result = synthesize(memories, out, llm=llm, base_model=None, settings=settings, template="completion")
    assert result.report["calls"] == {"called": 12, "logged": 0, "failed": 0}
    assert result.report["kept"] + result.report["left_out"].get("repeated", 0) == 12
    queries = [query.text for query in read_dataset(out, memories).queries.values()]
    assert queries
    assert all(any(row["text"].startswith(query) for row in MEMORIES) for query in queries)


@pytest.mark.slow  # loads an embedding model
@pytest.mark.parametrize("template", [[], ["--template", "completion"]])
def test_command(memories: Path, tmp_path: Path, endpoint: ThreadingHTTPServer, template: list[str]) -> None:
    pytest.importorskip("llama_index.llms.openai_like")
    out = tmp_path / "synthetic.jsonl"
    url = f"http://127.0.0.1:{endpoint.server_port}/v1"
    options = ["--llm-url", url, "--llm-model", "small", "--num-queries", "12", *template]
    found = CliRunner().invoke(app, ["synthesize", "--data", str(memories), "--out", str(out), *options])
    assert found.exit_code == 0, found.output
    assert "12 calls, 0 answers from an earlier run, 0 failed" in found.output
    assert f"next: ace-finetune run --data {out}" in found.output.replace("\n", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--llm-model", "small"], "needs the endpoint"),
        (["--llm-url", "http://127.0.0.1:9"], "needs the name of a model"),
        (["--num-queries", "0"], "num_queries is 0"),
        (["--template", "missing.txt"], "missing.txt"),
    ],
)
def test_wrong_options_exit_2(memories: Path, tmp_path: Path, options: list[str], message: str) -> None:
    out = tmp_path / "s.jsonl"
    found = CliRunner().invoke(app, ["synthesize", "--data", str(memories), "--out", str(out), *options])
    assert (found.exit_code, out.exists()) == (2, False)
    assert message in found.output.replace("\n", " ")
