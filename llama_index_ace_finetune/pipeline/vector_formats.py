"""Accuracy of shorter and smaller vectors, on dev queries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.evaluation.metrics.measures import MRR, per_query
from llama_index_ace_finetune.pipeline.export import find_model
from llama_index_ace_finetune.ranking.dense import dense_top_k, unit_rows
from llama_index_ace_finetune.stores.ann.scalar_quantization import quantise
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet

RESCORED: Final = 100
_DEPTH = 10
_HITS = _DEPTH + 1  # one of them may be the query's own document
_Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class VectorFormat:
    """A vector format and its accuracy on dev.

    Attributes:
        dimension: coordinates kept, the first ones, and made unit vectors again.
        held_as: "float32", "float16", "int8" (symmetric, a scale a row) or "binary, rescored": only the signs, by
            which the 100 nearest are taken and ordered by their float32 vectors.
        bytes: that a memory's vector takes; of a rescored one without the float32 vector, which may be on disk.
        mrr: MRR@10 on dev.
    """

    dimension: int
    held_as: str
    bytes: int
    mrr: float


def measure_formats(
    queries: _Vectors, documents: _Vectors, dev: DevSet, dimensions: Sequence[int]
) -> list[VectorFormat]:
    """Measure every vector format at every dimension, in the order of `dimensions`.

    Args:
        queries: unit vectors float32 [n, d] of the dev queries.
        documents: unit vectors float32 [m, d] of the memories.
        dev: queries with their positives.
        dimensions: each of 1 to d.
    """
    found = []
    for dimension in dimensions:
        shorter = _shortened(queries, dimension), _shortened(documents, dimension)
        for held_as, (rank, size) in _FORMATS.items():
            values = per_query(MRR(_DEPTH), dev.without_own(rank(*shorter)), dev.examples.relevant)
            found.append(
                VectorFormat(dimension=dimension, held_as=held_as, bytes=size(dimension), mrr=float(values.mean()))
            )
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class VectorComparison:
    """Numbers of dev queries and memories, and every vector format; the first is the one that is stored today."""

    queries: int
    memories: int
    forms: tuple[VectorFormat, ...]


def compare_vector_formats(
    path: str | Path, dimensions: Sequence[int] | None = None, *, training_data: str | Path | None = None
) -> VectorComparison:
    """Measure on dev what shorter, 8-bit and binary vectors of a model cost.

    Args:
        path: a run folder, or a model folder.
        dimensions: shorter lengths to try; by default those that the model was trained for, else a half and a quarter.
        training_data: file with the dev queries; by default the one of the run.

    Raises:
        AceFinetuneError: for a length that the model does not have, or without dev queries.
    """
    model, dev = find_model(Path(path), None if training_data is None else Path(training_data))
    encoder = Encoder.load(model, settings=EncoderSettings(device="cpu", precision="auto"))
    full = encoder.dimension
    trained = (read_provenance(model) or {}).get("config", {}).get("dimensions") or ()
    shorter = list(dimensions if dimensions is not None else trained) or [full // 2, full // 4]
    wrong = [length for length in shorter if not 1 <= length <= full]
    if wrong:
        raise AceFinetuneError(
            f"The vectors of {str(model)!r} have {full} dimensions, so {wrong[0]} of them cannot be kept; "
            f"give 1 to {full}."
        )
    queries, documents = encoder.encode_queries(dev.examples.queries), encoder.encode_documents(dev.examples.corpus)
    forms = measure_formats(queries, documents, dev, sorted({full, *shorter}, reverse=True))
    return VectorComparison(queries=len(dev.examples.queries), memories=len(dev.examples.corpus), forms=tuple(forms))


def read_dimensions(given: str) -> list[int]:
    """Read lengths such as "256,128".

    Raises:
        AceFinetuneError: for anything else.
    """
    parts = [part.strip() for part in given.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise AceFinetuneError(f"The dimensions are {given!r}; give whole numbers with commas, such as 256,128.")
    return [int(part) for part in parts]


def _shortened(vectors: _Vectors, dimension: int) -> _Vectors:
    return unit_rows(vectors[:, :dimension])


def _plain(queries: _Vectors, documents: _Vectors) -> NDArray[np.int32]:
    return dense_top_k(queries, documents, _HITS)[0]


def _half(queries: _Vectors, documents: _Vectors) -> NDArray[np.int32]:
    return _plain(queries, documents.astype(np.float16).astype(np.float32))


def _int8(queries: _Vectors, documents: _Vectors) -> NDArray[np.int32]:
    codes, scales = quantise(documents)
    return _plain(queries, codes * scales[:, None])


def _binary(queries: _Vectors, documents: _Vectors) -> NDArray[np.int32]:
    """Rank by equal signs, then re-rank the first 100 by the vectors; ties by row."""
    likely = np.sort(dense_top_k(_signs(queries), _signs(documents), RESCORED)[0], axis=1)
    scores = np.stack([documents[rows] @ query for rows, query in zip(likely, queries, strict=True)])
    return np.take_along_axis(likely, np.argsort(-scores, axis=1, kind="stable")[:, :_HITS], axis=1)


def _signs(vectors: _Vectors) -> _Vectors:
    return np.where(vectors > 0, 1, -1).astype(np.float32)


_FORMATS: Final[dict[str, tuple[Callable[[_Vectors, _Vectors], NDArray[np.int32]], Callable[[int], int]]]] = {
    "float32": (_plain, lambda dimension: 4 * dimension),
    "float16": (_half, lambda dimension: 2 * dimension),
    "int8": (_int8, lambda dimension: dimension + 4),
    "binary, rescored": (_binary, lambda dimension: (dimension + 7) // 8),
}
