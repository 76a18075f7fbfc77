"""Put the rules of the code into the pages: `python docs/make_rules.py`.

A rule is a constant of the package; the pages hold it between `<!-- rule: NAME -->` and `<!-- end of rule -->`.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from llama_index_ace_finetune.evaluation.decision.folds import FOLDS_RULE
from llama_index_ace_finetune.evaluation.decision.verdict import RULE as VERDICT
from llama_index_ace_finetune.training.model_selection.interpolation import RULE as DEV

DOCS = Path(__file__).resolve().parent
RULES = {"verdict": VERDICT, "folds": FOLDS_RULE, "dev": DEV}
BLOCK = re.compile(r"(<!-- rule: (\w+) -->\n)(.*?)(<!-- end of rule -->\n)", re.DOTALL)


def filled(page: str) -> str:
    """Return the text of a page with the rules of today."""

    def block(found: re.Match[str]) -> str:
        head, name, _, end = found.groups()
        lines = textwrap.wrap(RULES[name], 118, break_long_words=False, break_on_hyphens=False)
        return head + "".join(f"> {line}\n" for line in lines) + end

    return BLOCK.sub(block, page)


if __name__ == "__main__":
    for path in DOCS.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        if filled(text) != text:
            path.write_text(filled(text), encoding="utf-8")
