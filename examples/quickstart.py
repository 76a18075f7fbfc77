"""Fine-tune an embedding model, evaluate it on held-out queries, and search with it.

    pip install ".[demo]"
    python examples/quickstart.py

Takes a minute or two on two cores. It trains on only a fifth of the queries; `ace-finetune demo` uses all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llama_index_ace_finetune import (
    EmbeddingFineTuner,
    Encoder,
    FineTunedHybridRetriever,
    HardNegativeMiner,
    SplitSettings,
    TrainingConfig,
    evaluate_systems,
    generate_training_data,
    keep_freed_memory,
    memory_nodes,
    reach_verdict,
    read_dataset,
    split_dataset,
)

BASE = "sentence-transformers/all-MiniLM-L6-v2"
PLAYBOOK = Path(__file__).parent / "data" / "playbook_suite.json"


def main() -> None:
    """Run the pipeline, one step after the other."""
    parser = argparse.ArgumentParser(description="Fine-tune, evaluate, search.")
    parser.add_argument("--data", type=Path, default=PLAYBOOK, help="queries with known relevant memories")
    parser.add_argument("--out", type=Path, default=Path("quickstart"), help="folder for the model and for vectors")
    parser.add_argument("--epochs", type=int, default=2, help="epochs")
    parser.add_argument("--query", default="push notification shows up twice", help="what to search for at the end")
    options = parser.parse_args()
    model, cache = options.out / "model", options.out / "vectors"
    keep_freed_memory()  # Faster on Linux.

    # 1. Read the queries and their positives, and split them into train, dev and test.
    dataset = read_dataset(options.data)
    split = split_dataset(dataset, settings=SplitSettings(train=0.2, dev=0.3, test=0.5))
    print(f"{len(dataset.memories)} memories, {len(dataset.queries)} queries")
    print(f"train {len(split.train)}, dev {len(split.dev)}, test {len(split.test)}")

    # 2. Mine hard negatives: irrelevant memories that the base model ranks high.
    base = Encoder.load(BASE)
    miner = HardNegativeMiner(encoder=base, cache=cache)
    data = generate_training_data(dataset, split, miner, num_negatives=5)
    print(f"{len(data.examples)} training examples, {miner.report['kept']} hard negatives")

    # 3. Train. The model that is best on the dev queries is saved; the base model is a candidate.
    config = TrainingConfig(
        base_model=BASE,
        output_dir=str(model),
        epochs=options.epochs,
        batch_size=16,
        learning_rate=1e-4,
        hard_negatives=1,
    )
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(data)
    tuner.initialize_model()
    metrics = tuner.train()
    print(f"{metrics['total_steps']} steps in {metrics['training_time_seconds']:.0f} s, model in {model}")

    # 4. Evaluate on the test queries.
    tuned = Encoder.load(model)
    evaluation = evaluate_systems(dataset, test=split.test, dev=split.dev, base=base, tuned=tuned, cache=cache)
    for system in evaluation.systems:
        print(f"  {system.name:<26} MRR@10 {evaluation.mean(system.name, 'MRR@10'):.3f}")
    verdict = reach_verdict(evaluation, metrics["selection"])
    print(verdict.sentence)

    # 5. Search as the verdict says: with which vectors, and which weights of the dense and the BM25 leg.
    serving = verdict.serving
    retriever = FineTunedHybridRetriever.from_nodes(
        memory_nodes(dataset.memories.values()),
        model=BASE if serving["vectors"] == "base" else model,
        baseline=BASE,
        weights=tuple(serving["weights"]),
        similarity_top_k=3,
    )
    print(f"\n{options.query}")
    for hit in retriever.retrieve(options.query):
        print(f"  [{hit.score:.3f}] {hit.node.get_content()}")
    retriever.close()


if __name__ == "__main__":
    main()
