"""Evaluate the model on the test queries and write the report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.evaluation.report.per_query import per_query_path
from llama_index_ace_finetune.evaluation.report.report import write_report
from llama_index_ace_finetune.pipeline.evaluate import evaluate_model
from llama_index_ace_finetune.pipeline.model_contents import by_content
from llama_index_ace_finetune.pipeline.stages.stage import PlanContext, Stage, StageContext, StageEstimate, digest
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.training.saving.card_results import write_test_results


def _run(context: StageContext) -> None:
    training, folder = context.settings.training, context.folder
    refit = shipped_refit(read_provenance(folder.model))
    # Weights that were trained on the test queries cannot be measured on them.
    on_all = refit is not None and refit["on"] == "all"
    settings = EncoderSettings(device=training.device, precision=training.precision)
    result = evaluate_model(
        context.dataset,
        folder.selected if on_all else folder.model,
        selected=folder.selected if refit and not on_all else None,
        refit=refit,
        device=training.device,
        precision=training.precision,
        cache=context.cache,
        tuned=Encoder.load(folder.selected, settings=settings) if on_all else context.tuned,
        limits=context.settings.limits(),
        sparse=context.sparse_vectors,
        kept_tokens=context.kept_tokens,
        command=context.settings.command,
        title=context.settings.title,
        run=context.settings.out.name,
        events=context.events,
    )
    result.report["finetuned"]["model"] = "selected" if on_all else "model"
    write_cards(folder, result.report, dataset=context.dataset.name)
    write_report(result.report, folder.report, evaluation=result.evaluation)


def write_cards(folder: RunFolder, report: Mapping[str, Any], *, dataset: str) -> None:
    """Write the results into the card of the model that was measured, and say so in that of one that was not."""
    on_all = report["finetuned"]["model"] == "selected"
    write_test_results(folder.model, report, dataset=dataset, measured=not on_all)
    if on_all:
        write_test_results(folder.selected, report, dataset=dataset)


def _estimate(context: PlanContext) -> list[StageEstimate]:
    # Vectors of the tuned model; then tokens of the corpus and of the queries by both models.
    texts = 2 * context.test + context.sizes.dev + context.sizes.corpus
    seconds = (texts + 2 * (context.sizes.dev + context.sizes.corpus)) * context.speed.embed
    description = f"{len(context.split.test)} queries over {len(context.dataset.answers)} memories"
    return [StageEstimate("evaluate", description, seconds)]


STAGE = Stage(
    name="evaluate",
    outputs=lambda run: (run.report, run.report.with_suffix(".html"), per_query_path(run.report)),
    key=lambda settings, dataset, keys: digest(
        {
            "train": keys["train"],
            "query_ms": settings.query_ms,
            "bytes_per_memory": settings.bytes_per_memory,
            **by_content({"sparse_encoder": settings.sparse_encoder}),
        }
    ),
    run=_run,
    estimate=_estimate,
    after=("train",),
)
