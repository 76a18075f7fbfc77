"""Exports against the model in torch that they were made from."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import torch
from sentence_transformers import SentenceTransformer
from tiny_model import CPU, LENGTH, WIDTH, export, opened, tiny_model
from torch import nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports import runtime
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.record import EXPORT_RECORD
from llama_index_ace_finetune.encoders.exports.runtime import MissingRuntimeError
from llama_index_ace_finetune.encoders.exports.write_graphs import require_same_tokens, write_graphs
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.training.saving.dual_encoder import dual_encoder, with_query_adapter

TEXTS = [
    "restart the queue worker",
    "",
    "caché ☃ 猫 مرحبا",
    "  spaces  around ",
    "x",
    "a long text that says what to do when the disk of the build machine is full and nobody is on call " * 3,
]
PROMPTS = {"query": "search for: ", "document": "passage: "}
BACKENDS = ("onnx", "openvino")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("exports") / "model", prompts=PROMPTS)
    for backend in BACKENDS:
        export(folder, backend)  # type: ignore[arg-type]
    return folder


@pytest.fixture(scope="module")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tiny_model(tmp_path_factory.mktemp("onnx") / "model")
    export(folder, "onnx")
    return folder


@pytest.fixture
def own_model(onnx_model: Path, tmp_path: Path) -> Path:
    """A copy that the test may change."""
    return shutil.copytree(onnx_model, tmp_path / "model")


@pytest.mark.parametrize("backend", BACKENDS)
class TestVectors:
    @pytest.mark.parametrize("role", ["query", "document"])
    def test_vectors_equal_torch(self, model: Path, backend: Any, role: Any) -> None:
        expected = Encoder.load(model, settings=CPU).encode(TEXTS, role=role)
        vectors = opened(model, backend).encode(TEXTS, role=role)
        assert vectors.dtype == np.float32
        assert vectors.shape == (len(TEXTS), WIDTH)
        assert (vectors * expected).sum(axis=1).min() > (0.99999 if backend == "onnx" else 0.999)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=2e-3)

    def test_vectors_do_not_depend_on_the_batch(self, model: Path, backend: Any) -> None:
        encoder = opened(model, backend)
        single = np.concatenate([encoder.encode_queries([text]) for text in TEXTS])
        together = encoder.encode_queries(TEXTS)
        assert (single * together).sum(axis=1).min() > 0.999

    def test_fingerprint_equals_that_of_the_model(self, model: Path, backend: Any) -> None:
        encoder, torchs = opened(model, backend), Encoder.load(model, settings=CPU)
        assert encoder.fingerprint == torchs.fingerprint
        assert encoder.dimension == torchs.dimension == WIDTH
        assert encoder.vector_key("query") != torchs.vector_key("query")
        assert backend in encoder.vector_key("query")

    def test_settings_are_applied(self, model: Path, backend: Any) -> None:
        settings = {"max_seq_length": 8, "truncate_dim": 16, "query_prompt": "ask: "}
        encoder = opened(model, backend, **settings)
        expected = Encoder.load(model, settings=encoder.settings).encode_queries(TEXTS)
        vectors = encoder.encode_queries(TEXTS)
        assert vectors.shape == (len(TEXTS), 16)
        assert (vectors * expected).sum(axis=1).min() > 0.998
        assert max(map(len, encoder.tokens(TEXTS, "query"))) == 8
        assert encoder.fingerprint == identify_model(model, settings=encoder.settings).fingerprint

    def test_concurrent_calls(self, model: Path, backend: Any) -> None:
        encoder = opened(model, backend)
        expected = encoder.encode_queries(TEXTS)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda text: encoder.encode_queries([text])[0], TEXTS * 10))
        assert (np.stack(found) * np.tile(expected, (10, 1))).sum(axis=1).min() > 0.999

    def test_vector_cache_is_separate_from_torch(self, model: Path, backend: Any, tmp_path: Path) -> None:
        encoder = opened(model, backend)
        vectors = encoder.encode_documents(TEXTS, cache=tmp_path)
        (folder,) = tmp_path.iterdir()
        assert folder.name == encoder.vector_key("document")
        assert np.array_equal(opened(model, backend).encode_documents(TEXTS, cache=tmp_path), vectors)

    def test_no_texts_give_an_empty_matrix(self, model: Path, backend: Any) -> None:
        assert opened(model, backend).encode_queries([]).shape == (0, WIDTH)

    def test_tokens_equal_torch(self, model: Path, backend: Any) -> None:
        encoder = opened(model, backend)
        require_same_tokens(Encoder.load(model, settings=CPU), encoder, TEXTS)
        assert max(map(len, encoder.tokens(TEXTS, "query"))) == LENGTH
        with pytest.raises(ModelError, match="would tokenize texts differently"):
            require_same_tokens(Encoder.load(model, settings=CPU), opened(model, backend, max_seq_length=5), TEXTS)


def with_a_matrix(base: Encoder, other: Path) -> SentenceTransformer:
    matrix = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    return with_query_adapter(base.model, matrix)


def with_two_models(base: Encoder, other: Path) -> SentenceTransformer:
    return dual_encoder(Encoder.load(tiny_model(other, seed=1), settings=CPU).model, base.model)


@pytest.mark.parametrize("backend", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dual_encoder_of", [with_a_matrix, with_two_models])
def test_dual_encoder_has_two_graphs(
    dual_encoder_of: Callable[..., SentenceTransformer], backend: Any, tmp_path: Path
) -> None:
    base = Encoder.load(tiny_model(tmp_path / "base"), settings=CPU)
    dual_encoder_of(base, tmp_path / "other").save_pretrained(str(tmp_path / "towers"), create_model_card=False)
    record = export(tmp_path / "towers", backend)
    assert len(set(record.graphs.values())) == 2
    exported, torchs = opened(tmp_path / "towers", backend), Encoder.load(tmp_path / "towers", settings=CPU)
    require_same_tokens(torchs, exported, TEXTS)
    for role in ("query", "document"):
        expected = torchs.encode(TEXTS, role=role)  # type: ignore[arg-type]
        assert (exported.encode(TEXTS, role=role) * expected).sum(axis=1).min() > 0.99  # type: ignore[arg-type]
    assert (torchs.encode_queries(TEXTS) * torchs.encode_documents(TEXTS)).sum(axis=1).max() < 0.9


def test_cls_pooling(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model", pooling="cls")
    export(model, "onnx")
    expected = Encoder.load(model, settings=CPU).encode_queries(TEXTS)
    assert np.abs(opened(model, "onnx").encode_queries(TEXTS) - expected).max() < 1e-4


def test_int8_is_close_and_small(own_model: Path) -> None:
    (own_model / "onnx").rename(own_model.parent / "plain")
    assert export(own_model, "onnx", int8=True).precision == "int8"
    size = (own_model / "onnx" / "model.onnx").stat().st_size
    assert size < 0.4 * (own_model.parent / "plain" / "model.onnx").stat().st_size
    encoder = opened(own_model, "onnx")
    expected = Encoder.load(own_model, settings=CPU).encode_queries(TEXTS)
    assert (encoder.encode_queries(TEXTS) * expected).sum(axis=1).min() > 0.95
    assert encoder.vector_key("query").endswith("onnx-int8")


def test_float32_on_cpu_without_bfloat16(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OldCore(openvino.Core):
        def get_property(self, *arguments: Any) -> Any:
            return ["FP32"] if "OPTIMIZATION_CAPABILITIES" in arguments else super().get_property(*arguments)

    monkeypatch.setattr(openvino, "Core", OldCore)
    encoder = opened(model, "openvino")
    assert encoder.vector_key("query").endswith("openvino-float32")
    expected = Encoder.load(model, settings=CPU).encode_queries(TEXTS)
    assert np.abs(encoder.encode_queries(TEXTS) - expected).max() < 1e-4


def test_torch_model_is_available(model: Path) -> None:
    assert isinstance(opened(model, "onnx").model, SentenceTransformer)


@pytest.mark.parametrize("backend", BACKENDS)
def test_neither_torch_nor_transformers_is_imported(model: Path, backend: str) -> None:
    program = (
        "import sys\n"
        "from llama_index_ace_finetune.encoders.exports.load_encoder import load_encoder\n"
        f"encoder = load_encoder({str(model)!r}, backend={backend!r})\n"
        "print(encoder.encode_queries(['restart the worker']).shape)\n"
        "print(sorted({'torch', 'transformers', 'sentence_transformers'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-2:] == [f"(1, {WIDTH})", "[]"]


def cut_the_graph(folder: Path) -> None:
    graph = folder / "model.onnx"
    graph.write_bytes(graph.read_bytes()[:-1000])


def flip_a_weight(folder: Path) -> None:
    graph = folder / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 0xFF
    graph.write_bytes(bytes(content))


def lose_the_graph(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def lose_the_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def cut_the_record(folder: Path) -> None:
    (folder / EXPORT_RECORD).write_text('{"format_version": 1')


def of_another_version(folder: Path) -> None:
    content = json.loads((folder / EXPORT_RECORD).read_text())
    (folder / EXPORT_RECORD).write_text(json.dumps({**content, "format_version": 99}))


def a_list_for_a_record(folder: Path) -> None:
    (folder / EXPORT_RECORD).write_text("[]")


class TestBadInput:
    @pytest.mark.parametrize("damage", [cut_the_graph, flip_a_weight, lose_the_graph, lose_the_tokenizer])
    def test_damaged_files_are_refused(self, own_model: Path, damage: Callable[[Path], None]) -> None:
        damage(own_model / "onnx")
        with pytest.raises(ModelError, match=r"is corrupt \(its files have changed\)"):
            ExportedEncoder.open(own_model, "onnx")

    @pytest.mark.parametrize("damage", [cut_the_record, of_another_version, a_list_for_a_record])
    def test_damaged_record_is_refused(self, own_model: Path, damage: Callable[[Path], None]) -> None:
        damage(own_model / "onnx")
        with pytest.raises(ModelError, match=r"The record .* is corrupt"):
            ExportedEncoder.open(own_model, "onnx")

    def test_unreadable_graph_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"no graph")
        with pytest.raises(ModelError, match=r"cannot be loaded \(.*export again with `ace-finetune export`"):
            runtime.open_runtime("onnx", tmp_path / "model.onnx", precision="float32", threads=1)
        with pytest.raises(ModelError, match="cannot be loaded"):
            runtime.open_runtime("openvino", tmp_path / "model.xml", precision="float32", threads=1)

    def test_export_of_other_weights_is_refused(self, own_model: Path) -> None:
        other = tiny_model(own_model.parent / "other", seed=1)
        (own_model / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes())
        with pytest.raises(ModelError, match="made from other weights than those of the model folder"):
            ExportedEncoder.open(own_model, "onnx")

    def test_missing_export_is_refused(self, own_model: Path) -> None:
        with pytest.raises(ModelError, match=r"no export in .*openvino.*create one with `ace-finetune export`"):
            ExportedEncoder.open(own_model, "openvino")

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_missing_package_error_names_the_extra(
        self, model: Path, backend: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(runtime, "find_spec", lambda _: None)
        with pytest.raises(MissingRuntimeError, match=rf"pip install 'llama-index-ace-finetune\[{backend}\]'"):
            ExportedEncoder.open(model, backend)

    def test_custom_module_is_refused(self, tmp_path: Path) -> None:
        class Doubled(nn.Module):
            def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
                return {**features, "sentence_embedding": 2 * features["sentence_embedding"]}

        model = Encoder.load(tiny_model(tmp_path / "model"), settings=CPU).model
        model.append(Doubled())
        with pytest.raises(ModelError, match=r"has a module that cannot be exported \(.*Doubled\); use it in torch"):
            write_graphs(model, tmp_path, name="mine", source="", backend="onnx", int8=False)
        assert not list(tmp_path.glob("*.onnx"))

    def test_prompt_excluded_from_pooling_is_refused(self, tmp_path: Path) -> None:
        model = Encoder.load(tiny_model(tmp_path / "model"), settings=CPU).model
        model[1].include_prompt = False
        with pytest.raises(ModelError, match="excludes its prompt from pooling"):
            write_graphs(model, tmp_path, name="mine", source="", backend="onnx", int8=False)

    def test_int8_for_openvino_is_refused(self, model: Path, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="no int8 export for openvino"):
            write_graphs(
                Encoder.load(model, settings=CPU).model, tmp_path, name="mine", source="", backend="openvino", int8=True
            )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("role", ["query", "document"])
def test_token_states_of_an_export(model: Path, backend: Any, role: Any) -> None:
    exported, encoder = opened(model, backend), Encoder.load(model, settings=CPU)
    found, expected = exported.encode_tokens(TEXTS, role=role), encoder.encode_tokens(TEXTS, role=role)
    assert found.lengths.tolist() == expected.lengths.tolist()
    assert found.token_ids.tolist() == expected.token_ids.tolist()
    assert np.abs(found.vectors - exported.encode(TEXTS, role=role)).max() < 1e-6
    norms = np.linalg.norm(found.states, axis=1) * np.linalg.norm(expected.states, axis=1)
    assert ((found.states * expected.states).sum(axis=1) / norms).min() > 0.999
    assert exported.has_token_states
    assert exported.encode_tokens(TEXTS[:1], role=role).states.shape == (expected.lengths[0], WIDTH)


def test_an_export_of_an_earlier_version_has_no_token_states(own_model: Path) -> None:
    file = own_model / "onnx" / EXPORT_RECORD
    record = json.loads(file.read_text())
    del record["token_states"]
    file.write_text(json.dumps(record))
    exported = opened(own_model, "onnx")
    assert exported.encode(TEXTS, role="query").shape == (len(TEXTS), WIDTH)
    assert not exported.has_token_states
    with pytest.raises(ModelError, match="gives no token states, since an earlier version wrote it; export again"):
        exported.encode_tokens(TEXTS, role="query")
