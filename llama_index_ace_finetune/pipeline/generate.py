"""Write training data and say what came out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from llama_index_ace_finetune.mining.report import REPORT_NAME, mining_counts, save_mining_report
from llama_index_ace_finetune.mining.training_data_generator import TrainingDataGenerator
from llama_index_ace_finetune.utils.console import show, texts_progress
from llama_index_ace_finetune.utils.new_folder import require_writable


def generate(
    generator: TrainingDataGenerator,
    *,
    num_negatives: int,
    min_difficulty: str | None,
    skip_categories: Collection[str],
    report: Path | None = None,
) -> None:
    """Run the generator with a progress bar and print the counts of its mining run; `report` is a folder for more."""
    if report is not None:
        require_writable(report / REPORT_NAME)
    with generator.miner, texts_progress("mining", None) as progress:
        written = generator.generate_and_save(
            negatives_per_example=num_negatives,
            min_difficulty=min_difficulty,
            skip_categories=set(skip_categories),
            progress=progress,
        )
    if report is not None:
        save_mining_report(generator.miner.report, report)
    found = generator.miner.report

    def tell(screen: Console) -> None:
        screen.print(f"{written} examples in {generator.output_path}", markup=False)
        print_mining(found, screen)

    show({"examples": written, "output": str(generator.output_path), "mining": mining_counts(found)}, tell)


def print_mining(report: Mapping[str, Any], screen: Console) -> None:
    """Say what a mining run kept and what its filters refused, and warn where that looks wrong."""
    screen.print(
        f"{report['kept']} hard negatives ({report['distinct']} distinct) from {report['candidates']} candidates; "
        f"left out: {', '.join(f'{count} {name}' for name, count in report['filtered'].items()) or 'none'}"
    )
    for step in report["relaxed"]:
        margin = "off" if step["relative_margin"] is None else step["relative_margin"]
        screen.print(
            f"relative margin {margin}: {step['negatives']} more for {step['queries']} queries that were short"
        )
    if report["queries_with_fewer"]:
        wanted = report["wanted_per_query"]
        screen.print(f"{report['queries_with_fewer']} queries have fewer than {wanted} negatives")
    if report["suspicious"]:
        screen.print("warning: very few distinct negatives; check the embedding model and the collection")
