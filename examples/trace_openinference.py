"""Trace searches with OpenInference's instrumentation, as Phoenix and Langfuse read it; the spans are printed.

    pip install ".[demo,tracing]"
    python examples/trace_openinference.py

For Phoenix, replace the console exporter by `OTLPSpanExporter("http://localhost:6006/v1/traces")`.
"""

from __future__ import annotations

from llama_index.core.schema import TextNode
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from llama_index_ace_finetune import FineTunedHybridRetriever, trace_searches

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["Retry big uploads that time out.", "Keep backups of the database for 30 days."]


def main() -> None:
    """Search once, and print the spans with what served it."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    LlamaIndexInstrumentor().instrument(tracer_provider=provider)
    trace_searches()
    nodes = [TextNode(id_=f"memory-{number}", text=text) for number, text in enumerate(TEXTS)]
    retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None)
    retriever.retrieve("uploads time out")
    retriever.close()


if __name__ == "__main__":
    main()
