from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, TrainingError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import BaseValues, TrainingContext
from llama_index_ace_finetune.training.data.examples import IndexedExamples, index_examples, join_examples
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop.budget import DoesNotFitError, StepPlan
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, copy_weights
from llama_index_ace_finetune.training.modes import refit as module
from llama_index_ace_finetune.training.modes.mode import ModeEstimate
from llama_index_ace_finetune.training.modes.refit import (
    best_step,
    config_for_selection,
    estimate_refit,
    refit_kind,
    refit_selected,
)
from llama_index_ace_finetune.training.modes.result import ModeResult

SURE = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
HISTORY = (
    {"step": 0, "epoch": 0.0, "MRR@10": 0.9},  # the base
    {"step": 3, "epoch": 0.6, "loss": 1.0},
    {"step": 5, "epoch": 1.0, "MRR@10": 0.5},
    {"step": 10, "epoch": 2.0, "MRR@10": 0.6},
    {"step": 15, "epoch": 3.0, "MRR@10": 0.6},
)


def rows(*values: list[int]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(value, np.int64) for value in values)


# ------------------------------------------------------------------------------------------------ examples


def test_joined_examples_leave_out_negatives_that_only_the_test_holds_out() -> None:
    shared: dict[str, Any] = {"corpus_ids": tuple("abcdef"), "corpus": tuple("ABCDEF")}
    # Row 5 is the positive of a test query; rows 0 and 3 are those of train and dev.
    train = IndexedExamples(
        ("q",),
        ("one",),
        **shared,
        relevant=rows([0]),
        negatives=rows([1, 2]),
        held_out=np.array([0, 0, 0, 1, 0, 1]) > 0,
    )
    dev = IndexedExamples(
        ("r",),
        ("two",),
        **shared,
        relevant=rows([3]),
        negatives=rows([5, 4]),
        own=np.array([1]),
        judged=rows([5, 4]),
        held_out=np.array([1, 0, 0, 1, 0, 1]) > 0,
    )
    both = join_examples(train, dev)
    assert both.query_ids == ("q", "r")
    assert both.queries == ("one", "two")
    assert [row.tolist() for row in both.relevant] == [[0], [3]]
    assert [row.tolist() for row in both.negatives] == [[1, 2], [4]]
    assert [row.tolist() for row in both.judged] == [[], [4]]
    assert both.held_out is not None
    assert both.held_out.tolist() == [False] * 5 + [True]
    assert both.own is not None
    assert both.own.tolist() == [-1, 1]
    assert both.synthetic is None
    assert join_examples(train, dataclasses.replace(train, held_out=None)).own is None


def test_context_is_made_with_what_was_computed(context: TrainingContext) -> None:
    assert context.computed.document_vectors is None
    documents, tokens = context.document_vectors, context.tokens
    other = dataclasses.replace(context, known=context.computed)
    assert other.document_vectors is documents
    assert other.tokens is tokens
    assert other.computed.query_vectors is None
    queries = np.ones((len(context.examples.queries), 2), np.float32)
    assert dataclasses.replace(other, known=BaseValues(query_vectors=queries)).query_vectors is queries


def test_refit_has_a_part_of_the_budget() -> None:
    assert config_for_selection(TrainingConfig(refit="dev", budget_minutes=10.0)).budget_minutes == 4.5
    for config in (TrainingConfig(), TrainingConfig(refit="none"), TrainingConfig(refit="dev", budget_minutes=None)):
        assert config_for_selection(config) == config


def test_auto_is_a_refit_on_dev_only_where_test_queries_measure_it() -> None:
    assert refit_kind(TrainingConfig(), ["full"], measured=True) == "dev"
    assert refit_kind(TrainingConfig(), ["in_batch"], measured=True) == "dev"
    assert refit_kind(TrainingConfig(), ["full"], measured=False) == "none"
    assert refit_kind(TrainingConfig(), ["linear"], measured=True) == "none"
    for cannot in ({"late_interaction_weight": 1.0}, {"tasks": ("paraphrases",)}, {"also": ("more.jsonl",)}):
        assert refit_kind(TrainingConfig(**cannot), ["full"], measured=True) == "none"  # type: ignore[arg-type]
    # What is asked for is tried in any case.
    assert refit_kind(TrainingConfig(refit="all"), ["linear"], measured=False) == "all"


