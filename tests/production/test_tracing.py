from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.small_stores import node
from helpers.words_embedding import words_retriever
from llama_index.core.instrumentation import get_dispatcher

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.tracing import TracingHandler, search_attributes, trace_searches
from llama_index_ace_finetune.retrievers.search_event import SearchEvent

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TEXTS = {"uploads": "retry big uploads that time out", "backups": "keep backups of the database"}


@pytest.fixture
def handler() -> Iterator[TracingHandler]:
    pytest.importorskip("opentelemetry")
    handler = trace_searches()
    yield handler
    handlers = get_dispatcher().event_handlers
    handlers[:] = [one for one in handlers if one is not handler]


def test_attributes_of_a_search() -> None:
    [best, *_] = found = words_retriever([node(*item) for item in TEXTS.items()]).retrieve("big uploads")
    event = SearchEvent(
        query_id="q1", log_id=None, query="big uploads", results=found, seconds=0.1, mode="hybrid",
        served_by="finetuned", fingerprint="words", weights=(1.0, 0.5),
        fusion="rrf", leg_weights={"dense": 1.0, "bm25": 0.5}, rrf_k=60, team="t",
    )  # fmt: skip
    values = search_attributes(event)
    assert json.loads(values["gen_ai.retrieval.documents"])[0] == {"id": "uploads", "score": best.score}
    assert values["retrieval.documents.0.document.id"] == "uploads"
    assert json.loads(values["retrieval.documents.0.document.metadata"])["sparse_rank"] == 1
    own = {name.removeprefix("ace_finetune."): value for name, value in values.items() if name.startswith("ace_")}
    assert own == {
        "served_by": "finetuned", "fingerprint": "words", "mode": "hybrid", "team": "t", "query_id": "q1", "rrf_k": 60,
        "fusion": "rrf",
        "weights": [1.0, 0.5], "leg_weights": '{"dense": 1.0, "bm25": 0.5}',
        "dense_ranks": [1, 2], "sparse_ranks": [1, 0],
    }  # fmt: skip
    assert not any("big uploads" in str(value) for value in values.values())
    texts = search_attributes(event, texts=True)
    assert texts["gen_ai.retrieval.query.text"] == texts["input.value"] == "big uploads"
    assert texts["retrieval.documents.0.document.content"] == TEXTS["uploads"]


def test_attributes_are_on_the_current_span(handler: TracingHandler, log: QueryLog) -> None:
    sdk = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter, provider = InMemorySpanExporter(), sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    retriever = words_retriever([node(*item) for item in TEXTS.items()], query_log=log)
    with provider.get_tracer("test").start_as_current_span("mine"):
        [best, *_] = retriever.retrieve("big uploads")
    retriever.retrieve("outside of any span")
    [span] = exporter.get_finished_spans()
    assert span.attributes["ace_finetune.served_by"] == "finetuned"
    assert span.attributes["ace_finetune.query_id"] == best.query_id
    assert span.attributes["openinference.span.kind"] == "RETRIEVER"


@pytest.mark.parametrize(
    ("options", "fusion", "weights", "rrf_k"),
    [
        ({}, "rrf", {"dense": 1.0, "bm25": 1.0}, 60),
        (
            {"fusion": "convex", "leg_weights": {"dense": 0.7, "bm25": 0.2, "char_ngrams": 0.1}},
            "convex", {"dense": 0.7, "bm25": 0.2, "char_ngrams": 0.1}, None,
        ),
    ],
)  # fmt: skip
def test_served_fusion_is_in_the_event(
    handler: TracingHandler,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, Any],
    fusion: str,
    weights: dict[str, float],
    rrf_k: int | None,
) -> None:
    events: list[SearchEvent] = []
    monkeypatch.setattr(TracingHandler, "handle", lambda _, event, **__: events.append(event))
    words_retriever([node(*item) for item in TEXTS.items()], **options).retrieve("big uploads")
    [event] = [one for one in events if isinstance(one, SearchEvent)]
    assert (event.fusion, event.leg_weights, event.rrf_k) == (fusion, weights, rrf_k)
    values = search_attributes(event)
    assert values["ace_finetune.fusion"] == fusion
    assert json.loads(values["ace_finetune.leg_weights"]) == weights
    assert values.get("ace_finetune.rrf_k") == rrf_k


def test_without_opentelemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(AceFinetuneError, match=r"pip install .*\[tracing\]"):
        trace_searches()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "package"),
    [("trace_otel.py", "llama_index.observability.otel"), ("trace_openinference.py", "openinference.instrumentation")],
)
def test_examples_print_spans_with_what_served(example: str, package: str) -> None:
    pytest.importorskip(package)
    done = subprocess.run([sys.executable, str(EXAMPLES / example)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    spans = _spans(done.stdout)
    [span] = [one for one in spans if "ace_finetune.served_by" in one["attributes"]]
    assert span["attributes"]["ace_finetune.served_by"] == "base"
    assert span["attributes"]["openinference.span.kind"] == "RETRIEVER"
    assert span["attributes"]["retrieval.documents.0.document.id"]
    assert len(spans) >= 2


def _spans(text: str) -> list[dict]:
    """The JSON objects that a console exporter printed."""
    decoder, found, rest = json.JSONDecoder(), [], io.StringIO(text).getvalue()
    while (start := rest.find("{")) >= 0:
        try:
            value, end = decoder.raw_decode(rest[start:])
        except ValueError:
            rest = rest[start + 1 :]
            continue
        found.append(value)
        rest = rest[start + end :]
    return [one for one in found if "attributes" in one]
