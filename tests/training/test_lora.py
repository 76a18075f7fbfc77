from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK
from safetensors import safe_open
from sentence_transformers import SentenceTransformer

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.loop.callback import StepProgress
from llama_index_ace_finetune.training.modes.lora import merged_weights, require_peft, with_adapters

TEXTS = ["how often are the signing keys rotated?", "Backups run at night.", "who gets notified?"]
CPU = EncoderSettings(device="cpu")
CONFIG = TrainingConfig(lora_rank=4)
WITH_ADAPTERS: dict[str, Any] = {**QUICK, "epochs": 2, "learning_rate": 1e-3, "lora_rank": 4}


@pytest.fixture(scope="module")
def base(one_layer: str) -> SentenceTransformer:
    return Encoder.load(one_layer, settings=CPU).model


def with_random_adapters(base: SentenceTransformer, config: TrainingConfig = CONFIG) -> SentenceTransformer:
    adapted = with_adapters(base, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".lora_B." in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return adapted


def trained(
    data: TrainingData, output: Path, base_model: str, *, progress: StepProgress | None = None, **options: Any
) -> EmbeddingFineTuner:
    config = TrainingConfig(output_dir=str(output), base_model=base_model, **{**WITH_ADAPTERS, **options})
    tuner = EmbeddingFineTuner(config, checkpoints=output.with_name("checkpoints"))
    tuner.load_training_data(data)
    tuner.initialize_model()
    tuner.train(progress=progress)
    return tuner


# ------------------------------------------------------------------------------------------------ adapters


def test_only_adapters_are_trained_and_start_as_the_identity(base: SentenceTransformer) -> None:
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    adapted = with_adapters(base, CONFIG)
    trainable = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert trainable
    assert all(".lora_" in name for name in trainable)
    query = next(weight for name, weight in trainable.items() if ".query.lora_A." in name)
    assert query.shape == (4, 384)
    assert np.abs(adapted.encode(TEXTS) - base.encode(TEXTS)).max() < 1e-6
    assert set(base.state_dict()) == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())
    assert all(weight.requires_grad for weight in base.parameters())


def test_merged_weights_give_the_vectors_of_the_adapters(base: SentenceTransformer) -> None:
    adapted = with_random_adapters(base)
    plain = copy.deepcopy(base)
    plain.load_state_dict(merged_weights(adapted))
    assert np.abs(plain.encode(TEXTS) - adapted.encode(TEXTS)).max() < 1e-5
    assert np.abs(plain.encode(TEXTS) - base.encode(TEXTS)).max() > 1e-3


def test_merged_weight_is_the_base_plus_the_scaled_product(base: SentenceTransformer) -> None:
    adapted = with_random_adapters(base, dataclasses.replace(CONFIG, lora_alpha=12.0))
    state = adapted.state_dict()
    (name,) = (name for name in base.state_dict() if name.endswith("attention.self.key.weight"))
    stem = name.removesuffix(".weight")
    expected = base.state_dict()[name] + 12 / 4 * (
        state[f"{stem}.lora_B.default.weight"] @ state[f"{stem}.lora_A.default.weight"]
    )
    assert torch.allclose(merged_weights(adapted)[name], expected, atol=1e-6)


def test_default_alpha_is_twice_the_rank_and_initialisation_is_seeded(base: SentenceTransformer) -> None:
    one, same, other = (with_adapters(base, dataclasses.replace(CONFIG, seed=seed)) for seed in (0, 0, 1))
    (name, layer), *_ = ((n, m) for n, m in one.named_modules() if hasattr(m, "get_delta_weight"))
    assert layer.scaling["default"] == 2
    weights = [model.get_submodule(name).lora_A["default"].weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_initialisation_does_not_change_the_global_random_state(base: SentenceTransformer) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    with_adapters(base, CONFIG)
    assert torch.equal(torch.rand(2), expected)


def test_model_without_a_transformer_is_refused() -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    static = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    with pytest.raises(ModelError, match=r"takes no adapters .*; leave lora_rank out"):
        with_adapters(static, CONFIG)


def test_missing_peft_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(TrainingError, match=r"pip install 'llama-index-ace-finetune\[lora\]'") as refusal:
        EmbeddingFineTuner(CONFIG).initialize_model()
    assert "\n" not in str(refusal.value)
    monkeypatch.undo()
    require_peft()


# ------------------------------------------------------------------------------------------------ a training


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_saved_folder_is_an_ordinary_model(
    training_data: TrainingData, one_layer: str, tmp_path: Path, precision: str
) -> None:
    data = dataclasses.replace(training_data, examples=training_data.examples[:16])
    tuner = trained(data, tmp_path / "model", one_layer, precision=precision, epochs=1)
    with safe_open(tmp_path / "model" / "model.safetensors", "pt") as held:
        assert not [name for name in held.keys() if "lora" in name or "base_layer" in name]  # noqa: SIM118
    assert not list((tmp_path / "model").glob("adapter*"))
    loaded = Encoder.load(tmp_path / "model", settings=CPU).encode_queries(TEXTS)
    # Without dev queries, the last weights ship.
    assert tuner.encoder is not None
    assert np.abs(loaded - Encoder.load(one_layer, settings=CPU).encode_queries(TEXTS)).max() > 1e-4
    assert (loaded * tuner.encoder.encode_queries(TEXTS)).sum(axis=1).min() > 0.999


@pytest.mark.slow
def test_interrupted_training_resumes_with_its_adapters(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_SAVED_SECONDS", 0.001)  # after every step
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
    data = dataclasses.replace(training_data, examples=training_data.examples[24:])
    whole = trained(data, tmp_path / "whole" / "model", one_layer)

    class Killed(Exception):
        pass

    def kill(step: int, *_: object) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        trained(data, tmp_path / "interrupted" / "model", one_layer, progress=kill)
    steps: list[int] = []
    resumed = trained(data, tmp_path / "interrupted" / "model", one_layer, progress=lambda step, *_: steps.append(step))
    assert steps == [3, 4]
    assert [row for row in resumed.history if "loss" in row] == [row for row in whole.history if "loss" in row]
    assert resumed.results[0].to_dict()["dev_mrr@10"] == whole.results[0].to_dict()["dev_mrr@10"]


@pytest.mark.slow
def test_full_base_model_improves_and_is_interpolated(
    training_data: TrainingData, minilm: Encoder, tmp_path: Path
) -> None:
    tuner = trained(training_data, tmp_path / "model", minilm.name, epochs=6, lora_rank=8)
    selection = tuner.selection
    assert selection is not None
    assert set(selection.candidates) == {0.0, 0.5, 1.0}
    losses = [row["loss"] for row in tuner.history if "loss" in row]
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    assert set(plain.state_dict()) == set(minilm.model.state_dict())