def test_best_step_is_the_first_of_the_best_on_dev() -> None:
    assert best_step(HISTORY) == 10


# ------------------------------------------------------------------------------------------------ what ships


@pytest.fixture
def context(training_data: TrainingData, one_layer: str) -> TrainingContext:
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))
    train, dev = (index_examples(training_data, training_data.examples_of(part)) for part in ("train", "dev"))
    return TrainingContext(base, train, DevSet(dev), TrainingConfig(**QUICK))


def selected(name: str = "full", alpha: float = 0.5) -> ModeResult:
    selection = Selection(alpha=alpha, difference=SURE, candidates={})
    return ModeResult(name, selection, 0.6, 15, 3.0, 1.0, HISTORY, lambda model: model, scheduled=20)


def test_refit_on_all_queries_trains_on_test_queries_last(
    training_data: TrainingData, context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = index_examples(training_data, training_data.examples_of("dev")[:5])
    given: list[TrainingContext] = []

    def train(everything: TrainingContext, **options: Any) -> ModeResult:
        given.append(everything)
        return dataclasses.replace(selected(), weights=copy_weights(context.encoder))

    monkeypatch.setattr(module, "train_full", train)
    _, examples, refit = refit_selected(context, selected(), minutes=None, on="all", test=test)
    assert examples.queries[-5:] == test.queries
    # 40 train, 20 dev and 5 test queries.
    assert (refit.queries, refit.steps, refit.on) == (65, 16, "all")
    assert np.abs(given[0].query_vectors[-5:] - context.encoder.encode_queries(test.queries)).max() < 1e-5
    assert "16 steps on 65 train, dev and test queries" in str(refit)
    assert "none of these queries can measure them" in str(refit)


def test_refit_on_all_queries_needs_the_test_queries(training_data: TrainingData, tmp_path: Path) -> None:
    tuner = EmbeddingFineTuner(TrainingConfig(refit="all", output_dir=str(tmp_path / "model")))
    data = dataclasses.replace(training_data, split={"queries": {"test": {"q": "hash"}}})
    with pytest.raises(TrainingError, match="do not hold the 1 test queries of their split; set it in `run`"):
        tuner.load_training_data(data)


def moved(context: TrainingContext, by: float) -> dict[str, torch.Tensor]:
    return {
        name: weight + by if torch.is_floating_point(weight) else weight
        for name, weight in copy_weights(context.encoder).items()
    }


def test_refit_has_steps_in_proportion_and_the_alpha_of_the_selection(
    context: TrainingContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def train(everything: TrainingContext, **options: Any) -> ModeResult:
        given.update(options, context=everything)
        return dataclasses.replace(selected(), weights=moved(context, 1.0))

    monkeypatch.setattr(module, "train_full", train)
    before = copy_weights(context.encoder)
    result, examples, refit = refit_selected(context, selected(), minutes=2.0)
    # 40 train and 20 dev queries: half as many steps again, at learning rates that decay as slowly as before.
    assert (given["steps"], given["name"], given["minutes"]) == (15, "full", 2.0)
    assert given["scheduled"] == 30
    assert (refit.queries, refit.steps, refit.alpha, refit.ships) == (60, 15, 0.5, True)
    everything = given["context"]
    assert everything.dev is None
    assert everything.examples is examples
    assert len(examples.queries) == len(everything.query_vectors) == 60
    assert np.abs(everything.query_vectors - context.encoder.encode_queries(examples.queries)).max() < 1e-5
    # Weights of the base are restored, and those that ship are halfway between them and the trained ones.
    assert all((weight == before[name]).all() for name, weight in copy_weights(context.encoder).items())
    assert result.weights is not None
    name = next(name for name, weight in before.items() if torch.is_floating_point(weight))
    assert torch.allclose(result.weights[name], before[name] + 0.5)
    built = result.build(context.encoder.model).state_dict()
    assert torch.allclose(built[name], before[name] + 0.5)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TrainingError("The loss is nan at step 2 (queries q7), and '/home/me' is the last good."), "loss diverged"),
        (DoesNotFitError(90.0, "15 steps take"), "15 steps take about 90 s with dev evaluations, and 60 s of the"),
        (None, "mode 'linear' needs dev queries to train"),
    ],
)
def test_selected_weights_ship_where_the_refit_fails(
    context: TrainingContext,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception | None,
    expected: str,
) -> None:
    def fails(*_: Any, **__: Any) -> ModeResult:
        assert error is not None
        raise error

    monkeypatch.setattr(module, "train_full", fails)
    chosen = selected("full" if error else "linear")
    result, examples, refit = refit_selected(context, chosen, minutes=1.0)
    assert result is chosen
    assert examples is context.examples
    assert not refit.ships
    assert expected in refit.not_shipped
    assert "/home/me" not in refit.not_shipped
    assert "not shipped, the weights selected on dev ship" in caplog.text


