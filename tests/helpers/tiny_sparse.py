"""A tiny sparse encoder with random weights, in the shape of SPLADE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

WORDS = "restart the cache after a deploy pool limit rollback timeout alert disk logs retry token"


def make_sparse_encoder(
    folder: Path, *, seed: int = 0, words: Sequence[str] = tuple(WORDS.split()), width: int = 16
) -> Path:
    """Save a SPLADE-like model with one layer over a vocabulary of some words."""
    import torch
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    torch.manual_seed(seed)
    source = folder / "source"
    source.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (source / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(source / "vocab.txt")).save_pretrained(source)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=width, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, initializer_range=0.5,
    )  # fmt: skip
    BertForMaskedLM(config).save_pretrained(source)
    model = SparseEncoder(
        modules=[Transformer(str(source), transformer_task="fill-mask"), SpladePooling()], device="cpu"
    )
    model.save(str(folder / "model"))
    return folder / "model"


def make_synonym_encoder(folder: Path, pairs: Mapping[str, str]) -> Path:
    """Save a SPLADE-like model for which the two words of each pair are the same word."""
    import torch
    from sentence_transformers import SparseEncoder

    path = make_sparse_encoder(folder, words=[*pairs.keys(), *pairs.values()], width=64)
    model = SparseEncoder(str(path), device="cpu", local_files_only=True)
    bert = model[0].model
    with torch.no_grad():
        for name, weights in bert.named_parameters():
            # Each token keeps its embedding: positions, attention and feed-forward layer add nothing.
            if "position" in name or "token_type" in name or "output.dense" in name:
                weights.zero_()
        bert.cls.predictions.transform.dense.weight.copy_(torch.eye(64))
        bert.cls.predictions.bias.fill_(-12.0)
        embeddings = bert.bert.embeddings.word_embeddings.weight
        known = model.tokenizer.get_vocab()
        for word, other in pairs.items():
            embeddings[known[other]] = embeddings[known[word]]
        embeddings[:5] = 0  # special tokens
    model.save(str(folder / "synonyms"))
    return folder / "synonyms"
