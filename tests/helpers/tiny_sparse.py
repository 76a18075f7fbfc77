"""A tiny sparse encoder with random weights, in the shape of SPLADE."""

from __future__ import annotations

from pathlib import Path

WORDS = "restart the cache after a deploy pool limit rollback timeout alert disk logs retry token"


def make_sparse_encoder(folder: Path, *, seed: int = 0) -> Path:
    """Save a SPLADE-like model with one layer of width 16 over a vocabulary of some 20 words."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    torch.manual_seed(seed)
    source = folder / "source"
    source.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS.split()]
    (source / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(source / "vocab.txt")).save_pretrained(source)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(source)
    model = SparseEncoder(
        modules=[Transformer(str(source), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"
