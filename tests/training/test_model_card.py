"""The model card: licence and language of the base, reasons, test results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import EvalResult, ModelCard

from llama_index_ace_finetune.encoders.base_card import licence_and_languages
from llama_index_ace_finetune.training.saving.card_results import write_test_results
from llama_index_ace_finetune.training.saving.model_card import model_card

DIFFERENCE = {"mean": 0.158, "low": 0.01, "high": 0.3, "p_value": 0.07, "wins": 5, "ties": 3, "losses": 2}


def record(base: str, *, shipped: str = "base") -> dict[str, Any]:
    mode = {"rung": "linear", "dev_mrr@10": 0.658, "dev_difference_mrr@10": DIFFERENCE, "seconds": 2.0}
    return {
        "base_model": base,
        "base_fingerprint": "b",
        "fingerprint": "f",
        "config": {"base_model": base},
        "data": {"source": "suite.json", "total_examples": 60, "memories": 12},
        "split": {},
        "prompts": {},
        "metrics": {"mode": "base", "rungs": [mode, {**mode, "rung": "full", "dev_mrr@10": 0.5}]},
        "selection": {
            "rule": "a rule",
            "shipped": shipped,
            "share": 0.0,
            "dev_difference_mrr@10": DIFFERENCE,
            "dev_candidates_over_memories": 12,
            "dev_candidates": {"0.0": {"MRR@10": 0.5}},
        },
    }


def report(sentence: str = "SHIP THE TUNED MODEL: better.") -> dict[str, Any]:
    means = {"Success@1": 0.5, "Success@5": 0.75, "MRR@10": 0.625, "nDCG@10": 0.7}
    return {
        "metadata": {"total_queries_evaluated": 40, "corpus_size": 30},
        "verdict": {"sentence": sentence},
        "serving": {"system": "tuned"},
        "systems": [
            {"name": "base", "means": dict.fromkeys(means, 0.25), "difference_to_base": {}},
            {"name": "tuned", "means": means, "difference_to_base": {"MRR@10": DIFFERENCE}},
            {"name": "<b>|large*", "means": means, "difference_to_base": {"MRR@10": DIFFERENCE}},
        ],
    }


def test_refused_gain_says_why_with_its_figures(tmp_path: Path) -> None:
    card = model_card(record("some/model"), tmp_path)
    assert "since tuning did not beat it on dev: not significant, p = .070 is above .05 |" in card
    assert (
        "+0.158 (95% interval +0.010 to +0.300, p = 0.070); not significant, p = .070 is above .05: base kept." in card
    )
    # Each mode has the figure of its own best candidate, not that of the base (0.500).
    assert "| linear | 0.658 | +0.158 (+0.010 to +0.300) |" in card


@pytest.mark.parametrize(
    ("front", "licence", "languages"),
    [
        ("license: apache-2.0\nlanguage: en\n", "apache-2.0", ["en"]),
        ("license: mit\nlanguage: [en, de, zh-Hans]\n", "mit", ["en", "de", "zh-Hans"]),
        ("license: [mit]\nlanguage: {a: b}\n", None, []),
        ("license: 'mit\\n# injected'\nlanguage: ['en\"', 'x: y']\n", None, []),
        ("license: !!python/object/apply:os.system [id]\n", None, []),
        ("a: [[[[\n", None, []),
        ("", None, []),
    ],
)
def test_licence_and_languages_of_the_base(
    front: str, licence: str | None, languages: list[str], tmp_path: Path
) -> None:
    (tmp_path / "README.md").write_text(f"---\n{front}---\n# A model\n", encoding="utf-8")
    assert licence_and_languages(tmp_path) == (licence, languages)


def test_base_without_a_card_has_no_licence(tmp_path: Path) -> None:
    assert licence_and_languages(tmp_path) == (None, [])
    (tmp_path / "README.md").write_bytes(b"\xff\xfe" * 40)
    assert licence_and_languages(tmp_path) == (None, [])
    assert "license:" not in model_card(record("some/model"), tmp_path)


def test_test_results_are_read_by_the_hub(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(record("some/model"), tmp_path), encoding="utf-8")
    for sentence in ("DO NOT SHIP: worse.", "SHIP THE TUNED MODEL: better."):  # a second evaluation replaces the first
        write_test_results(tmp_path, report(sentence), dataset="my suite")
    card = ModelCard.load(path)
    results: list[EvalResult] = card.data.eval_results
    assert {one.metric_type: one.metric_value for one in results} == {
        "cosine_accuracy@1": 0.5,
        "cosine_accuracy@5": 0.75,
        "cosine_mrr@10": 0.625,
        "cosine_ndcg@10": 0.7,
    }
    assert {(one.dataset_name, one.dataset_type, one.dataset_split) for one in results} == {
        ("my suite", "my-suite", "test")
    }
    text = path.read_text(encoding="utf-8")
    assert text.count("## Test results") == text.count("model-index:") == text.count("## Use") == 1
    assert "DO NOT SHIP" not in text
    assert "| tuned (served) | 0.500 | 0.625 | +0.158 (+0.010 to +0.300) |" in text
    assert r"\<b\>\|large\*" in text
    assert text.index("## Test results") < text.index("## Use")


def test_results_of_other_weights_are_not_those_of_the_model(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(model_card(record("some/model"), tmp_path), encoding="utf-8")
    write_test_results(tmp_path, report("SHIP THE TUNED MODEL: better."), dataset="my suite", measured=False)
    text = path.read_text(encoding="utf-8")
    assert "model-index" not in text
    assert "The weights in this folder have not been measured: these results are of the weights" in text


def test_card_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    write_test_results(tmp_path, report(), dataset="suite")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "README.md").write_text("# Mine\n", encoding="utf-8")
    write_test_results(tmp_path, report(), dataset="suite")
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "# Mine\n"
