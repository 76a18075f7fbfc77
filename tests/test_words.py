"""The language of the package, its docs and its help: the field's terms, and no private vocabulary.

CONTRIBUTING holds the list of what to say instead.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app

ROOT = Path(__file__).resolve().parent.parent

AVOIDED = {
    r"\brungs?\b": "mode",
    r"\bladders?\b": "training modes, or fallback chain",
    r"\bclimb\w*": "run, train",
    r"\b(right|wrong) answers?\b": "positives, relevant memories; negatives",
    r"\blooks? at (dev|the dev|test|texts|whole)\b|\b(a|each|every) look\b|\blooks at\b": "dev evaluation; evaluates",
    r"(?<!\.)\b(told|tells?|telling)\b": "says, reports, is named",
    r"\banew\b": "again",
    r"\bso many\b": "N",
    r"(?<!left )(?<!leave )(?<!stand)(?<!stand-)\balone\b": "only",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\b(go|goes|going|gone|went) on (from|with|where|to)\b": "resume, continue",
    r"\bbroken off\b": "interrupted",
    r"\bhalf[- ]characters?\b": "lone surrogates",
    r"\bis no (number|mapping|model|cosine)\b": "is not a",
    r"\b(surely|certainly) better\b": "significantly better",
    r"\bno more$|\bRaise a low\b": "fix, improve",
    r"\bnot surely\b|\bif dev allows\b|\b(give|show) (a|the) deviation\b": "not significantly; if dev accuracy holds",
    r"\bbelongs? into\b|\bstands? on two\b|\bto be installed besides\b|\bmakes? none up\b": "move it under",
    r"\b1 steps\b|\d s in all\b|\d %(?![\w}])|\boverlap: middle\b": "1 step, in total, 95%, medium",
    r"\bstands? in for\b|\bstand-ins?\b": "falls back; fallback model",
}
# JSON keys of files that version 0.1.0 wrote, as they stand in code.
KEYS = re.compile(
    r"""["'`]rungs?["'`]|\brungs?\s*(\||\]|\}|%)|\.rungs?\b|"(nearer a )?right answer( than the query)?"$"""
)


def _sources() -> list[Path]:
    package = [p for kind in ("*.py", "*.j2") for p in (ROOT / "llama_index_ace_finetune").rglob(kind)]
    docs = list((ROOT / "docs").rglob("*.md"))
    pages = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")]
    return sorted([*package, *docs, *pages])


@pytest.mark.parametrize("pattern", AVOIDED, ids=lambda pattern: AVOIDED[pattern])
def test_avoided_words_are_absent(pattern: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in _sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(pattern, KEYS.sub("", line), re.IGNORECASE)
    ]
    assert not found, f"say {AVOIDED[pattern]!r} instead:\n" + "\n".join(found)


def test_avoided_words_are_absent_from_help() -> None:
    import typer.main

    verbs = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert len(verbs) > 10
    for verb in verbs:
        shown = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
        for pattern, better in AVOIDED.items():
            assert not re.search(pattern, shown, re.IGNORECASE), f"{verb} --help: say {better!r} instead of {pattern}"


@pytest.mark.parametrize(
    "text",
    [
        "the tuned model alone",
        "Tell the user",
        "a rung of it",
        "look at dev",
        "so many steps",
        "95 % of them",
        "not surely better",
    ],
)
def test_avoided_words_are_found(text: str) -> None:
    assert any(re.search(pattern, text, re.IGNORECASE) for pattern in AVOIDED)