def test_selected_weights_ship_if_the_refit_forgets(context: TrainingContext, monkeypatch: pytest.MonkeyPatch) -> None:
    assert context.dev is not None
    context = dataclasses.replace(context, general=context.dev)
    noise = torch.Generator().manual_seed(0)
    broken = {
        name: torch.randn(weight.shape, generator=noise) if torch.is_floating_point(weight) else weight
        for name, weight in copy_weights(context.encoder).items()
    }
    monkeypatch.setattr(module, "train_full", lambda *_, **__: dataclasses.replace(selected(), weights=broken))
    _ = context.retention
    chosen = selected(alpha=1.0)
    result, _, refit = refit_selected(context, chosen, minutes=None)
    assert result is chosen
    assert refit.retention_loss is not None
    assert refit.retention_loss > 0.01
    assert refit.not_shipped.startswith("general queries lose +0.")


# ------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    "options",
    [
        {"refit": "test"},
        {"refit": True},
        {"refit": "dev", "late_interaction_weight": 1.0},
        {"refit": "dev", "tasks": ("paraphrases",)},
    ],
)
def test_invalid_refit_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(AceFinetuneError, match="refit is "):
        TrainingConfig(**options)


def test_plan_of_a_refit_has_its_part_of_the_budget() -> None:
    modes = [("linear", ModeEstimate("", 5.0)), ("in_batch", ModeEstimate("", 80.0)), ("full", ModeEstimate("", 60.0))]
    free = TrainingConfig(refit="dev", budget_minutes=None)
    # Half as many queries again, in the dearest mode that can be trained again.
    assert estimate_refit(free, modes, queries=60, train=40).seconds == 120.0
    short = TrainingConfig(refit="dev", budget_minutes=1.0)
    assert estimate_refit(short, modes, queries=60, train=40).seconds == pytest.approx(33.0)
    assert estimate_refit(free, modes[:1], queries=60, train=40).seconds == 0.0
    without = estimate_refit(free, [*modes[:1], ("full", ModeEstimate("not started", 0.0))], queries=60, train=40)
    assert without == ModeEstimate("not expected: it needs mode in_batch or full", 0.0)


@pytest.mark.parametrize(("minutes", "seconds"), [(None, 120.0), (5.0, 120.0), (4.0, 0.0)])
def test_plan_of_an_automatic_refit_is_what_fits_into_the_rest_of_the_budget(
    minutes: float | None, seconds: float
) -> None:
    modes = [("linear", ModeEstimate("", 5.0)), ("in_batch", ModeEstimate("", 80.0)), ("full", ModeEstimate("", 60.0))]
    estimate = estimate_refit(TrainingConfig(budget_minutes=minutes), modes, queries=60, train=40)
    assert estimate.seconds == seconds
    assert estimate.description.startswith("the selected mode once more" if seconds else "not expected: the budget")
    assert refit_kind(TrainingConfig(), dict(modes), measured=True) == "dev"
    assert refit_kind(TrainingConfig(), ["linear", "queries"], measured=True) == "none"
    assert refit_kind(TrainingConfig(tasks=("duplicates",)), dict(modes), measured=True) == "none"


