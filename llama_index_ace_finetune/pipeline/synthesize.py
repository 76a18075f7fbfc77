"""Write synthetic queries for memories, as a dataset for `run`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llama_index_ace_finetune.datasets.splits.split import Split, SplitSettings, split_dataset
from llama_index_ace_finetune.datasets.types import SYNTHETIC, RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.stores.read_dataset import Data, Memories, read_dataset
from llama_index_ace_finetune.synthesis.filter_queries import REASONS
from llama_index_ace_finetune.synthesis.prompt import PromptTemplate
from llama_index_ace_finetune.synthesis.settings import CallSettings, SynthesisSettings
from llama_index_ace_finetune.synthesis.synthesize import Synthesis, SynthesisPlan, Synthesizer
from llama_index_ace_finetune.utils.atomic import new_file, write_json
from llama_index_ace_finetune.utils.new_folder import require_writable

if TYPE_CHECKING:
    from llama_index.core.llms import LLM


@dataclass(frozen=True, kw_only=True, slots=True)
class SynthesisResult:
    """The file of synthetic queries and what was left out; `path` is None for a dry run.

    Attributes:
        path: JSON Lines with query, memory id and text.
        report: counts and samples.
        plan: what was asked.
    """

    path: Path | None
    report: Mapping[str, Any]
    plan: SynthesisPlan


def synthesize(
    data: Data,
    out: str | Path,
    *,
    memories: Memories | None = None,
    columns: str | None = None,
    llm: LLM | None = None,
    base_model: str | None = DEFAULT_BASE_MODEL,
    settings: SynthesisSettings | None = None,
    calls: CallSettings | None = None,
    template: str | Path | None = None,
    split: SplitSettings | None = None,
    dry_run: bool = False,
    device: str | None = None,
    precision: Literal["auto", "float32", "bfloat16"] = "auto",
    events: PipelineEvents | None = None,
) -> SynthesisResult:
    """Write synthetic queries for memories: by a language model, or without one from the memories' own words.

    Prompts show memories and queries of the train part; no text of a dev or test query is sent. Near-duplicates of any
    known query are left out. The answers of a language model are stored beside the output as they arrive, so that a
    call is not repeated after an interruption.

    Args:
        data: memories, or a dataset with queries, in any format that `read_dataset` takes.
        out: JSON Lines file to write, a dataset for `run`; `OUT.report.json` and `OUT.answers.jsonl` are beside it.
        memories: further memories.
        columns: names of the columns of a table, as `read_dataset` takes them.
        llm: a LlamaIndex language model; None for queries from the memories' own words, which teach a model less.
        base_model: embedding model for clusters and the round-trip filter; None for BM25 only.
        settings: how many queries, and the limits of the filters.
        calls: concurrency, time limit and retries.
        template: text file with another prompt, see `PromptTemplate`; or "completion" for small models, which
            complete a text better than they follow instructions.
        split: of the known queries, which should be that of the run.
        dry_run: plan and estimate the tokens; call nothing and write nothing.
        device: torch device.
        precision: of the vectors; see `EncoderSettings`.
        events: receives progress.

    Raises:
        AceFinetuneError: for data that cannot be read, a language model that cannot be reached, an output that cannot
            be written, or if no query is left.
    """
    path, events = Path(out), events or PipelineEvents()
    prompt = PromptTemplate.load(Path(template)) if template is not None else None
    if not dry_run:
        require_writable(path)
    dataset = read_dataset(data, memories, columns=columns)
    encoder = (
        Encoder.load(base_model, settings=EncoderSettings(device=device, precision=precision)) if base_model else None
    )
    synthesizer = Synthesizer(
        dataset,
        split=_split(dataset, split, events),
        llm=llm,
        encoder=encoder,
        settings=settings,
        template=prompt,
    )
    plan = synthesizer.plan()
    if dry_run:
        return SynthesisResult(path=None, report=_plan_report(synthesizer, plan), plan=plan)
    report = write_queries(synthesizer, path, plan=plan, calls=calls, events=events)
    return SynthesisResult(path=path, report=report, plan=plan)


def write_queries(
    synthesizer: Synthesizer,
    path: Path,
    *,
    plan: SynthesisPlan | None = None,
    calls: CallSettings | None = None,
    events: PipelineEvents,
) -> dict[str, Any]:
    """Generate the queries and write them to `path`, with the report and the answers beside it; return the report.

    Raises:
        AceFinetuneError: if no query is left, or the language model cannot be reached.
    """
    plan = plan or synthesizer.plan()
    with events.texts_progress("synthesizing", len(plan.memory_ids)) as progress:
        made = synthesizer.generate(_beside(path, "answers.jsonl"), plan=plan, calls=calls, progress=progress)
    report = {**_plan_report(synthesizer, plan), **_report(made)}
    if not made.dataset.queries:
        raise AceFinetuneError(
            f"No synthetic query is left of {made.generated} ({_reasons(report)}); loosen the filters, or check the "
            "answers of the language model."
        )
    _write(made.dataset, path)
    write_json(_beside(path, "report.json"), report)
    return report


def _split(dataset: RetrievalDataset, settings: SplitSettings | None, events: PipelineEvents) -> Split | None:
    """Return the parts of the known queries; None if there are too few, which are then all held out."""
    if not dataset.queries:
        return None
    try:
        return split_dataset(dataset, settings=settings)
    except DatasetError as error:
        events.on_warning(f"no known query is shown to the language model, as they cannot be split: {error}")
        return None


def describe_synthesis(report: Mapping[str, Any]) -> list[str]:
    """Return lines: how many queries were made by what, and what was left out."""
    lines = [f"{report['kept']} synthetic queries of {report['generated']} by {report['generator']}"]
    if report["left_out"] or report["unusable"]:
        lines.append(f"left out: {_reasons(report)}")
    if report["calls"]:
        lines.append("{called} calls, {logged} answers from an earlier run, {failed} failed".format(**report["calls"]))
    return lines


def _reasons(report: Mapping[str, Any]) -> str:
    counts = [f"{count} {REASONS[reason]}" for reason, count in report["left_out"].items()]
    counts += [f"{count} answers {reason.replace('_', ' ')}" for reason, count in report["unusable"].items()]
    return ", ".join(counts) or "none was generated"


def _plan_report(synthesizer: Synthesizer, plan: SynthesisPlan) -> dict[str, Any]:
    return {
        "generator": synthesizer.generator,
        "memories": len(plan.memory_ids),
        "queries_per_memory": plan.per_memory,
        "prompts": len(plan.prompts),
        "estimated_input_tokens": plan.input_tokens,
        "estimated_output_tokens": plan.output_tokens,
    }


def _report(made: Synthesis) -> dict[str, Any]:
    return {
        "generated": made.generated,
        "kept": len(made.dataset.queries),
        "left_out": made.left_out,
        "unusable": made.unusable,
        "samples_left_out": made.samples,
        "max_copied": made.max_copied,
        "calls": None
        if made.calls is None
        else {"called": made.calls.called, "logged": made.calls.logged, "failed": made.calls.failed},
    }


def _write(dataset: RetrievalDataset, path: Path) -> None:
    with new_file(path) as file:
        for query in dataset.queries.values():
            memory_id = next(iter(dataset.judgements[query.id]))
            row = {
                "query_id": query.id,
                "query": query.text,
                "memory_id": memory_id,
                "text": dataset.memories[memory_id].text,
                SYNTHETIC: query.metadata[SYNTHETIC],
            }
            file.write(json.dumps(row, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}.{suffix}")
