from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.fingerprint import fingerprint_folder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError, ModelError, OutputExistsError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop import fit as fit_module
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits, embed
from llama_index_ace_finetune.training.saving.plot import plot_training
from llama_index_ace_finetune.utils.file_lock import locked
from llama_index_ace_finetune.utils.new_folder import require_replaceable
from llama_index_ace_finetune.utils.ownership import write_mark


def without_dev(data: TrainingData, count: int) -> TrainingData:
    return dataclasses.replace(data, examples=data.examples[:count])


def ready(data: TrainingData, output: Path, **options: Any) -> EmbeddingFineTuner:
    tuner = EmbeddingFineTuner(TrainingConfig(output_dir=str(output), **{**QUICK, **options}))
    tuner.load_training_data(data)
    tuner.initialize_model()
    return tuner


@dataclasses.dataclass
class Trained:
    """A short training with its counts, metrics and progress reports."""

    tuner: EmbeddingFineTuner
    folder: Path
    counts: dict[str, int]
    metrics: dict[str, Any]
    steps: list[tuple[int, int, dict[str, float]]]


@pytest.fixture(scope="module")
def trained(training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory, minilm: Encoder) -> Trained:
    folder = tmp_path_factory.mktemp("training") / "model"
    tuner = EmbeddingFineTuner(TrainingConfig(output_dir=str(folder), **QUICK))
    counts = tuner.load_training_data(training_data)
    tuner.initialize_model()
    steps: list[tuple[int, int, dict[str, float]]] = []
    metrics = tuner.train(progress=lambda *row: steps.append(row))
    return Trained(tuner, folder, counts, metrics, steps)


# ------------------------------------------------------------------------------------------------ a short training


def test_counts_steps_and_progress(trained: Trained) -> None:
    assert trained.counts == {"train": 40, "dev": 20, "memories": 12}
    assert trained.metrics["total_steps"] == 5
    assert trained.metrics["epochs"] == 1
    assert trained.metrics["examples_per_second"] > 0
    assert [(step, total) for step, total, _ in trained.steps] == [(step, 5) for step in range(1, 6)]
    losses = [row["loss"] for row in trained.tuner.history if "loss" in row]
    assert len(losses) == 5
    assert np.isfinite(losses).all()
    assert trained.tuner.history[0]["step"] == 0


def test_folder_loads_in_sentence_transformers_with_the_same_vectors(
    trained: Trained, training_data: TrainingData
) -> None:
    plain = SentenceTransformer(str(trained.folder), device="cpu")
    encoder = trained.tuner.encoder
    assert encoder is not None
    queries = [example.query for example in training_data.examples[:6]]
    memories = list(training_data.memories.values())[:6]
    assert np.abs(plain.encode_query(queries, normalize_embeddings=True) - encoder.encode_queries(queries)).max() < 1e-5
    documents = plain.encode_document(memories, normalize_embeddings=True)
    assert np.abs(documents - encoder.encode_documents(memories)).max() < 1e-5
    loaded = Encoder.load(trained.folder)
    assert np.abs(loaded.encode_queries(queries) - encoder.encode_queries(queries)).max() < 1e-5


def test_shipped_weights_follow_the_selection(trained: Trained, minilm: Encoder) -> None:
    selection = trained.tuner.selection
    assert selection is not None
    assert set(selection.candidates) == {0.0, 0.5, 1.0}
    significant = selection.difference.low > 0 and selection.difference.p_value <= 0.05
    assert selection.ships_tuned == significant
    shipped = Encoder.load(trained.folder).encode_queries(["a query"])
    change = float(np.abs(shipped - minilm.encode_queries(["a query"])).max())
    assert (change > 1e-5) == selection.ships_tuned
    assert trained.metrics["selection"] == selection.to_dict()


def test_evaluate_returns_dev_metrics_and_mean_cosine_of_positives(trained: Trained) -> None:
    result = trained.tuner.evaluate()
    selection = trained.tuner.selection
    assert selection is not None
    assert result["MRR@10"] == pytest.approx(selection.candidates[selection.alpha]["MRR@10"])
    assert set(result) == {"avg_positive_similarity", "Success@1", "Success@5", "MRR@10"}
    assert 0 < result["avg_positive_similarity"] < 1


def test_provenance_of_the_model_is_recorded(trained: Trained, training_data: TrainingData, minilm: Encoder) -> None:
    record = read_provenance(trained.folder)
    assert record is not None
    assert record["base_model"] == DEFAULT_BASE_MODEL
    assert record["fingerprint"] == fingerprint_folder(trained.folder, {})
    assert record["config"]["epochs"] == 1
    assert "output_dir" not in record["config"]
    assert record["data"] == {"source": "small_suite.json", "total_examples": 60, "memories": 12}
    assert record["selection"]["shipped"] in ("base", "finetuned")
    assert record["metrics"]["total_steps"] == 5
    assert record["history"] == trained.tuner.history
    for part in ("train", "dev"):
        examples = training_data.examples_of(part)
        assert record["seen"][part]["query_hashes"] == sorted({text_hash(one.query) for one in examples})
        answers = {text_hash(training_data.memories[i]) for one in examples for i in one.positive_ids}
        assert record["seen"][part]["answer_hashes"] == sorted(answers)


