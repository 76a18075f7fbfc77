"""An export to ONNX is a custom model of fastembed, which is installed in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.write_graphs import write_graphs
from llama_index_ace_finetune.training.saving.dual_encoder import with_query_adapter
from llama_index_ace_finetune.training.saving.serving_layout import use_serving_layout

PYTHON = os.environ.get("ACE_FINETUNE_FASTEMBED_PYTHON", sys.executable)
TEXTS = ["big uploads time out", "keep backups of the database for 30 days"]
PROGRAM = """
import json, sys
from fastembed import TextEmbedding
from fastembed.common.model_description import ModelSource, PoolingType
folder, file, texts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
TextEmbedding.add_custom_model(model="mine", pooling=PoolingType.DISABLED, normalization=False,
                               sources=ModelSource(hf="mine"), dim=384, model_file=file)
model = TextEmbedding("mine", specific_model_path=folder)
print(json.dumps([vector.tolist() for vector in model.embed(texts)]))
"""


def fastembed_vectors(folder: Path, file: str) -> np.ndarray:
    done = subprocess.run(
        [PYTHON, "-c", PROGRAM, str(folder), file, json.dumps(TEXTS)], capture_output=True, text=True, check=False
    )
    if "No module named 'fastembed'" in done.stderr:
        pytest.skip("fastembed is not installed; ACE_FINETUNE_FASTEMBED_PYTHON names the Python of an environment")
    assert done.returncode == 0, done.stderr[-2000:]
    return np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)


def export(folder: Path) -> Encoder:
    encoder = Encoder.load(folder)
    (folder / "onnx").mkdir()
    write_graphs(encoder.model, folder / "onnx", name="mine", source="0", backend="onnx", int8=False)
    return encoder


@pytest.mark.slow
def test_one_encoder(minilm: Encoder, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    minilm.model.save_pretrained(str(folder))
    use_serving_layout(folder)
    encoder = export(folder)
    found = fastembed_vectors(folder, "onnx/model.onnx")
    np.testing.assert_allclose(found, encoder.encode_queries(TEXTS), atol=1e-5)


@pytest.mark.slow
def test_query_and_document_encoder(minilm: Encoder, tmp_path: Path) -> None:
    folder, copied = tmp_path / "model", tmp_path / "for-fastembed"
    moved = np.eye(384, dtype=np.float32) + np.random.default_rng(0).normal(0, 0.02, (384, 384)).astype(np.float32)
    with_query_adapter(minilm.model, moved).save_pretrained(str(folder))
    use_serving_layout(folder)
    encoder = export(folder)
    shutil.copytree(folder / "onnx", copied / "onnx")
    for file in (folder / "query_0_Transformer").glob("*.json"):
        shutil.copy(file, copied)
    found = [fastembed_vectors(copied, f"onnx/{role}.onnx") for role in ("query", "document")]
    np.testing.assert_allclose(found[0], encoder.encode_queries(TEXTS), atol=1e-5)
    np.testing.assert_allclose(found[1], encoder.encode_documents(TEXTS), atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.01
