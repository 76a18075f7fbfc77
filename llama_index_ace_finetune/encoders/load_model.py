"""Load a sentence-transformers model from a folder, and check its weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from llama_index_ace_finetune.encoders.checkpoints import tensor_names
from llama_index_ace_finetune.encoders.model_files import check_module_classes
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.token_limit import takes_token_limit
from llama_index_ace_finetune.errors import ModelError, first_line

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer, SparseEncoder

_PLACE: Final = re.compile(r"^\d+\.(sub_modules\.\w+\.\d+\.)*")


def load_model(folder: Path, settings: EncoderSettings) -> SentenceTransformer:
    """Load the model in a folder, in evaluation mode and float32.

    Raises:
        ModelError: if it cannot be loaded, or its weights are those of another model.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    _check_device(settings.device)
    if not settings.trust_remote_code:
        check_module_classes(folder)
    try:
        model = SentenceTransformer(
            str(folder),
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
            local_files_only=True,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        raise ModelError(
            f"The model in {str(folder)!r} cannot be loaded ({first_line(error)}); copy or train the model again."
        ) from error
    check_weights(model, folder)
    if any(weight.dtype in (torch.float16, torch.bfloat16) for weight in model.parameters()):
        # Files in 16 bits are loaded as such, and no training in them converges; `precision` is for computing only.
        model.float()
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None and getattr(tokenizer, "pad_token", "") is None:
        # Padding is masked, so any token works.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if settings.max_seq_length is not None and takes_token_limit(model):
        model.max_seq_length = min(settings.max_seq_length, model.max_seq_length or settings.max_seq_length)
    model.eval()
    return model


def _check_device(device: str | None) -> None:
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(
            f"The device {device!r} is not available ({first_line(error)}); set device to cpu, or leave it out for "
            "the best one."
        ) from error


def check_weights(model: SentenceTransformer | SparseEncoder, folder: Path) -> None:
    """Refuse weights that lack the tensors of the model: these would keep random values."""
    names = tensor_names(folder)
    # model2vec's name of the only tensor of a static embedding.
    names |= {"embedding.weight"} if "embeddings" in names else set()
    held = {ending for name in names for ending in _endings(name)}
    needed = [name for name, _ in model.named_parameters()]
    # Tensor names in files lack the module number and the route of a router.
    missing = [name for name in needed if held.isdisjoint(_endings(_PLACE.sub("", name)))]
    # A few may be tied, renamed or unused; in the file of another model nearly all are missing.
    if 2 * len(missing) > len(needed):
        raise ModelError(
            f"The weights in {str(folder)!r} do not match its config ({len(missing)} of {len(needed)} tensors are "
            f"missing, such as {missing[0]!r}); copy or train the model again."
        )


def _endings(name: str) -> list[str]:
    """A tensor's name and its suffixes of three or more parts: files name it with or without prefixes."""
    parts = name.split(".")
    return [name, *(".".join(parts[start:]) for start in range(1, len(parts) - 2))]
