"""Export the graph of a model, from token ids to unit vectors and token states."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.record import TOKENIZER, ExportRecord, file_hashes
from llama_index_ace_finetune.encoders.exports.runtime import ExportBackend, MissingRuntimeError, require_runtime
from llama_index_ace_finetune.encoders.exports.token_batches import INPUTS
from llama_index_ace_finetune.encoders.role_modules import role_modules
from llama_index_ace_finetune.errors import ModelError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_MODULES = {"Transformer", "Pooling", "Dense", "Normalize", "LayerNorm", "Dropout"}
_ROLES = ("query", "document")
_OPSET = 17
_EXAMPLES = ["a short text", "a text that is somewhat longer than the other one"]


def write_graphs(
    model: SentenceTransformer, folder: Path, *, name: str, source: str, backend: ExportBackend, int8: bool
) -> ExportRecord:
    """Write the files of an export except for the record, and return the record.

    One graph serves both roles, unless the model is a dual encoder.

    Args:
        model: the model in torch.
        folder: an empty folder.
        name: of the model, for errors.
        source: fingerprint of the files of the model folder.
        backend: runtime of the export.
        int8: quantize the weights of products to 8 bits, with one scale per channel ("onnx" only).

    Raises:
        MissingRuntimeError: if a package is not installed.
        ModelError: if the model has a module that cannot be exported, or `int8` is not for this backend.
    """
    require_runtime(backend)
    if backend == "onnx" and find_spec("onnx") is None:
        raise MissingRuntimeError(
            "An export to onnx needs the package 'onnx', which is not installed; "
            "run `pip install 'llama-index-ace-finetune[onnx]'`."
        )
    if int8 and backend != "onnx":
        raise ModelError(f"There is no int8 export for {backend}; leave --int8 out, or use --backend onnx.")
    by_role = {role: role_modules(model, role) for role in _ROLES}
    for modules in by_role.values():
        _check(modules, name)
    shared = by_role["query"] == by_role["document"]
    suffix = ".onnx" if backend == "onnx" else ".xml"
    graphs = {role: f"{'model' if shared else role}{suffix}" for role in _ROLES}
    transformer: Any = by_role["document"][0]
    transformer.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER))
    features = transformer.preprocess(_EXAMPLES)
    example = tuple(features[key].to(model.device) for key in INPUTS)
    for role in _ROLES[:1] if shared else _ROLES:
        graph = _Graph(by_role[role]).eval()
        with torch.no_grad(), _quiet():
            if backend == "onnx":
                _write_onnx(graph, example, folder / graphs[role], int8=int8)
            else:
                _write_openvino(graph, example, folder / graphs[role])
    return ExportRecord(
        backend=backend,
        precision="int8" if int8 else "float32",
        source=source,
        graphs=graphs,
        files=file_hashes(folder),
        dimension=model.get_embedding_dimension() or 0,
        max_seq_length=int(transformer.max_seq_length),
        padding_id=int(transformer.tokenizer.pad_token_id),
        token_states=True,
    )


def require_same_tokens(encoder: Encoder, exported: ExportedEncoder, texts: list[str]) -> None:
    """Raise ModelError unless both tokenize these texts equally, in both roles."""
    for role in _ROLES:
        features = encoder.model.preprocess(texts, prompt=encoder.model.prompts.get(role) or None, task=role)
        rows = zip(features["input_ids"], features["attention_mask"], strict=True)
        expected = [ids[mask.bool()].tolist() for ids, mask in rows]
        found = exported.tokens(texts, role)  # type: ignore[arg-type]
        if expected != found:
            raise ModelError(
                f"The export of the model {encoder.name!r} would tokenize texts differently; use the model in torch."
            )


class _Graph(nn.Module):
    """A model without prompts and tokenizer: from token ids, unit vectors and the states of all tokens."""

    def __init__(self, modules: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        features = dict(zip(INPUTS, (input_ids, attention_mask), strict=True))
        for part in self.parts:
            features = part(features)
        vectors = nn.functional.normalize(features["sentence_embedding"].float(), dim=1)
        return vectors, features["token_embeddings"].float()


def _check(modules: list[nn.Module], name: str) -> None:
    for module in modules:
        kind = type(module)
        if kind.__name__ not in _MODULES or not kind.__module__.startswith("sentence_transformers."):
            raise ModelError(
                f"The model {name!r} has a module that cannot be exported ({kind.__module__}.{kind.__name__}); "
                "use it in torch."
            )
    first: Any = modules[0]
    architecture = type(getattr(first, "auto_model", None))
    if not architecture.__module__.startswith("transformers."):
        raise ModelError(
            f"The model {name!r} runs custom code ({architecture.__name__}), which cannot be exported; use it in torch."
        )
    if not hasattr(first.tokenizer, "backend_tokenizer"):
        raise ModelError(f"The model {name!r} has no fast tokenizer, which an export needs; use it in torch.")
    if any(not getattr(module, "include_prompt", True) for module in modules):
        raise ModelError(
            f"The model {name!r} excludes its prompt from pooling, which cannot be exported; use it in torch."
        )


def _write_onnx(graph: nn.Module, example: tuple[Tensor, ...], file: Path, *, int8: bool) -> None:
    plain = file.with_name("float32.onnx") if int8 else file
    axes = {name: {0: "texts", 1: "tokens"} for name in INPUTS}
    torch.onnx.export(
        graph,
        example,
        str(plain),
        input_names=list(INPUTS),
        output_names=["vectors", "token_states"],
        dynamic_axes={**axes, "vectors": {0: "texts"}, "token_states": axes[INPUTS[0]]},
        opset_version=_OPSET,
        dynamo=False,  # the newer exporter needs another package
    )
    if int8:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            str(plain),
            str(file),
            op_types_to_quantize=["MatMul", "Gemm", "Gather"],
            weight_type=QuantType.QInt8,
            per_channel=True,  # with one scale per matrix the cosine drops several times as much
        )
        plain.unlink()


def _write_openvino(graph: nn.Module, example: tuple[Tensor, ...], file: Path) -> None:
    import openvino

    converted = openvino.convert_model(graph, example_input=dict(zip(INPUTS, example, strict=True)))
    # float16 would lose mantissa bits; the precision of the products is chosen at run time.
    openvino.save_model(converted, str(file), compress_to_fp16=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress tracer warnings on branches that do not depend on the texts; dev evaluation checks the result."""
    loggers = [logging.getLogger(name) for name in ("transformers", "root", "onnxruntime")]
    before = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)
