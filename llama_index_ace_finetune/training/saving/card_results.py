"""Test results in a model card: `model-index` of its metadata, and a section."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from llama_index_ace_finetune.utils.atomic import write_text

# The names under which sentence-transformers writes these measures into its cards.
_METRICS = {
    "Success@1": "cosine_accuracy@1",
    "Success@5": "cosine_accuracy@5",
    "MRR@10": "cosine_mrr@10",
    "nDCG@10": "cosine_ndcg@10",
    "MAP@100": "cosine_map@100",
}
_START, _END = "<!-- test results -->", "<!-- end of test results -->"
_INDEX = re.compile(r"^model-index:\n(?:(?: |- ).*\n)*", re.MULTILINE)
_BEFORE = "## Use"
_NOT_MEASURED = (
    "The weights in this folder have not been measured: these results are of the weights that the same recipe gave "
    "without dev and test queries."
)


def write_test_results(model: Path, report: Mapping[str, Any], *, dataset: str, measured: bool = True) -> None:
    """Write the results of the model on test queries into its card, or replace those that it has.

    The metadata hold those of the model by itself, without BM25; the section has all systems and the verdict.

    Args:
        model: folder of the model, with its README.md.
        report: as JSON values.
        dataset: name of the data.
        measured: False if the results are those of other weights, which the section then says, and the metadata have
            none.
    """
    card = model / "README.md"
    text = _INDEX.sub("", card.read_text(encoding="utf-8")) if card.is_file() else ""
    if not text.startswith("---\n"):
        return  # it is not a card that training wrote
    _, head, body = text.split("---\n", 2)
    before, found, rest = body.partition(_START)
    if found:
        rest = rest.partition(_END)[2].lstrip("\n")
    else:
        before, use, rest = body.partition(f"{_BEFORE}\n")
        rest = use + rest
    index = ""
    if measured:
        index = yaml.safe_dump(_model_index(report, dataset), sort_keys=False, allow_unicode=True, width=1000)
    write_text(card, f"---\n{head}{index}---\n{before.rstrip()}\n\n{_section(report, measured)}\n{rest}")


def _model_index(report: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    means = next(system["means"] for system in report["systems"] if system["name"] == "tuned")
    metrics = [
        {"type": kind, "value": float(means[name]), "name": f"{name} on test"}
        for name, kind in _METRICS.items()
        if name in means
    ]
    data = {"type": re.sub(r"[^\w-]+", "-", dataset).strip("-").lower() or "unknown", "name": dataset, "split": "test"}
    task = {"type": "information-retrieval", "name": "Information Retrieval"}
    return {"model-index": [{"name": "tuned", "results": [{"task": task, "dataset": data, "metrics": metrics}]}]}


def _section(report: Mapping[str, Any], measured: bool) -> str:
    metadata = report["metadata"]
    lines = [
        _START,
        "## Test results",
        "",
        f"{metadata['total_queries_evaluated']} held-out queries over {metadata['corpus_size']} distinct memories.",
        "",
        *([] if measured else [_NOT_MEASURED, ""]),
        f"Verdict: {_plain(report['verdict']['sentence'])}",
        "",
        "| system | Success@1 | MRR@10 | against the base, 95% |",
        "|---|---|---|---|",
    ]
    for system in report["systems"]:
        difference = system["difference_to_base"].get("MRR@10")
        change = "reference"
        if difference:
            change = f"{difference['mean']:+.3f} ({difference['low']:+.3f} to {difference['high']:+.3f})"
        served = " (served)" if system["name"] == report["serving"]["system"] else ""
        means = system["means"]
        lines.append(
            f"| {_plain(system['name'])}{served} | {means['Success@1']:.3f} | {means['MRR@10']:.3f} | {change} |"
        )
    return "\n".join([*lines, _END, ""])


def _plain(text: str) -> str:
    """A text without characters that Markdown or HTML would take as markup."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", " ".join(text.split()))
