"""Write training data and say what came out."""

from __future__ import annotations

from collections.abc import Collection

from rich.console import Console

from llama_index_ace_finetune.commands.console import texts_progress
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator


def generate(
    generator: TrainingDataGenerator,
    *,
    negatives: int,
    min_difficulty: str | None,
    skip_categories: Collection[str],
    screen: Console,
) -> None:
    """Run the generator with a progress bar and print the counts of its mining run."""
    with generator.miner, texts_progress("mining", None) as progress:
        written = generator.generate_and_save(
            negatives_per_example=negatives,
            min_difficulty=min_difficulty,
            skip_categories=set(skip_categories),
            progress=progress,
        )
    report = generator.miner.report
    screen.print(f"{written} examples in {generator.output_path}", markup=False)
    screen.print(
        f"{report['kept']} hard negatives ({report['distinct']} distinct) from {report['candidates']} candidates; "
        f"left out: {', '.join(f'{count} {name}' for name, count in report['filtered'].items()) or 'none'}"
    )
    if report["queries_with_fewer"]:
        screen.print(f"{report['queries_with_fewer']} queries have fewer than {negatives} negatives")
    if report["suspicious"]:
        screen.print("warning: very few distinct negatives; check the embedding model and the collection")
