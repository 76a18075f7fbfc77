"""One model whose queries and documents are embedded differently, in the stock format of sentence-transformers."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Module, Normalize, Router
from torch import nn

from llama_index_ace_finetune.encoders.role_modules import role_modules
from llama_index_ace_finetune.errors import ModelError


def with_query_adapter(model: SentenceTransformer, matrix: NDArray[np.float32]) -> SentenceTransformer:
    """Return a model whose query vectors are normalize(matrix @ vector) and whose document vectors are `model`'s own.

    Both routes of a `Router` use the modules of `model`, in memory and in a saved folder; the query side also has the
    matrix. A text without a role is refused (`_router`).

    Args:
        model: the base; a model without a Normalize module will do, since the matrix acts only on directions.
        matrix: float32 [d, d].

    Raises:
        ModelError: if the matrix does not fit the model's vectors.
    """
    queries, documents = _modules(model, "query"), _modules(model, "document")
    return _like(model, [_router([*queries, *_moved(model, matrix)], documents)])


def dual_encoder(
    query_model: SentenceTransformer, document_model: SentenceTransformer, matrix: NDArray[np.float32] | None = None
) -> SentenceTransformer:
    """Return a model that embeds queries with `query_model` and documents with `document_model`.

    A `Router` holds both whole. Prompts are those of `document_model`. A text without a role is refused (`_router`).

    Args:
        query_model: the trained query encoder.
        document_model: the base.
        matrix: float32 [d, d] on the vectors of `query_model`; None for none.

    Raises:
        ModelError: if the vectors of the two differ in length, or the matrix does not fit them.
    """
    lengths = query_model.get_embedding_dimension(), document_model.get_embedding_dimension()
    if lengths[0] != lengths[1]:
        raise ModelError(
            f"The query model gives vectors of {lengths[0]} numbers and the document model of {lengths[1]}; "
            "take two models of one kind."
        )
    extra = [] if matrix is None else _moved(query_model, matrix)
    queries = [*_modules(query_model, "query"), *extra]
    return _like(document_model, [_router(queries, _modules(document_model, "document"))])


def _router(queries: list[Module], documents: list[Module]) -> Router:
    """The only module of a model, so that nothing but sentence-transformers finds a model in the saved folder.

    Without a default route, `encode` without a role raises an error: a loader that knows no roles
    would otherwise search with the wrong query vectors.
    """
    router: Router = Router.for_query_document(queries, documents, default_route=None, allow_empty_key=False)
    return router


def _modules(model: SentenceTransformer, role: str) -> list[Module]:
    return cast(list[Module], role_modules(model, role))


def _moved(model: SentenceTransformer, matrix: NDArray[np.float32]) -> list[Module]:
    """The modules that turn a vector q into normalize(matrix @ q)."""
    length = model.get_embedding_dimension()
    if length is None or matrix.shape != (length, length):
        raise ModelError(
            f"The matrix is of shape {tuple(matrix.shape)} and the model's vectors hold {length} numbers; "
            "fit the matrix on vectors of this model."
        )
    weight = torch.tensor(matrix, dtype=torch.float32)
    dense = Dense(length, length, bias=False, activation_function=nn.Identity(), init_weight=weight)
    return [dense.to(model.device), Normalize()]


def _like(model: SentenceTransformer, modules: list[Module]) -> SentenceTransformer:
    """A model of `modules` with the prompts and the settings of `model`."""
    built = SentenceTransformer(
        modules=cast(list[nn.Module], modules),
        device=str(model.device),
        prompts={name: text for name, text in model.prompts.items() if text is not None},
        default_prompt_name=model.default_prompt_name,
        similarity_fn_name=model.similarity_fn_name,
        truncate_dim=model.truncate_dim,
    )
    return built.train(model.training)
