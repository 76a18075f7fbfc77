"""`synthesize`: write synthetic queries for memories."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from llama_index_ace_finetune.cli.console import emit
from llama_index_ace_finetune.cli.execute import execute
from llama_index_ace_finetune.cli.options import (
    LLM_PANEL,
    AsJson,
    BaseModel,
    Columns,
    Device,
    LlmKeyEnv,
    LlmModel,
    LlmUrl,
    Memories,
    Precision,
    Seed,
    SplitSeed,
)
from llama_index_ace_finetune.cli.verb import Verb

_FILTERS = "Filters"


def synthesize(
    data: Annotated[Path, typer.Option("--data", help="Memories, with or without known queries.")],
    out: Annotated[Path, typer.Option(help="JSON Lines file to write, a dataset for `run`.")] = Path("synthetic.jsonl"),
    memories: Memories = None,
    columns: Columns = None,
    num_queries: Annotated[int, typer.Option(help="Queries to generate, before the filters.")] = 1000,
    base_model: BaseModel = None,
    llm_url: LlmUrl = None,
    llm_model: LlmModel = None,
    llm_key_env: LlmKeyEnv = None,
    template: Annotated[
        Path | None,
        typer.Option(
            help="Prompt, a text with {memory} and {count}; or `completion`, for small models.",
            rich_help_panel=LLM_PANEL,
        ),
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Calls at a time.", rich_help_panel=LLM_PANEL)] = 8,
    requests_per_minute: Annotated[
        float | None, typer.Option(help="Maximum calls per minute.", rich_help_panel=LLM_PANEL)
    ] = None,
    llm_timeout: Annotated[float, typer.Option(help="Seconds per call.", rich_help_panel=LLM_PANEL)] = 60.0,
    max_copied: Annotated[
        float | None,
        typer.Option(help="Maximum fraction of a query's words that its memory holds.", rich_help_panel=_FILTERS),
    ] = None,
    round_trip: Annotated[
        int, typer.Option(help="Keep a query if its memory is among the first N; 0 for all.", rich_help_panel=_FILTERS)
    ] = 10,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan with an estimate of tokens; call nothing.")
    ] = False,
    device: Device = None,
    precision: Precision = None,
    seed: Seed = None,
    split_seed: SplitSeed = None,
    as_json: AsJson = False,
) -> None:
    """Write synthetic queries for memories, with or without an LLM.

    Without one they are made of the memories' own words. No text of a dev or test query is sent to the model. An
    interrupted command resumes without repeating a call.
    """

    def command() -> None:
        from llama_index_ace_finetune.cli.progress import ConsoleEvents
        from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
        from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
        from llama_index_ace_finetune.pipeline.synthesize import describe_synthesis
        from llama_index_ace_finetune.pipeline.synthesize import synthesize as write_queries
        from llama_index_ace_finetune.synthesis.endpoint import DEFAULT_KEY_VARIABLE, endpoint_llm
        from llama_index_ace_finetune.synthesis.prompt import COMPLETION
        from llama_index_ace_finetune.synthesis.settings import CallSettings, SynthesisSettings

        result = write_queries(
            data,
            out,
            memories=memories,
            columns=columns,
            llm=endpoint_llm(
                llm_url, llm_model, key_variable=llm_key_env or DEFAULT_KEY_VARIABLE, timeout=llm_timeout,
                chat=str(template) != COMPLETION,
            ),
            base_model=base_model or DEFAULT_BASE_MODEL,
            settings=SynthesisSettings(
                num_queries=num_queries, max_copied=max_copied, round_trip=round_trip or None, seed=seed or 0
            ),
            calls=CallSettings(
                concurrency=concurrency, timeout=llm_timeout, requests_per_minute=requests_per_minute
            ),
            template=template,
            split=SplitSettings(seed=split_seed or 0),
            dry_run=dry_run,
            device=device,
            precision=precision or "auto",
            events=ConsoleEvents(),
        )  # fmt: skip

        def human(screen: Console) -> None:
            report = result.report
            if result.path is None:
                screen.print(
                    f"{report['memories']} memories, {report['queries_per_memory']} queries each, by "
                    f"{report['generator']}; {report['prompts']} calls with about "
                    f"{report['estimated_input_tokens']:,} tokens in and {report['estimated_output_tokens']:,} out",
                    markup=False,
                )
                return
            lines = [*describe_synthesis(report), f"wrote {result.path}"]
            further = memories if memories is not None else data
            lines.append(f"next: ace-finetune run --data {result.path} --memories {further} --out run")
            screen.print("\n".join(lines), markup=False)

        emit({**result.report, "output": None if result.path is None else str(result.path)}, human)

    execute(command, as_json=as_json)


VERB = Verb(
    synthesize,
    (
        "ace-finetune synthesize --data memories.json --out synthetic.jsonl",
        "ace-finetune synthesize --data memories.json --llm-url http://localhost:11434/v1 --llm-model qwen3:4b",
    ),
)
