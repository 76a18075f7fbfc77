"""Folders of sentence-transformers' `MultiVectorEncoder`: write the token vectors of an encoder, and read them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.model_files import check_module_classes
from llama_index_ace_finetune.encoders.opening import opening
from llama_index_ace_finetune.encoders.role_modules import role_modules
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.utils.new_folder import new_folder, require_replaceable

if TYPE_CHECKING:
    from sentence_transformers import MultiVectorEncoder

KIND = "multi-vector model"
_MODULES = {"Transformer", "Dense", "MultiVectorMask", "Normalize"}


def save_multi_vector(encoder: TokenEncoder, folder: str | Path) -> Path:
    """Write a folder that `sentence_transformers.MultiVectorEncoder` loads, and return it.

    Its modules are the transformer, the projection as a `Dense` layer if there is one, a mask without a skiplist, and
    normalisation; its similarity is "meanmaxsim". Vectors and order are those of `encoder`.

    Raises:
        ModelError: if queries and documents have different transformers, or the model is not a transformer.
        OutputExistsError: if the folder holds something else.
    """
    folder = Path(folder)
    require_replaceable(folder, kind=KIND)
    model = _multi_vector_model(encoder)
    with new_folder(folder, kind=KIND) as aside:
        model.save_pretrained(str(aside), create_model_card=False, safe_serialization=True)
    return folder


def load_multi_vector(folder: str | Path, *, settings: EncoderSettings | None = None) -> TokenEncoder:
    """Load a folder of a `MultiVectorEncoder`, such as one of `save_multi_vector`.

    Its text vectors, which such a model does not define, are means of the token states.

    Raises:
        ModelError: if it cannot be loaded, or has a module or setting that changes which tokens count: a skiplist,
            query expansion, lengths per role, token pooling.
    """
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    settings = settings or EncoderSettings()
    identity = identify_model(folder, settings=settings)
    with opening(folder):
        check_module_classes(identity.folder)
        model: MultiVectorEncoder = MultiVectorEncoder(
            str(identity.folder),
            device=settings.device,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    modules: list[Any] = list(model.children())
    _check(modules, str(folder))
    transformer = modules[0]
    if settings.max_seq_length is not None:
        transformer.max_seq_length = min(settings.max_seq_length, transformer.max_seq_length)
    prompts = {"query": identity.prompts.query, "document": identity.prompts.document}
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    text_model: SentenceTransformer = SentenceTransformer(
        modules=[transformer, pooling], device=str(model.device), prompts=prompts
    )
    encoder = Encoder(
        text_model.eval(),
        name=str(folder),
        fingerprint=identity.fingerprint,
        settings=_fixed_precision(settings, model),
    )
    return TokenEncoder(encoder, _projection(modules))


def _multi_vector_model(encoder: TokenEncoder) -> MultiVectorEncoder:
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    model = encoder.encoder.model
    transformers: list[Any] = [role_modules(model, role)[0] for role in ("query", "document")]
    if type(transformers[0]).__name__ != "Transformer" or not _are_equal(*transformers):
        raise ModelError(
            f"The model {encoder.encoder.name!r} does not have one transformer for queries and documents, which a "
            "multi-vector folder needs; save the base model, or one that was trained in the mode full."
        )
    modules: list[torch.nn.Module] = [transformers[0]]
    if encoder.projection is not None:
        weight = torch.from_numpy(encoder.projection.T.copy())
        modules.append(
            Dense(
                weight.shape[1],
                weight.shape[0],
                bias=False,
                activation_function=torch.nn.Identity(),
                init_weight=weight,
                module_input_name="token_embeddings",
            )
        )
    modules += [MultiVectorMask(), Normalize(module_input_name="token_embeddings")]
    prompts = {role: str(model.prompts.get(role) or "") for role in ("query", "document")}
    built: MultiVectorEncoder = MultiVectorEncoder(
        modules=modules, device=str(model.device), prompts=prompts, similarity_fn_name="meanmaxsim"
    )
    return built


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two transformers have the same weights: a model with a query adapter may be loaded with two copies."""
    if one is other:
        return True
    weights, others = one.state_dict(), other.state_dict()
    return weights.keys() == others.keys() and all(weights[name].equal(others[name]) for name in weights)


def _check(modules: list[Any], name: str) -> None:
    def refuse(what: str) -> ModelError:
        return ModelError(
            f"The multi-vector model {name!r} has {what}, which is not supported; use it with sentence-transformers."
        )

    for module in modules:
        if type(module).__name__ not in _MODULES:
            raise refuse(f"a module {type(module).__name__}")
    if [type(module).__name__ for module in modules].count("Dense") > 1 or type(modules[0]).__name__ != "Transformer":
        raise refuse("other modules than one transformer and one projection")
    transformer = modules[0]
    if transformer.query_expansion or transformer.query_length or transformer.document_length:
        raise refuse("query expansion, or lengths per role")
    for module in modules[1:]:
        if type(module).__name__ == "MultiVectorMask" and (module.skiplist_words or module.keep_only_token_ids):
            raise refuse("a list of tokens that do not count")
        if type(module).__name__ == "Dense" and (
            module.bias or module.use_residual or type(module.activation_function).__name__ != "Identity"
        ):
            raise refuse("a projection that is not linear")


def _projection(modules: list[Any]) -> NDArray[np.float32] | None:
    dense = next((module for module in modules if type(module).__name__ == "Dense"), None)
    return None if dense is None else np.asarray(dense.linear.weight.detach().cpu().float().numpy().T, np.float32)


def _fixed_precision(settings: EncoderSettings, model: MultiVectorEncoder) -> EncoderSettings:
    from dataclasses import replace

    from llama_index_ace_finetune.encoders.precision import choose_precision

    return (
        replace(settings, precision=choose_precision(model.device.type)) if settings.precision == "auto" else settings
    )
