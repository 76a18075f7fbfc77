"""Static embedding models (one vector per token) as the base, saved by sentence-transformers or model2vec."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_training import QUICK
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from sentence_transformers.sentence_transformer.modules import StaticEmbedding
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.write_graphs import write_graphs
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference
from llama_index_ace_finetune.pipeline.speed import measure_speed
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner

CPU = EncoderSettings(device="cpu")
WIDTH = 64
TEXTS = ["restart the worker", "Retry with a longer timeout when the queue is full."]


@pytest.fixture(scope="module", params=["sentence-transformers", "model2vec"])
def static_base(
    request: pytest.FixtureRequest, training_data: TrainingData, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("static") / "base"
    splitter = pre_tokenizers.Whitespace()
    texts = [*training_data.memories.values(), *(example.query for example in training_data.examples), *TEXTS]
    words = sorted({word.lower() for text in texts for word, _ in splitter.pre_tokenize_str(text)})
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, **{w: i for i, w in enumerate(words, 1)}}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.Lowercase(), splitter
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer, embedding_dim=WIDTH)
    if request.param == "sentence-transformers":
        model = SentenceTransformer(modules=[static, Normalize()], device="cpu")
        model.save_pretrained(str(folder), create_model_card=False)
        return folder
    (folder / "1_Normalize").mkdir(parents=True)
    modules = [
        {"idx": 0, "name": "0", "path": ".", "type": "sentence_transformers.models.StaticEmbedding"},
        {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
    ]
    config = {"model_type": "model2vec", "architectures": ["StaticModel"], "hidden_dim": WIDTH, "normalize": True}
    for name, content in (("modules.json", modules), ("config.json", config)):
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    save_file({"embeddings": static.embedding.weight.detach().clone()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("mode", ["linear", "queries", "full", pytest.param("auto", marks=pytest.mark.slow)])
def test_each_mode_trains(
    static_base: Path, mode: str, training_data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Every gain counts as significant, so that a tuned model ships.
    sure = PairedDifference(mean=0.1, low=0.05, high=0.2, p_value=0.01, wins=3, ties=1, losses=0)
    interpolation = "llama_index_ace_finetune.training.model_selection.interpolation"
    monkeypatch.setattr(f"{interpolation}.paired_difference", lambda *_, **__: sure)
    options = {**QUICK, "mode": mode, "base_model": str(static_base), "output_dir": str(tmp_path / "model")}
    tuner = EmbeddingFineTuner(TrainingConfig(**options))
    tuner.load_training_data(training_data)
    tuner.initialize_model()
    metrics = tuner.train()
    assert metrics["mode"] != "base" or mode == "linear"
    base = Encoder.load(static_base, settings=CPU)
    tuned = Encoder.load(tmp_path / "model", settings=CPU)
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    queries, documents = tuned.encode_queries(TEXTS), tuned.encode_documents(TEXTS)
    np.testing.assert_allclose(plain.encode_query(TEXTS, normalize_embeddings=True), queries, atol=1e-6)
    np.testing.assert_allclose(plain.encode_document(TEXTS, normalize_embeddings=True), documents, atol=1e-6)
    if metrics["mode"] != "base":
        assert not np.array_equal(queries, base.encode_queries(TEXTS))
    if metrics["mode"] in ("linear", "queries"):
        np.testing.assert_allclose(documents, base.encode_documents(TEXTS), atol=1e-6)


def test_max_seq_length_is_ignored(static_base: Path) -> None:
    short = Encoder.load(static_base, settings=EncoderSettings(device="cpu", max_seq_length=2))
    whole = Encoder.load(static_base, settings=CPU)
    np.testing.assert_array_equal(short.encode_queries(TEXTS), whole.encode_queries(TEXTS))
    assert measure_speed(whole, TEXTS, memories=10, seconds=0.01).embed > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_vectors_do_not_depend_on_the_batch(static_base: Path, precision: str) -> None:
    encoder = Encoder.load(static_base, settings=EncoderSettings(device="cpu", precision=precision))  # type: ignore[arg-type]
    together = encoder.encode_documents([*TEXTS, "a " * 300])
    assert np.isfinite(together).all()
    np.testing.assert_array_equal(encoder.encode_documents(TEXTS[1:]), together[1:2])


def test_export_is_refused(static_base: Path, tmp_path: Path) -> None:
    model = Encoder.load(static_base, settings=CPU).model
    with pytest.raises(ModelError, match="in torch"):
        write_graphs(model, tmp_path, name="static", source="", backend="onnx", int8=False)


def test_each_text_is_tokenized_once(static_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no padding, so that texts are not grouped by their numbers of tokens first."""
    encoder, tokenized, preprocess = Encoder.load(static_base, settings=CPU), list[str](), StaticEmbedding.preprocess

    def recorded(self: StaticEmbedding, inputs: list[str], **options: str | None) -> dict[str, torch.Tensor]:
        tokenized.extend(inputs)
        return preprocess(self, inputs, **options)

    encoder.encode_documents(TEXTS)  # looks once whether there is padding
    monkeypatch.setattr(StaticEmbedding, "preprocess", recorded)
    encoder.encode_documents(TEXTS)
    assert sorted(tokenized) == sorted(TEXTS)
