from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.training_data import TrainingData, TrainingExample
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.report.learning_curve import expected_gain
from llama_index_ace_finetune.pipeline.watch import watch
from llama_index_ace_finetune.production.drift import QuerySample, latency_percentiles, measure_drift
from llama_index_ace_finetune.production.query_log import QueryLog
from llama_index_ace_finetune.production.records import RetrievalRecord
from llama_index_ace_finetune.utils.atomic import write_json

SERVERS = ["deployment", "database", "backup", "certificate", "cache", "queue", "alert", "session", "login", "upload"]
GARDEN = ["tulip", "compost", "hedge", "lawn", "tomato", "pruning", "seedling", "watering", "slug", "greenhouse"]
ASKS = ["how do I fix the {}", "why is the {} slow", "when was the {} changed", "who is responsible for the {}"]
MEMORIES = {f"m{number}": f"The {word} is fixed and changed by the team, and slow on Mondays, they are responsible."
            for number, word in enumerate(SERVERS)}  # fmt: skip


def asked(words: Sequence[str], count: int, seed: int) -> list[str]:
    """Distinct queries about these words."""
    coin = random.Random(seed)
    return [f"{coin.choice(ASKS).format(coin.choice(words))} no {coin.randrange(10**6)}" for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that chose the base model, with 40 queries of dev and a learning curve."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    folder.mkdir()
    examples = tuple(
        TrainingExample(f"q{number}", query, ("m0",), split="dev") for number, query in enumerate(asked(SERVERS, 40, 0))
    )
    TrainingData(examples=examples, memories=MEMORIES).save(folder / "training_data.json")
    write_json(folder / "manifest.json", {"format_version": 2, "base_model": DEFAULT_BASE_MODEL})
    points = [{"queries": size, "mean": mean, "low": 0.0, "high": 0.1} for size, mean in ((100, 0.02), (200, 0.03))]
    write_json(
        folder / "report.json",
        {"serving": {"vectors": "base", "weights": [1.0, 1.0]}, "learning_curve": {"points": points, "sentence": ""}},
    )
    return folder


@pytest.fixture
def logged(tmp_path: Path) -> Callable[..., Path]:
    def write(queries: Sequence[str], **fields: Any) -> Path:
        path = tmp_path / "queries.db"
        with QueryLog.open(path) as log:
            for number, query in enumerate(queries):
                log.write(
                    RetrievalRecord(
                        query_id=f"{query} {number}", time=2e9 + number, query=query, hits=(), seconds=0.01 * number,
                        **{"served_by": "base", "mode": "hybrid", **fields},
                    )
                )  # fmt: skip
        return path

    return write


def test_same_kind_of_queries_needs_no_training(run: Path, logged: Callable[..., Path]) -> None:
    found = watch(logged(asked(SERVERS, 40, 1)), run=run)
    assert not found.due
    assert not found.failing
    assert found.sentence.startswith("No new training is due: the last 40 queries are like those of dev (smallest p ")
    assert found.latency["p50"] == pytest.approx(195)
    assert found.drift is not None
    assert [signal.name for signal in found.drift.signals] == ["vectors", "low scores", "unknown words"]


def test_another_domain_is_due_and_the_gain_is_estimated(run: Path, logged: Callable[..., Path]) -> None:
    queries = asked(GARDEN, 40, 2)
    path = logged(queries)
    with QueryLog.open(path) as log:
        for number in range(20):
            log.feedback(f"{queries[number]} {number}", "m1", 1.0)
        log.feedback(f"{queries[30]} 30", "m1", -1.0)
    found = watch(path, run=run)
    assert found.due
    assert found.drift is not None
    assert {signal.name for signal in found.drift.found} == {"vectors", "low scores", "unknown words"}
    assert found.labelled == 20
    # +.01 per doubling, from 200 to 220 queries.
    assert found.gain == pytest.approx(0.01 * np.log2(220 / 200))
    assert found.sentence.startswith(
        "A new training is due: the last 40 queries are not like those of dev: a classifier"
    )
    assert found.sentence.endswith("20 queries with positive feedback are new, and may add about +0.001 MRR@10 by the "
                                   "learning curve.")  # fmt: skip
    # From cron, and as JSON.
    result = CliRunner().invoke(app, ["watch", str(path), "--run", str(run), "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["due"] is True


def test_the_log_itself_as_reference(run: Path, logged: Callable[..., Path]) -> None:
    """Queries that differ from dev from the start, but not from the first ones of the log."""
    steady = asked(GARDEN, 90, 3)
    assert not watch(logged(steady), run=run, last=30, reference="log").due
    result = watch(logged([*steady, *asked(SERVERS, 30, 4)]), run=run, last=30, reference="log")
    assert result.due
    assert "the first ones of the log" in result.sentence


def test_fallbacks_are_an_alarm_of_their_own(run: Path, logged: Callable[..., Path]) -> None:
    path = logged(asked(SERVERS, 40, 1), served_by="baseline")
    result = CliRunner().invoke(app, ["watch", str(path), "--run", str(run)])
    assert result.exit_code == 4
    assert "A fallback served 100% of them" in " ".join(result.stdout.split())


def test_bm25_in_a_comparison_is_no_fallback(run: Path, logged: Callable[..., Path]) -> None:
    """Either system may have been asked for BM25 only, so that the mode is unknown."""
    assert not watch(logged(asked(SERVERS, 40, 1), served_by="lexical", mode=None), run=run).failing


def test_repeated_queries_count_once_and_few_are_no_drift(run: Path, logged: Callable[..., Path]) -> None:
    found = watch(logged(["one query", "another query"] * 50), run=run)
    assert (found.queries, found.drift, found.due) == (2, None, False)
    assert "too few queries" in found.sentence
    assert "The log has 2 recent queries" in found.notes[0]


def test_bad_input(run: Path, logged: Callable[..., Path], tmp_path: Path) -> None:
    path = logged(asked(SERVERS, 25, 1))
    for options in ({"last": 5}, {"alpha": 0.0}, {"reference": "dev"}, {"run": tmp_path / "none"}):
        with pytest.raises(AceFinetuneError):
            watch(path, **{"run": run, **options})
    with pytest.raises(AceFinetuneError):
        watch(tmp_path / "none.db", run=run)
    assert CliRunner().invoke(app, ["watch", str(tmp_path / "none.db"), "--run", str(run)]).exit_code == 2


# ------------------------------------------------------------------------------------------------ the figures


def sample(rng: np.random.Generator, count: int, **fields: Any) -> QuerySample:
    return QuerySample(
        **{"vectors": rng.normal(size=(count, 6)), "top_scores": rng.random(count), "unknown_words": np.zeros(count),
           **fields}
    )  # fmt: skip


def test_each_signal_by_itself() -> None:
    rng = np.random.default_rng(3)
    usual = sample(rng, 100)
    assert measure_drift(sample(rng, 60), usual, alpha=0.01).found == ()
    for name, changed in (
        ("vectors", {"vectors": rng.normal(1, 1, (60, 6))}),
        ("low scores", {"top_scores": np.r_[np.full(20, -0.1), rng.random(40)]}),
        ("unknown words", {"unknown_words": np.r_[np.full(20, 0.5), np.zeros(40)]}),
    ):
        found = measure_drift(sample(rng, 60, **changed), usual, alpha=0.01).found
        assert [signal.name for signal in found] == [name]


def test_low_scores_by_hand() -> None:
    rng = np.random.default_rng(1)
    usual = sample(rng, 100, top_scores=np.arange(100) / 100)
    recent = sample(rng, 40, top_scores=np.r_[np.full(10, 0.01), np.full(30, 0.5)])
    low = measure_drift(recent, usual).signals[1]
    # The fifth percentile is 4.95 / 100: five queries of the reference are below it, and ten of the recent ones.
    assert (low.value, low.reference) == (0.25, 0.05)


def test_unknown_scores_are_left_out() -> None:
    rng = np.random.default_rng(2)
    found = measure_drift(sample(rng, 30, top_scores=np.full(30, np.nan)), sample(rng, 30))
    assert [signal.name for signal in found.signals] == ["vectors", "unknown words"]
    with pytest.raises(AceFinetuneError, match="at least 20 of each"):
        measure_drift(sample(rng, 19), sample(rng, 30))


def test_percentiles_and_gain_by_hand() -> None:
    assert latency_percentiles([0.1] * 99 + [1.1]) == pytest.approx({"p50": 100, "p95": 100, "p99": 110})
    assert latency_percentiles([]) == {}
    points = [{"queries": 100, "mean": 0.0}, {"queries": 400, "mean": 0.1}]
    assert expected_gain(points, 400) == pytest.approx(0.05)  # one more doubling
    assert expected_gain(points, 0) == 0.0
    assert expected_gain(points[:1], 400) is None
