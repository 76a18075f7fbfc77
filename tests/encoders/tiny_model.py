"""Small models with random weights in the stock format, and their exports."""

from __future__ import annotations

from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoTokenizer, BertConfig, BertModel

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL, resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.record import ExportRecord
from llama_index_ace_finetune.encoders.exports.runtime import ExportBackend
from llama_index_ace_finetune.encoders.exports.write_graphs import write_graphs
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.settings import EncoderSettings

WIDTH = 32
LENGTH = 24
CPU = EncoderSettings(device="cpu")


def tiny_model(folder: Path, *, pooling: str = "mean", prompts: dict[str, str] | None = None, seed: int = 0) -> Path:
    """Write a model of two layers and return its folder."""
    torch.manual_seed(seed)
    config = BertConfig(
        hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, vocab_size=30522
    )
    bare = folder.with_name(f"{folder.name}-bare")
    BertModel(config).save_pretrained(bare)
    AutoTokenizer.from_pretrained(str(resolve_checkpoint(DEFAULT_BASE_MODEL))).save_pretrained(bare)
    transformer = Transformer(str(bare), max_seq_length=LENGTH)
    modules = [transformer, Pooling(WIDTH, pooling_mode=pooling), Normalize()]
    model = SentenceTransformer(modules=modules, device="cpu", prompts=prompts)
    model.save_pretrained(str(folder), create_model_card=False)
    return folder


def export(model: Path, backend: ExportBackend, *, int8: bool = False, milliseconds: float = 1.0) -> ExportRecord:
    """Write an export that no dev queries were asked about into the model folder."""
    folder = model / backend
    folder.mkdir()
    source = identify_model(model, settings=CPU).content
    record = write_graphs(
        Encoder.load(model, settings=CPU).model, folder, name=str(model), source=source, backend=backend, int8=int8
    )
    ExportRecord(
        **{**vars(record), "query_milliseconds": {"torch": 9.0, "export": milliseconds}},
    ).write(folder)
    return record


def opened(model: Path, backend: ExportBackend, **settings: object) -> ExportedEncoder:
    return ExportedEncoder.open(model, backend, settings=EncoderSettings(device="cpu", **settings))  # type: ignore[arg-type]
