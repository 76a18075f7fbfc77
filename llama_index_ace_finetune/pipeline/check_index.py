"""Check that the index of a run holds what the served system needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.retrievers.legs.token_leg import MAX_ENCODED
from llama_index_ace_finetune.retrievers.load_models import load_serving_models
from llama_index_ace_finetune.retrievers.open_sparse import load_sparse_encoder
from llama_index_ace_finetune.run_folder import RunFolder, Serving, sparse_folder, token_folder
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.text_key import text_key

NOT_NEEDED: Final = "not needed"


def check_index(folder: str | Path) -> dict[str, Any]:
    """Return what the served system of a run needs beside the vectors, and whether its index has it, as plain values.

    `problems` are sentences about what is missing, damaged or of another model, each with its remedy; `advice` is about
    what a search still has to encode.

    Raises:
        AceFinetuneError: if the folder holds no finished run, or its report is corrupt.
    """
    run = RunFolder.open(Path(folder))
    serving = run.serving()
    found: dict[str, Any] = {"folder": str(run.path), "memories": None, "problems": [], "advice": []}
    keys = None
    try:
        keys = _keys_of_memories(run.index)
        found["memories"] = len(keys)
    except AceFinetuneError as error:
        found["problems"].append(str(error))
    parts: list[tuple[str, bool, Callable[[RunFolder, Serving], Collection[str]]]] = [
        ("token", serving.has_late_interaction, _token_vectors),
        ("sparse", serving.sparse_encoder is not None, _sparse_vectors),
    ]
    for kind, needed, opened in parts:
        found[f"{kind}_vectors"] = _checked(kind, opened, run, serving, keys, found) if needed else NOT_NEEDED
    if found["problems"]:
        found["advice"].append(f"`ace-finetune index --data DATA --model {run.model} --replace` builds the index again")
    return found


def _keys_of_memories(index: Path) -> list[str]:
    with MemoryStore.open(path=index) as store:
        return [text_key(node.get_content(MetadataMode.EMBED)) for node in store.nodes()]


def _token_vectors(run: RunFolder, serving: Serving) -> Collection[str]:
    """Return the keys of the token vectors, whose fingerprint and checksums are compared."""
    tuned, base, serve = load_serving_models(run.model, run.base_model(), vectors=serving.vectors, fallback="off")
    model = base if serve == "base" else tuned
    assert model is not None  # without a fallback, a missing model is an error
    return TokenReranker.open(token_folder(run.index), model.encoder).store.tokens.ids


def _sparse_vectors(run: RunFolder, serving: Serving) -> Collection[str]:
    return StoredSparseVectors.open(sparse_folder(run.index), load_sparse_encoder(serving)).keys


def _checked(
    kind: str,
    opened: Callable[[RunFolder, Serving], Collection[str]],
    run: RunFolder,
    serving: Serving,
    keys: list[str] | None,
    found: dict[str, Any],
) -> str:
    """Return the state of the token or sparse vectors, and add a problem or advice to `found`."""
    try:
        stored = set(opened(run, serving))
    except AceFinetuneError as error:
        found["problems"].append(str(error))
        return "cannot be used"
    if keys is None:
        return "can be used"
    missing = sum(key not in stored for key in keys)
    few = f"{missing} of {len(keys)} memories in {str(run.index)!r} have no {kind} vectors"
    if missing > MAX_ENCODED:
        found["problems"].append(f"{few}; call the retriever's `build_{kind}_vectors`, or build the index again.")
    elif missing:
        found["advice"].append(f"{few}; the next search encodes them")
    return f"{len(keys) - missing} of {len(keys)} memories"