def test_model_card_is_complete_and_quotes_no_data(trained: Trained, training_data: TrainingData) -> None:
    card = (trained.folder / "README.md").read_text(encoding="utf-8")
    record = (trained.folder / "ace_finetune.json").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: sentence-transformers\n")
    assert f'base_model: "{DEFAULT_BASE_MODEL}"' in card
    assert "60 examples, 12 memories" in card
    assert "| 0.0 (base) |" in card
    assert "5 steps" in card
    assert "{{" not in card
    assert "{%" not in card
    # As the card of the base model says.
    assert 'language: ["en"]\nlicense: "apache-2.0"\n' in card
    assert 'model = SentenceTransformer("path/to/this/folder")' in card
    for text in [*(one.query for one in training_data.examples), *training_data.memories.values()]:
        assert text not in card
        assert text not in record


def test_training_curve_is_plotted(trained: Trained, tmp_path: Path) -> None:
    assert (trained.folder / "training_curve.png").read_bytes().startswith(b"\x89PNG")
    assert plot_training(trained.tuner.history, tmp_path / "a.png")
    assert plot_training(trained.tuner.history, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert not plot_training([{"step": 0, "MRR@10": 0.5}], tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_no_temporary_files_remain(trained: Trained) -> None:
    assert list(trained.folder.parent.iterdir()) == [trained.folder]
    assert not list(trained.folder.glob("checkpoint*"))
    assert not list(trained.folder.rglob("*.bin"))
    json.loads((trained.folder / "config_sentence_transformers.json").read_text(encoding="utf-8"))


def test_retraining_replaces_the_folder(
    trained: Trained, training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "old.txt").write_text("from the last training", encoding="utf-8")
    write_mark(folder, kind="model", name="model")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    tuner = ready(without_dev(training_data, 8), folder, base_model=one_layer)
    metrics = tuner.train()
    # Without dev queries there is no selection, and the record says so.
    assert metrics["selection"] is None
    assert metrics["total_steps"] == 1
    assert not (folder / "old.txt").exists()
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"
    record = read_provenance(folder)
    assert record is not None
    assert record["selection"] is None
    assert record["data"]["total_examples"] == 8
    assert record["seen"]["dev"] == {"query_hashes": [], "answer_hashes": []}
    assert "tuned weights, unchecked" in (folder / "README.md").read_text(encoding="utf-8")
    assert set(tuner.evaluate()) == {"avg_positive_similarity"}
    assert list(tmp_path.iterdir()) == [folder]


def test_time_budget_limits_the_steps(training_data: TrainingData, one_layer: str, tmp_path: Path) -> None:
    data = without_dev(training_data, 12)
    tuner = ready(data, tmp_path / "model", base_model=one_layer, epochs=50_000, batch_size=4, budget_minutes=0.02)
    assert 1 < tuner.train()["total_steps"] < 150_000


# ------------------------------------------------------------------------------------------------ errors


def test_steps_that_take_longer_than_timed_are_fewer(
    training_data: TrainingData,
    one_layer: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(fit_module, "_step_seconds", lambda *_, **__: 1e-5)
    data = without_dev(training_data, 12)
    tuner = ready(data, tmp_path / "model", base_model=one_layer, epochs=50_000, batch_size=4, budget_minutes=0.02)
    planned: list[int] = []
    with caplog.at_level(logging.WARNING):
        metrics = tuner.train(on_mode_start=lambda name, plan: planned.append(plan.steps))
    assert 5 <= metrics["total_steps"] < planned[-1] / 10
    assert f"ends after {metrics['total_steps']} steps instead of" in caplog.text


def test_foreign_folder_is_refused_before_training(training_data: TrainingData, one_layer: str, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    tuner = ready(training_data, tmp_path, base_model=one_layer)
    with pytest.raises(OutputExistsError, match="holds something that this package did not write"):
        tuner.train()
    assert tuner.history == []
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_output_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "model"
    file.write_text("x", encoding="utf-8")
    with pytest.raises(OutputExistsError, match="is a file; give a folder"):
        require_replaceable(file, kind="model")


def test_missing_and_empty_folders_are_accepted(tmp_path: Path) -> None:
    require_replaceable(tmp_path, kind="model")
    require_replaceable(tmp_path / "new", kind="model")
    assert list(tmp_path.iterdir()) == []


def test_nan_loss_raises_and_writes_nothing(training_data: TrainingData, one_layer: str, tmp_path: Path) -> None:
    data = without_dev(training_data, 8)
    tuner = ready(data, tmp_path / "model", base_model=one_layer, batch_size=4, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"The loss is nan at step 2 \(queries .*, .*, .* and 1 more\); lower"):
        tuner.train()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("no more"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
    ],
)
def test_batch_is_computed_in_smaller_chunks_if_out_of_memory(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    attempts: list[int] = []

    def scarce(model: Any, features: Any, *, packed: bool, memory: ChunkLimits) -> Any:
        attempts.append(memory.chunk_tokens if not memory.max_cached_tokens else 0)
        if memory.max_cached_tokens or memory.chunk_tokens > 1024:
            raise error
        return embed(model, features, packed=packed, memory=memory)

    monkeypatch.setattr("llama_index_ace_finetune.training.losses.masked_ranking.embed", scarce)
    tuner = ready(without_dev(training_data, 16), tmp_path / "model", base_model=one_layer)
    assert tuner.train()["total_steps"] == 2
    # The chunk size is settled before the first step; two steps are timed first, with queries and documents each.
    assert attempts == [0, 4096, 2048, *[1024] * 8]
    monkeypatch.setattr("llama_index_ace_finetune.training.losses.embed_batch._SMALLEST_CHUNK", 2048)
    with pytest.raises(TrainingError, match="not even one chunk of a batch fits on the device; lower max_seq_length"):
        ready(without_dev(training_data, 16), tmp_path / "other", base_model=one_layer).train()
    assert not (tmp_path / "other").exists()


def test_other_runtime_errors_are_not_treated_as_out_of_memory(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault")

    monkeypatch.setattr("llama_index_ace_finetune.training.losses.masked_ranking.embed", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        ready(without_dev(training_data, 16), tmp_path / "model", base_model=one_layer).train()


def test_checkpoints_of_another_training_are_refused(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    def tuner(name: str, **options: Any) -> EmbeddingFineTuner:
        config = TrainingConfig(output_dir=str(tmp_path / name), base_model=one_layer, **{**QUICK, **options})
        made = EmbeddingFineTuner(config, checkpoints=tmp_path / "checkpoints")
        made.load_training_data(without_dev(training_data, options.get("batch_size", 8) * 2))
        made.initialize_model()
        return made

    tuner("first").train()
    tuner("again").train()
    for other in ({"learning_rate": 3e-5}, {"batch_size": 4}):
        with pytest.raises(TrainingError, match="are of a training with other data or settings; give another folder"):
            tuner("other", **other).train()
    assert not (tmp_path / "other").exists()


def test_concurrent_training_into_one_folder_is_refused(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    tuner = ready(without_dev(training_data, 16), tmp_path / "model", base_model=one_layer)
    with (
        locked(tmp_path / ".model.training.lock", output=tmp_path / "model"),
        pytest.raises(AceFinetuneError, match=r"Another process is writing '.*model'; wait for it"),
    ):
        tuner.train()
    tuner.train()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_matryoshka_dimensions_above_the_vector_size_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"dimensions holds 384, and vectors of .* have 384 dimensions in all"):
        EmbeddingFineTuner(TrainingConfig(dimensions=(128, 384))).initialize_model()


def test_single_positive_without_negatives_is_refused(training_data: TrainingData) -> None:
    same = training_data.examples[0].positive_ids
    examples = tuple(dataclasses.replace(one, positive_ids=same, negatives=()) for one in training_data.examples[:12])
    with pytest.raises(TrainingError, match="the same positive and no negatives"):
        EmbeddingFineTuner().load_training_data(dataclasses.replace(training_data, examples=examples))


def test_too_few_examples_are_refused(training_data: TrainingData, tmp_path: Path) -> None:
    tuner = EmbeddingFineTuner(TrainingConfig(output_dir=str(tmp_path / "model")))
    with pytest.raises(TrainingError, match="There are 7 training examples, and at least 8 are needed"):
        tuner.load_training_data(without_dev(training_data, 7))
    assert tuner.load_training_data(without_dev(training_data, 8))["train"] == 8


def test_missing_training_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="does not exist"):
        EmbeddingFineTuner().load_training_data(tmp_path / "none.json")


def test_missing_base_model_is_refused(tmp_path: Path) -> None:
    tuner = EmbeddingFineTuner(TrainingConfig(base_model=str(tmp_path / "none")))
    with pytest.raises(ModelError, match="does not exist"):
        tuner.initialize_model()


def test_calls_in_the_wrong_order_are_refused(training_data: TrainingData) -> None:
    tuner = EmbeddingFineTuner()
    with pytest.raises(TrainingError, match="call load_training_data first"):
        tuner.train()
    tuner.load_training_data(training_data)
    for call in (tuner.train, tuner.evaluate, tuner.save_model):
        with pytest.raises(TrainingError, match="call initialize_model first"):
            call()


@pytest.mark.parametrize("content", ["{", "[]", "3"])
def test_corrupt_provenance_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "ace_finetune.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"ace_finetune\.json' is corrupt"):
        read_provenance(tmp_path)


def test_folder_without_provenance_gives_none(tmp_path: Path) -> None:
    assert read_provenance(tmp_path) is None
