"""From LlamaIndex nodes and logged queries to a tuned retriever: dataset, mining, training, evaluation, retriever.

    python examples/nodes_to_retriever.py [--out OUT]

The nodes are of the demo's data, with metadata that LlamaIndex embeds too; the queries are a mapping from what was
asked to the id of the node that answers it.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from pathlib import Path

from llama_index.core.schema import TextNode

from llama_index_ace_finetune import (
    FineTunedHybridRetriever,
    HardNegativeMiner,
    TrainingConfig,
    TrainingDataGenerator,
    evaluate,
    read_dataset,
    train,
)

DATA = Path(__file__).parent / "data" / "playbook_suite.json"
QUESTION = "push notification shows up twice"


def main() -> None:
    """Go the whole way, in the folder OUT."""
    parser = argparse.ArgumentParser(description="From LlamaIndex nodes to a tuned retriever.")
    parser.add_argument("--out", type=Path, default=Path("nodes-run"), help="folder of training data and model")
    parser.add_argument("--memories", type=int, default=60, help="number of nodes")
    parser.add_argument("--mode", default="linear", choices=["auto", "linear", "queries", "full"], help="what to train")
    options = parser.parse_args()
    nodes, queries = nodes_and_queries(options.memories)

    dataset = read_dataset(nodes, queries=queries)  # texts as LlamaIndex embeds them, ids of the nodes
    print(f"{len(dataset.memories)} nodes, {len(dataset.queries)} queries")

    training_data, model = options.out / "training_data.json", options.out / "model"
    with HardNegativeMiner() as miner:
        count = TrainingDataGenerator(dataset, training_data, miner).generate_and_save(negatives_per_example=5)
    print(f"{count} training examples")

    result = train(training_data, TrainingConfig(mode=options.mode), out=model)
    print(f"selected on dev: {result.metrics['mode']}")
    print(evaluate(dataset, model, out=options.out / "report.json").verdict.sentence)

    retriever = FineTunedHybridRetriever.from_nodes(nodes, model=model, similarity_top_k=3)
    print(f"\n{QUESTION}")
    for hit in retriever.retrieve(QUESTION):
        print(f"  [{hit.score:.3f}] {hit.node.node_id} {textwrap.shorten(hit.node.get_content(), 80)}")


def nodes_and_queries(count: int) -> tuple[list[TextNode], dict[str, list[str]]]:
    """Return the nodes of an index, and for each query the ids of the nodes that answer it."""
    cases = json.loads(DATA.read_text(encoding="utf-8"))["test_cases"][:count]
    nodes = [
        TextNode(id_=f"note-{case['memory_id']}", text=case["content"], metadata={"category": case["category"]})
        for case in cases
    ]
    queries: dict[str, list[str]] = {}
    for case in cases:
        for one in case["generated_queries"]:
            queries.setdefault(one["query"], []).append(f"note-{case['memory_id']}")
    return nodes, queries


if __name__ == "__main__":
    main()
