"""The section on exports in a model card (README.md)."""

from __future__ import annotations

from pathlib import Path

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.encoders.exports.record import ExportRecord, exports_of
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.utils.atomic import write_text

_START, _END = "<!-- exports -->", "<!-- end of exports -->"


def write_card(model: Path) -> None:
    """Write or replace the section on exports in README.md: which exist, and their dev accuracy."""
    card = model / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else f"# {model.name}\n"
    before, _, rest = text.partition(_START)
    _, _, after = rest.partition(_END)
    lines = [_line(ExportRecord.read(model / backend)) for backend in exports_of(model)]
    if lines and shipped_refit(read_provenance(model)):
        lines += ["", "The model was trained on these dev queries too: on other queries its MRR@10 is lower."]
    section = "\n".join([_START, "## Exports", "", *lines, _END])
    write_text(card, f"{before.rstrip()}\n\n{section}\n{after.strip()}".rstrip() + "\n")


def _line(record: ExportRecord) -> str:
    line = f"- `{record.backend}/`, {record.precision} weights, of the weights with fingerprint `{record.source}`"
    if record.dev is None:
        return f"{line}; not measured on dev."
    dev = record.dev
    return (
        f"{line}: dev MRR@10 {dev.export:.4f}, and {dev.mixed:.4f} over memories embedded in torch, against "
        f"{dev.torch:.4f} in torch ({dev.queries} queries over {dev.memories} memories)."
    )
