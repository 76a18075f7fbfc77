"""Give a chat engine a memory that it searches in every turn.

    python examples/chat_engine.py [RUN]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used.
"""

from __future__ import annotations

import argparse
import textwrap
from pathlib import Path

from llama_index.core.chat_engine import ContextChatEngine
from llama_index.core.llms import MockLLM

from llama_index_ace_finetune import FineTunedHybridRetriever, memory_nodes, read_dataset

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"
TURNS = ("users logged out every hour", "push notification shows up twice")


def main() -> None:
    """Chat for two turns."""
    parser = argparse.ArgumentParser(description="Give a chat engine a memory.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    options = parser.parse_args()
    if options.run:
        retriever = FineTunedHybridRetriever.from_run(options.run, similarity_top_k=3)
    else:
        nodes = memory_nodes(read_dataset(PLAYBOOK).memories.values())
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=3)
    engine = ContextChatEngine.from_defaults(retriever=retriever, llm=MockLLM(max_tokens=40))  # your own LLM here
    for turn in TURNS:
        response = engine.chat(turn)
        print(f"\n{turn}\n  {textwrap.shorten(str(response), 100)}")
        for source in response.source_nodes:
            print(f"    [{source.score:.3f}] {textwrap.shorten(source.text, 90)}")
    retriever.close()


if __name__ == "__main__":
    main()
