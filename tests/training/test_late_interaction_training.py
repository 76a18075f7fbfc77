"""Single vectors and MaxSim trained in one forward pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from quick_training import QUICK
from sentence_transformers import SentenceTransformer
from test_masked_ranking import TEXTS, double_loop
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.trained_projection import (
    TOKEN_PROJECTION,
    read_trained_projection,
    write_trained_projection,
)
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.context import TrainingContext
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.training.loop import fit
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits
from llama_index_ace_finetune.training.losses.late_interaction import LateInteraction
from llama_index_ace_finetune.training.losses.masked_ranking import MaskedRankingLoss
from llama_index_ace_finetune.training.model_selection.reranked_dev_set import MAX_SIM
from llama_index_ace_finetune.training.modes.late_interaction import late_interaction_of, require_token_states

CPU = EncoderSettings(device="cpu")
QUERIES, DOCUMENTS = TEXTS[:3], TEXTS[3:8]
# One positive that two queries share, one masked document, a query with two positives.
TARGETS = torch.tensor([[1, 0, 0, 0, 0], [0, 1, -1, 0, 0], [1, 0, 0, 1, 0]])


@pytest.fixture(scope="module")
def model(one_layer: str) -> SentenceTransformer:
    return Encoder.load(one_layer, settings=CPU).model


def loss_of(model: SentenceTransformer, *, memory: ChunkLimits | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """The loss of the batch, and all gradients in one vector."""
    projection = options.pop("projection", None)
    late = LateInteraction(weight=0.5, temperature=0.1, projection=projection)
    loss = MaskedRankingLoss(model, temperature=0.05, late_interaction=late, **options)
    loss.memory = memory or ChunkLimits()
    value = loss([model.preprocess(QUERIES), model.preprocess(DOCUMENTS)], TARGETS)
    value.backward()
    gradients = torch.cat([p.grad.flatten() for p in loss.parameters() if p.grad is not None])
    if late.projection is not None:
        assert late.projection.grad is not None
        assert late.projection.grad.any()
    loss.zero_grad()
    return value.detach(), gradients


def expected_loss(model: SentenceTransformer, projection: Tensor | None = None) -> Tensor:
    """Both losses by loops over the vectors and token vectors that sentence-transformers gives."""

    def tokens(texts: list[str]) -> list[Tensor]:
        states: Any = model.encode(texts, output_value="token_embeddings")
        return [nn.functional.normalize(s if projection is None else s @ projection, dim=1) for s in states]

    queries, documents = tokens(QUERIES), tokens(DOCUMENTS)
    max_sim = torch.stack(
        [torch.stack([(query @ document.T).max(dim=1).values.mean() for document in documents]) for query in queries]
    )
    vectors = [model.encode(texts, convert_to_tensor=True, normalize_embeddings=True) for texts in (QUERIES, DOCUMENTS)]
    return double_loop(vectors[0] @ vectors[1].T, TARGETS, 0.05) + 0.5 * double_loop(max_sim, TARGETS, 0.1)


def test_loss_is_the_weighted_sum_of_both(model: SentenceTransformer) -> None:
    loss, _ = loss_of(model)
    assert float(loss) == pytest.approx(float(expected_loss(model)), abs=1e-4)
    generator = torch.Generator().manual_seed(0)
    projection = torch.randn(384, 16, generator=generator)
    loss, _ = loss_of(model, projection=projection)
    assert float(loss) == pytest.approx(float(expected_loss(model, projection)), abs=1e-4)


def test_symmetric_loss_covers_both(model: SentenceTransformer) -> None:
    one, both = loss_of(model)[0], loss_of(model, symmetric=True)[0]
    assert abs(float(one - both)) > 1e-3


@pytest.mark.parametrize("packed", [False, True])
def test_one_forward_pass_per_text(model: SentenceTransformer, packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = []
    if packed:
        whole = PackedEncoder.embed_with_states
        monkeypatch.setattr(
            PackedEncoder,
            "embed_with_states",
            lambda self, ids, mask: (texts.append(len(ids)), whole(self, ids, mask))[1],
        )
    else:
        model.register_forward_pre_hook(lambda _, inputs: texts.append(len(inputs[0]["input_ids"])))
    loss_of(model, packed=packed)
    assert sum(texts) == len(QUERIES) + len(DOCUMENTS)
    model._forward_pre_hooks.clear()


@pytest.mark.parametrize("packed", [False, True])
def test_recomputed_activations_give_the_same_gradients(model: SentenceTransformer, packed: bool) -> None:
    loss, gradients = loss_of(model, packed=packed)
    memory = ChunkLimits(max_cached_tokens=0, chunk_tokens=40)
    recomputed, same = loss_of(model, packed=packed, memory=memory)
    assert float(recomputed) == pytest.approx(float(loss), abs=2e-2 if packed else 1e-4)
    assert nn.functional.cosine_similarity(gradients, same, dim=0) > (0.99 if packed else 0.99999)


def test_packed_gradients_are_those_of_the_model_in_bfloat16(model: SentenceTransformer) -> None:
    projection = torch.eye(384)[:, :96]
    (loss, gradients), (packed_loss, packed) = (
        loss_of(model, packed=packed, projection=projection) for packed in (False, True)
    )
    assert float(packed_loss) == pytest.approx(float(loss), rel=0.02)
    assert nn.functional.cosine_similarity(gradients, packed, dim=0) > 0.98


# ------------------------------------------------------------------------------------------------ a training

JOINT: dict[str, Any] = {
    **QUICK,
    "epochs": 2,
    "learning_rate": 1e-3,
    "late_interaction_weight": 0.5,
    "late_interaction_dimensions": 16,
}


def tuner_of(data: TrainingData, output: Path, base_model: str, **options: Any) -> EmbeddingFineTuner:
    config = TrainingConfig(output_dir=str(output), base_model=base_model, **{**JOINT, **options})
    tuner = EmbeddingFineTuner(config, checkpoints=output.with_name("checkpoints"))
    tuner.load_training_data(data)
    tuner.initialize_model()
    return tuner


@pytest.mark.slow
def test_interrupted_training_resumes_with_its_projection(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_SAVED_SECONDS", 0.001)  # after every step
    # What ships, whatever dev says.
    monkeypatch.setattr("llama_index_ace_finetune.training.fine_tuner.best_result", lambda results: results[-1])
    data = dataclasses.replace(training_data, examples=training_data.examples[24:])
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
    whole = tuner_of(data, tmp_path / "whole" / "model", one_layer)
    whole.train()

    class Killed(Exception):
        pass

    def kill(step: int, *_: object) -> None:
        if step == 3:
            raise Killed

    with pytest.raises(Killed):
        tuner_of(data, tmp_path / "interrupted" / "model", one_layer).train(progress=kill)
    steps: list[int] = []
    resumed = tuner_of(data, tmp_path / "interrupted" / "model", one_layer)
    resumed.train(progress=lambda step, *_: steps.append(step))
    assert steps == [3, 4]
    losses = [[row["loss"] for row in tuner.history if "loss" in row] for tuner in (whole, resumed)]
    assert losses[0] == losses[1]
    projections = [read_trained_projection(tmp_path / name / "model") for name in ("whole", "interrupted")]
    assert projections[0] is not None
    assert projections[0].shape == (384, 16)
    assert np.array_equal(projections[0], projections[1])  # type: ignore[arg-type]
    weights = [
        Encoder.load(tmp_path / name / "model", settings=CPU).model.state_dict() for name in ("whole", "interrupted")
    ]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())


def test_saved_folder_holds_the_projection_and_the_record(
    training_data: TrainingData, one_layer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What ships, whatever dev says.
    monkeypatch.setattr("llama_index_ace_finetune.training.fine_tuner.best_result", lambda results: results[-1])
    data = dataclasses.replace(training_data, examples=training_data.examples[32:])
    folder = tmp_path / "model"
    config = TrainingConfig(output_dir=str(folder), base_model=one_layer, **{**JOINT, "epochs": 1})

    def train(config: TrainingConfig) -> EmbeddingFineTuner:
        tuner = EmbeddingFineTuner(config)
        tuner.load_training_data(data)
        tuner.initialize_model()
        tuner.train()
        return tuner

    tuner = train(config)
    projection = read_trained_projection(folder)
    assert projection is not None
    assert projection.shape == (384, 16)
    assert np.array_equal(projection, tuner.results[-1].token_projection)  # type: ignore[arg-type]
    provenance = read_provenance(folder)
    assert provenance is not None
    assert provenance["config"]["late_interaction_weight"] == 0.5
    record = provenance["selection"]["late_interaction"]
    assert set(record["max_sim_mrr@10"]) == {"base", "shipped"}
    assert "within one standard error" in record["rule"]
    assert MAX_SIM in provenance["selection"]["dev_candidates"]["0.0"]
    assert provenance["metrics"]["rungs"][-1]["late_interaction"] == record
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "with weight 0.5; token vectors of 16 dimensions (`token_projection.npy`); MRR@10 on dev" in card
    assert record["rule"] in card

    # A later training without late interaction replaces it.
    train(dataclasses.replace(config, late_interaction_weight=0, late_interaction_dimensions=None))
    assert read_trained_projection(folder) is None
    assert "Late interaction" not in (folder / "README.md").read_text(encoding="utf-8")


def test_projection_starts_from_principal_components_and_is_interpolated(
    training_data: TrainingData, one_layer: str, tmp_path: Path
) -> None:
    tuner = tuner_of(training_data, tmp_path / "model", one_layer)
    assert tuner.encoder is not None
    assert tuner._inputs is not None
    context = TrainingContext(tuner.encoder, tuner._inputs.train, None, tuner.config)
    late = late_interaction_of(context)
    assert late is not None
    first = late.matrix()
    assert first is not None
    assert np.allclose(first.T @ first, np.eye(16), atol=1e-5)
    late.interpolate(first, torch.zeros(384, 16), 0.25)
    assert np.allclose(late.matrix(), 0.75 * first)  # type: ignore[arg-type]
    assert late_interaction_of(dataclasses.replace(context, config=TrainingConfig())) is None


def test_damaged_checkpoint_of_a_projection_is_refused(tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    projection = nn.Parameter(torch.ones(4, 2))
    arguments = SimpleNamespace(output_dir=str(tmp_path))

    def callback(projection: nn.Parameter) -> DevEvaluationCallback:
        return DevEvaluationCallback(
            None,
            None,
            base_scores=None,
            eval_steps=None,
            patience=None,
            projection=projection,  # type: ignore[arg-type]
        )

    callback(projection).on_save(arguments, TrainerState(global_step=1), TrainerControl())  # type: ignore[arg-type]
    restored = nn.Parameter(torch.zeros(4, 2))
    callback(restored).restore(checkpoint)
    assert torch.equal(restored, projection)
    with pytest.raises(TrainingError, match="is of another projection; delete the checkpoints and train again"):
        callback(nn.Parameter(torch.zeros(4, 3))).restore(checkpoint)


def test_base_model_that_cannot_is_refused(one_layer: str, training_data: TrainingData, tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    with pytest.raises(TrainingError, match=r"dimensions is 384, and the token states of .* have 384 .*; leave it out"):
        tuner_of(training_data, tmp_path / "model", one_layer, late_interaction_dimensions=384)
    words = Tokenizer(WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    static = SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=4)], device="cpu")
    encoder = TokenEncoder(Encoder(static, name="static", fingerprint="static", settings=CPU))
    with pytest.raises(ModelError, match="has no token states") as caught:
        require_token_states(encoder, TrainingConfig(late_interaction_weight=1))
    assert "\n" not in str(caught.value)
    require_token_states(encoder, TrainingConfig())


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00", np.full((2, 2), np.nan), np.ones(3), np.ones((2, 0))])
def test_damaged_projection_file_is_refused(tmp_path: Path, content: bytes | np.ndarray) -> None:
    file = tmp_path / TOKEN_PROJECTION
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content.astype(np.float32))
    with pytest.raises(ModelError, match="train or copy the model again") as caught:
        read_trained_projection(tmp_path)
    assert str(file) in str(caught.value)
    write_trained_projection(tmp_path, np.eye(3, 2, dtype=np.float32))
    assert np.array_equal(read_trained_projection(tmp_path), np.eye(3, 2))  # type: ignore[arg-type]
