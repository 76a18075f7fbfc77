"""Evaluate the retriever with LlamaIndex's own evaluator, next to a plain vector index.

    python examples/evaluate_retriever.py [RUN]

RUN is a folder that `ace-finetune demo` or `run` made; without it the base model is used. The queries
include those that the tuned model was trained on, so use the figures of the run's report, not these.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from llama_index.core import VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.evaluation import RetrieverEvaluator

from llama_index_ace_finetune import (
    FineTunedEmbedding,
    FineTunedHybridRetriever,
    RetrievalDataset,
    memory_nodes,
    read_dataset,
)

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"


def main() -> None:
    """Evaluate both retrievers on a sample of the playbook's queries."""
    parser = argparse.ArgumentParser(description="Evaluate the retriever with LlamaIndex's evaluator.")
    parser.add_argument("run", type=Path, nargs="?", help="folder that `ace-finetune demo` or `run` made")
    parser.add_argument("--queries", type=int, default=100, help="number of queries")
    options = parser.parse_args()
    dataset = read_dataset(PLAYBOOK)
    nodes = memory_nodes(dataset.memories.values())

    plain = VectorStoreIndex(nodes, embed_model=FineTunedEmbedding(BASE)).as_retriever(similarity_top_k=10)
    if options.run:
        retriever = FineTunedHybridRetriever.from_run(options.run, similarity_top_k=10)
    else:
        # Nothing was selected on dev queries here: with equal weights BM25 may lower the figures, as it does on this
        # playbook. A run selects whether and how much BM25 counts.
        print("no run folder given: the base model with BM25 at equal weights, which a run may find to be worse")
        retriever = FineTunedHybridRetriever.from_nodes(nodes, model=BASE, baseline=None, similarity_top_k=10)
    asyncio.run(compare({"vector index": plain, "hybrid": retriever}, dataset, options.queries))
    retriever.close()


async def compare(retrievers: dict[str, BaseRetriever], dataset: RetrievalDataset, count: int) -> None:
    """Print both metrics of each retriever."""
    queries = list(dataset.queries)[:: max(1, len(dataset.queries) // count)][:count]
    for name, retriever in retrievers.items():
        evaluator = RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever)
        results = [await evaluator.aevaluate(dataset.queries[q].text, sorted(dataset.relevant(q))) for q in queries]
        means = {
            metric: sum(result.metric_vals_dict[metric] for result in results) / len(results)
            for metric in ("mrr", "hit_rate")
        }
        print(f"{name:<14} MRR@10 {means['mrr']:.3f}  hit rate {means['hit_rate']:.3f}  ({len(results)} queries)")


if __name__ == "__main__":
    main()
