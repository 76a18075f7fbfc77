from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, TrainingError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.data.batches import BatchCollator
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.training.model_selection.interpolation import Selection, copy_weights
from llama_index_ace_finetune.training.modes.full import train_full
from llama_index_ace_finetune.training.modes.mode import Speed, TaskSizes, TrainingSizes
from llama_index_ace_finetune.training.modes.result import ModeResult, best_result
from llama_index_ace_finetune.training.modes.schedule import estimate_modes, run_modes
from llama_index_ace_finetune.training.modes.towers import train_towers

QUICK: dict[str, Any] = {
    "epochs": 1,
    "batch_size": 8,
    "hard_negatives": 1,
    "interpolation": (1.0,),
    "max_seq_length": 32,
    "precision": "float32",
    "device": "cpu",
}
SURE = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
QUERIES = ["how often are keys rotated?", "who is notified when a backup fails?"]


def ready(data: TrainingData, output: Path, base_model: str, **options: Any) -> EmbeddingFineTuner:
    config = TrainingConfig(output_dir=str(output), base_model=base_model, **{**QUICK, **options})
    tuner = EmbeddingFineTuner(config)
    tuner.load_training_data(data)
    tuner.initialize_model()
    return tuner


def result_of(name: str, mrr: float, alpha: float) -> ModeResult:
    selection = Selection(alpha=alpha, difference=SURE, candidates={})
    return ModeResult(name, selection, mrr, 1, 1.0, 1.0, (), lambda model: model)  # type: ignore[arg-type]


def test_best_result_that_beats_the_base_ships() -> None:
    linear, queries, full = result_of("linear", 0.5, 1), result_of("queries", 0.6, 1), result_of("full", 0.7, 0)
    assert best_result([linear, queries, full]) is queries
    assert best_result([linear, dataclasses.replace(queries, dev_mrr=0.5)]) is linear
    assert best_result([full]) is None
    assert best_result([dataclasses.replace(full, selection=None)]) is not None


