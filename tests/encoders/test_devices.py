"""A device that is not here, and one whose memory does not suffice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.memory import is_out_of_memory

TEXTS = [f"text number {number}" for number in range(20)]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_unavailable_device_is_refused(device: str) -> None:
    with pytest.raises(ModelError, match=f"The device '{device}' is not available .*; set device to cpu"):
        Encoder.load(DEFAULT_BASE_MODEL, settings=EncoderSettings(device=device))


def short_of_memory(encoder: Encoder, monkeypatch: pytest.MonkeyPatch, *, holds: int) -> list[int]:
    """Let the model run out of memory above `holds` texts a batch; return the batch sizes that are tried.

    As on a GPU, which has no fast forward pass of its own.
    """
    encode, tried = encoder.model.encode_document, []
    monkeypatch.setattr(encoder._pass, "_current_packed", lambda texts, role: None)

    def limited(texts: list[str], *, batch_size: int, **options: Any) -> Any:
        tried.append(batch_size)
        if batch_size > holds:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(texts, batch_size=batch_size, **options)

    monkeypatch.setattr(encoder.model, "encode_document", limited)
    return tried


def test_smaller_batches_give_the_same_vectors(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = minilm.encode_documents(TEXTS)
    tried = short_of_memory(minilm, monkeypatch, holds=20)
    np.testing.assert_allclose(minilm.encode_documents(TEXTS), expected, atol=1e-6)
    assert tried == [64, 32, 16]


def test_libraries_of_the_gpu_are_out_of_memory_too() -> None:
    message = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    assert is_out_of_memory(RuntimeError(message))
    assert not is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED"))


def test_out_of_memory_error_names_the_settings(minilm: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = short_of_memory(minilm, monkeypatch, holds=0)
    with pytest.raises(ModelError, match=r"cannot encode a single text.*lower max_seq_length"):
        minilm.encode_documents(TEXTS)
    assert tried == [64, 32, 16, 8, 4, 2, 1]