# ------------------------------------------------------------------------------------------------ a training


@pytest.mark.slow
def test_refit_ships_what_a_training_on_all_queries_would(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llama_index_ace_finetune.training.model_selection.interpolation.paired_difference", lambda *_, **__: SURE
    )
    options = {**QUICK, "base_model": one_layer, "interpolation": (1.0,)}
    everything = dataclasses.replace(
        training_data, examples=tuple(dataclasses.replace(e, split="train") for e in training_data.examples)
    )
    *others, _, _ = training_data.examples
    last = [dataclasses.replace(example, split="test") for example in training_data.examples[-2:]]
    with_test = dataclasses.replace(training_data, examples=(*others, *last))
    shipped = {}
    for name, data, refit in (
        ("refit", training_data, "dev"),
        ("on_all", with_test, "all"),
        ("all", everything, "none"),
    ):
        config = TrainingConfig(output_dir=str(tmp_path / name), refit=refit, **options)  # type: ignore[arg-type]
        tuner = EmbeddingFineTuner(config, selected=tmp_path / f"{name} selected")
        tuner.load_training_data(data)
        tuner.initialize_model()
        started: list[tuple[str, int]] = []

        def note(mode: str, plan: StepPlan, to: list[tuple[str, int]] = started) -> None:
            to.append((mode, plan.steps))

        metrics = tuner.train(on_mode_start=note)
        assert tuner.encoder is not None
        shipped[name] = copy_weights(tuner.encoder)
        # An epoch of 40 queries has 5 steps, one of 60 has 8.
        assert started == ([("full", 8)] if refit == "none" else [("full", 5), ("refit", 8)])
        assert ("refit" in metrics) == (tmp_path / f"{name} selected").is_dir() == (refit != "none")
    for refitted in ("refit", "on_all"):
        assert all((weight == shipped["all"][name]).all() for name, weight in shipped[refitted].items())

    record = read_provenance(tmp_path / "refit")
    assert record is not None
    dev = {text_hash(example.query) for example in training_data.examples_of("dev")}
    assert dev < set(record["seen"]["train"]["query_hashes"])
    assert len(record["seen"]["train"]["query_hashes"]) == 60
    assert record["metrics"]["refit"]["ships"]
    card = (tmp_path / "refit" / "README.md").read_text(encoding="utf-8")
    assert "The weights in this folder have not been measured on dev" in card
    assert "8 steps with alpha 1.00, on 60 train and dev queries" in card
    assert "trained again on train and dev queries (not measured on dev) |" in card
    assert "have not been measured" not in (tmp_path / "all" / "README.md").read_text(encoding="utf-8")

    chosen = read_provenance(tmp_path / "refit selected")
    assert chosen is not None
    assert "refit" not in chosen["metrics"]
    assert dev.isdisjoint(chosen["seen"]["train"]["query_hashes"])
    assert dev == set(chosen["seen"]["dev"]["query_hashes"])
    assert chosen["fingerprint"] != record["fingerprint"]
    assert "have not been measured" not in (tmp_path / "refit selected" / "README.md").read_text(encoding="utf-8")

    every = read_provenance(tmp_path / "on_all")
    assert every is not None
    assert {text_hash(example.query) for example in last} < set(every["seen"]["train"]["query_hashes"])
    card = (tmp_path / "on_all" / "README.md").read_text(encoding="utf-8")
    assert "on 60 train, dev and test queries, so none of these queries can measure them." in card
    assert "trained again on train, dev and test queries (not measured) |" in card
