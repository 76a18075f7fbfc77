"""The command `ace-finetune`: one verb per stage, `run` for all of them."""

from __future__ import annotations

import typer

from llama_index_ace_finetune.cli.group import ACE_FINETUNE, EPILOGUE, Verb, Verbs, speak
from llama_index_ace_finetune.cli.look import audit, compare, doctor, inspect, report, search
from llama_index_ace_finetune.cli.run import demo, init, run
from llama_index_ace_finetune.cli.stages import evaluate, export, generate, index, train, vectors
from llama_index_ace_finetune.utils.terminal import accept_any_text

__all__ = ["app", "main"]

# The rooms are imported inside the verbs, so that --help does not wait for torch.

app = typer.Typer(
    name="ace-finetune",
    cls=Verbs,
    help=ACE_FINETUNE,
    epilog=EPILOGUE,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.callback(invoke_without_command=True)(speak)

# In the order of use.
for _verb, _examples in (
    (doctor, ["ace-finetune doctor"]),
    (demo, ["ace-finetune demo --out demo-run"]),
    (
        inspect,
        [
            "ace-finetune inspect --data my_suite.json",
            "ace-finetune inspect --data my_suite.json --memories my_inventory.json --json",
        ],
    ),
    (init, ["ace-finetune init --data my_suite.json --run my-run"]),
    (
        run,
        [
            "ace-finetune run --data my_suite.json --out my-run",
            "ace-finetune run --data my_suite.json --out my-run --budget 3 --dry-run",
            "ace-finetune run --config ace-finetune.yaml --resume",
        ],
    ),
    (report, ["ace-finetune report my-run --open", "ace-finetune report my-run --require-gain"]),
    (
        search,
        [
            'ace-finetune search my-run "big uploads time out"',
            'ace-finetune search my-run "big uploads time out" --mode dense --threshold 0.3 --json',
        ],
    ),
    (compare, ["ace-finetune compare my-run other-run"]),
    (audit, ["ace-finetune audit my-run", "ace-finetune audit split.json --data my_suite.json"]),
    (export, ["ace-finetune export my-run --backend onnx --int8"]),
    (vectors, ["ace-finetune vectors my-run --dimensions 256,128"]),
    (
        generate,
        [
            "ace-finetune generate --data my_suite.json --out training_data.json",
            "ace-finetune generate --data my_suite.json --qdrant-url http://localhost:6333 --collection notes",
        ],
    ),
    (train, ["ace-finetune train --training-data training_data.json --out my-model"]),
    (
        evaluate,
        [
            "ace-finetune evaluate --data my_suite.json --model my-model",
            "ace-finetune evaluate --data my_suite.json --model my-model --also BAAI/bge-base-en-v1.5 --curve 100,300",
        ],
    ),
    (index, ["ace-finetune index --data my_suite.json --model my-model --out my-index"]),
):
    app.command(cls=Verb, epilog="\n\n".join(f"Example: [cyan]{example}[/]" for example in _examples))(_verb)


def main() -> None:
    """Entry point of the console script."""
    accept_any_text()
    app()