@pytest.mark.parametrize(
    ("options", "ran"),
    [
        ({"mode": "linear"}, ["linear"]),
        ({"mode": "queries"}, ["linear", "queries"]),
        ({"mode": "auto"}, ["linear", "in_batch", "full"]),
        ({"mode": "auto", "keep_index": True}, ["linear", "queries"]),
        ({"mode": "full"}, ["full"]),
        ({"mode": "in_batch"}, ["in_batch"]),
        ({"mode": "towers"}, ["full", "towers"]),
    ],
)
def test_each_mode_runs_and_writes_one_folder(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    options: dict[str, Any],
    ran: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Always select the last mode, whatever twenty dev queries say: its folder is tested here.
    monkeypatch.setattr(
        "llama_index_ace_finetune.training.model_selection.interpolation.paired_difference", lambda *_, **__: SURE
    )
    monkeypatch.setattr("llama_index_ace_finetune.training.fine_tuner.best_result", lambda results: results[-1])
    done: list[str] = []
    started: list[str] = []
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu"))
    tuner = ready(training_data, tmp_path / "model", one_layer, **options)
    metrics = tuner.train(
        on_mode_end=lambda result: done.append(result.name), on_mode_start=lambda name, _: started.append(name)
    )
    assert done == ran
    assert started == [name for name in ran if name != "linear"]
    assert metrics["mode"] == ran[-1]
    assert [row["rung"] for row in metrics["rungs"]] == ran
    record = read_provenance(tmp_path / "model")
    assert record is not None
    assert record["metrics"]["rungs"] == metrics["rungs"]
    assert f"{ran[-1]} (ships)" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8") or len(done) == 1

    shipped = tuner.encoder
    assert shipped is not None
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    loaded = Encoder.load(tmp_path / "model")
    memories = list(training_data.memories.values())
    for ours in (shipped, loaded):
        queries = plain.encode_query(QUERIES, normalize_embeddings=True)
        assert np.abs(queries - ours.encode_queries(QUERIES)).max() < 1e-5
        documents = plain.encode_document(memories, normalize_embeddings=True)
        assert np.abs(documents - ours.encode_documents(memories)).max() < 1e-5
    # In memory and on disk it has the name of the new folder, never that of the base.
    assert (loaded.document_fingerprint == base.fingerprint) == (ran[-1] in ("linear", "queries"))
    assert loaded.model.max_seq_length == base.model.max_seq_length  # not the limit of the training
    assert (shipped.fingerprint, shipped.name) == (loaded.fingerprint, str(tmp_path / "model"))
    assert record["base_fingerprint"] == base.fingerprint
    before = (tmp_path / "model" / "ace_finetune.json").read_bytes()
    tuner.save_model()
    assert (tmp_path / "model" / "ace_finetune.json").read_bytes() == before
    if ran[-1] in ("linear", "queries"):
        # Documents that the base embedded stay valid.
        assert np.abs(loaded.encode_documents(memories) - base.encode_documents(memories)).max() < 1e-6
    if ran[-1] != "linear":
        assert np.abs(loaded.encode_queries(QUERIES) - base.encode_queries(QUERIES)).max() > 1e-4


def test_base_weights_are_restored(training_data: TrainingData, one_layer: str, tmp_path: Path) -> None:
    tuner = ready(training_data, tmp_path / "model", one_layer, mode="auto")
    base, examples = tuner.encoder, [e for e in training_data.examples if e.split == "train"]
    assert base is not None
    before = base.encode_queries(QUERIES)
    dev = DevSet(index_examples(training_data, [e for e in training_data.examples if e.split == "dev"]))
    results = run_modes(TrainingContext(base, index_examples(training_data, examples), dev, tuner.config))
    assert (base.encode_queries(QUERIES) == before).all()
    scores = [result.selection.candidates[0.0]["MRR@10"] for result in results if result.selection]
    assert scores == [pytest.approx(float(dev.score(base).mrr.mean()), abs=1e-4)] * len(results)


def context_of(data: TrainingData, base: Encoder, **options: Any) -> TrainingContext:
    parts = {name: [e for e in data.examples if e.split == name] for name in ("train", "dev")}
    dev = DevSet(index_examples(data, parts["dev"]))
    return TrainingContext(base, index_examples(data, parts["train"]), dev, TrainingConfig(**{**QUICK, **options}))


@pytest.mark.slow
def test_towers_start_from_the_model_of_full_and_keep_its_documents(
    training_data: TrainingData, one_layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "llama_index_ace_finetune.training.model_selection.interpolation.paired_difference", lambda *_, **__: SURE
    )
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu", precision="float32"))
    context = context_of(training_data, base)
    full = train_full(context, minutes=None)
    before = copy_weights(base)
    built = full.build(base.model)
    tuned = Encoder(built, name="full", fingerprint="full", settings=base.settings)
    memories = list(training_data.memories.values())
    documents, queries = tuned.encode_documents(memories), tuned.encode_queries(QUERIES)
    base.model.load_state_dict(before)

    towers = train_towers(context, previous=[full], minutes=None)
    assert towers.selection is not None
    assert towers.selection.candidates[0.0] == pytest.approx(full.selection.scores.means)  # type: ignore[union-attr]
    two = Encoder(towers.build(base.model), name="two", fingerprint="two", settings=base.settings)
    assert np.abs(two.encode_documents(memories) - documents).max() < 1e-6
    assert np.abs(two.encode_queries(QUERIES) - queries).max() > 1e-4


@pytest.mark.slow
def test_without_a_gain_of_full_the_query_encoder_is_trained_over_documents_of_the_base(
    training_data: TrainingData, one_layer: str
) -> None:
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu", precision="float32"))
    # Weights that hardly move are no gain.
    context = context_of(training_data, base, mode="auto", learning_rate=1e-12)
    assert [result.name for result in run_modes(context)] == ["linear", "in_batch", "full", "queries"]
    towers = train_towers(context, minutes=None)
    two = Encoder(towers.build(base.model), name="two", fingerprint="two", settings=base.settings)
    memories = list(training_data.memories.values())
    assert np.abs(two.encode_documents(memories) - base.encode_documents(memories)).max() < 1e-6


@pytest.mark.parametrize(
    ("options", "seconds", "ran"),
    [
        ({}, 0.1, ["linear", "in_batch", "full"]),
        ({}, 2.0, ["linear", "in_batch"]),
        pytest.param({"hard_negatives": 0}, 0.1, ["linear", "full"], marks=pytest.mark.slow),
    ],
)
def test_auto_trains_with_mined_negatives_too_if_half_of_the_epochs_fit(
    training_data: TrainingData,
    one_layer: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    seconds: float,
    ran: list[str],
) -> None:
    def timed(loss: object, collator: BatchCollator, *_: object, **__: object) -> float:
        return seconds if collator.hard_negatives else 0.1

    monkeypatch.setattr("llama_index_ace_finetune.training.loop.fit._step_seconds", timed)
    monkeypatch.setattr(
        "llama_index_ace_finetune.training.model_selection.interpolation.paired_difference", lambda *_, **__: SURE
    )
    base = Encoder.load(one_layer, settings=EncoderSettings(device="cpu", precision="float32"))
    # 20 queries make 5 steps an epoch: 10 of them with mined negatives have to fit.
    context = context_of(training_data, base, epochs=4, budget_minutes=0.3, **options)
    assert [result.name for result in run_modes(context)] == ran
    assert ("mode 'full' is not started: 2 epochs take about" in caplog.text) == (seconds == 2.0)


@pytest.mark.parametrize(
    ("options", "started"),
    [
        ({}, ["linear", "in_batch"]),
        ({"teacher": "a-folder"}, ["linear", "full"]),
        ({"epochs": 1}, ["linear", "in_batch", "full"]),
    ],
)
def test_estimate_starts_what_the_training_starts(options: dict[str, Any], started: list[str]) -> None:
    # 10 batches an epoch, each of 64 queries of 10 characters and up to 128 memories of 100: 7.04 s, or 13.44 s with
    # mined negatives. Four epochs without them take 282 of 300 s; one takes 70 s, and leaves 230 s.
    sizes = TrainingSizes(train=6_400, dev=0, corpus=100_000, train_queries=640, memories=1_000)
    config = TrainingConfig(**{"budget_minutes": 5.0, "epochs": 4, "batch_size": 64, **options})
    estimates = estimate_modes(config, sizes, Speed(embed=0.0, train=0.001, linear_step=0.0))
    assert [name for name, estimate in estimates if not estimate.description.startswith("not started")] == started


def test_estimate_counts_further_tasks_by_hand() -> None:
    # The main data: 10 batches an epoch, each of 64 queries of 10 characters and 64 memories of 100: 70.4 s.
    sizes = TrainingSizes(train=6_400, dev=0, corpus=100_000, train_queries=640, memories=1_000)
    # A quarter of its queries make half of its batches, of 160 / 3 queries of 20 characters; all 50 memories of 10
    # characters are in each: 5 * (160 / 3 * 20 + 50 * 10) / 1000 = 7.83 s.
    task = TaskSizes(queries=160, query_characters=3_200, memories=50, corpus_characters=500)
    # With a negative for half of its queries, 80 memories: 5 * (160 / 3 * 20 + 80 * 10) / 1000 = 9.33 s.
    mined = TaskSizes(queries=160, query_characters=3_200, memories=500, corpus_characters=5_000, with_negatives=80)
    speed = Speed(embed=0.0, train=0.001, linear_step=0.0)

    def estimate(*tasks: TaskSizes, negatives: int) -> tuple[str, float]:
        config = TrainingConfig(mode="full", epochs=1, budget_minutes=None, batch_size=64, hard_negatives=negatives)
        ((_, found),) = estimate_modes(config, dataclasses.replace(sizes, tasks=tasks), speed)
        return found.description, found.seconds

    assert estimate(negatives=0)[1] == pytest.approx(70.4)
    description, seconds = estimate(task, negatives=0)
    assert description == "up to 1 epochs of 15 steps (5 of further tasks), queries and documents"
    assert seconds == pytest.approx(70.4 + 7 + 5 / 6)
    without, with_mined = estimate(negatives=1)[1], estimate(task, mined, negatives=1)[1]
    assert with_mined - without == pytest.approx(7 + 5 / 6 + 9 + 1 / 3)


@pytest.mark.parametrize(("mode", "ran"), [("auto", ["linear"]), ("queries", ["linear"])])
def test_modes_without_remaining_budget_are_skipped(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    mode: str,
    ran: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    metrics = ready(training_data, tmp_path / "model", one_layer, mode=mode, budget_minutes=1e-6).train()
    assert [row["rung"] for row in metrics["rungs"]] == ran
    assert "for mode 'queries'" in caplog.text


def test_mode_for_which_only_one_step_fits_is_not_started(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    tuner = ready(
        training_data, tmp_path / "model", one_layer, mode="full", epochs=9, batch_size=4, budget_minutes=1e-6
    )
    with pytest.raises(TrainingError, match=r"The budget is too short for mode 'full': one step .* raise budget_min"):
        tuner.train()
    assert not (tmp_path / "model").exists()


def test_without_dev_queries_only_full_is_trained(
    training_data: TrainingData, one_layer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = dataclasses.replace(training_data, examples=training_data.examples[:16])
    metrics = ready(data, tmp_path / "auto", one_layer, mode="auto").train()
    assert [row["rung"] for row in metrics["rungs"]] == ["full"]
    assert "ships without validation" in caplog.text
    for options in ({"mode": "linear"}, {"mode": "queries"}, {"mode": "auto", "keep_index": True}):
        with pytest.raises(TrainingError, match="no dev queries"):
            ready(data, tmp_path / "none", one_layer, **options).train()
    assert not (tmp_path / "none").exists()


def test_contradicting_settings_are_refused() -> None:
    with pytest.raises(AceFinetuneError, match="mode is 'full'; it must be auto, linear or queries when keep_index"):
        TrainingConfig(mode="full", keep_index=True)
    with pytest.raises(AceFinetuneError, match="mode is 'towers'; it must be auto, linear or queries when keep_index"):
        TrainingConfig(mode="towers", keep_index=True)
    with pytest.raises(
        AceFinetuneError, match="mode is 'quick'; it must be auto or one of linear, queries, in_batch, full, towers"
    ):
        TrainingConfig(mode="quick")  # type: ignore[arg-type]


def test_dual_encoder_is_refused_as_base(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llama_index_ace_finetune.training.fine_tuner.best_result", lambda results: results[-1])
    ready(training_data, tmp_path / "model", one_layer, mode="linear").train()
    with pytest.raises(ModelError, match="embeds queries and documents differently"):
        ready(training_data, tmp_path / "again", str(tmp_path / "model"))
