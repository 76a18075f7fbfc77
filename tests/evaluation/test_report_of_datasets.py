"""The report page of the demo data and two public datasets, without training, in a browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from helpers.browser import CHROMIUM, look_at

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.report.report import write_report
from llama_index_ace_finetune.pipeline.evaluate import evaluate_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome"),
]


@pytest.mark.parametrize("name", ["demo", "msvc_errors", "ace"])
def test_page_of_a_real_dataset(name: str, request: pytest.FixtureRequest, minilm: Encoder, tmp_path: Path) -> None:
    source = request.getfixturevalue("demo_suite") if name == "demo" else request.getfixturevalue("shared_data") / name
    result = evaluate_model(
        read_dataset(source), resolve_checkpoint(DEFAULT_BASE_MODEL), tuned=minilm, cache=tmp_path, max_queries=150
    )
    _, page = write_report(result.report, tmp_path / "report.json", evaluation=result.evaluation)
    assert result.verdict.sentence
    for width in (1200, 390):
        seen = look_at(page, width=width)
        assert seen.errors == []
        assert seen.scroll_width == width, seen.outside
        assert seen.outside == []
        assert not [one for one in seen.violations or () if one["impact"] in ("serious", "critical")]
        assert len(seen.picture) > 20_000
