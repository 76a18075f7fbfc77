"""Trace searches with OpenTelemetry, by LlamaIndex's own integration; the spans are printed.

pip install ".[demo,tracing]"
python examples/trace_otel.py
"""

from __future__ import annotations

from llama_index.core.schema import TextNode
from llama_index.observability.otel import LlamaIndexOpenTelemetry
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from llama_index_ace_finetune import FineTunedHybridRetriever, trace_searches

BASE = "sentence-transformers/all-MiniLM-L6-v2"
TEXTS = ["Retry big uploads that time out.", "Keep backups of the database for 30 days."]


def main() -> None:
    """Search once, and print the spans with what served it."""
    LlamaIndexOpenTelemetry(span_exporter=ConsoleSpanExporter(), span_processor="simple").start_registering()
    trace_searches()
    nodes = [TextNode(id_=f"memory-{number}", text=text) for number, text in enumerate(TEXTS)]
    retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None)
    retriever.retrieve("uploads time out")
    retriever.close()


if __name__ == "__main__":
    main()
