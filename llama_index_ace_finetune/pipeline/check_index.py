"""Check that the index of a run holds what the served system needs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from llama_index.core.schema import MetadataMode

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.encoders.stored_windows import StoredWindows
from llama_index_ace_finetune.encoders.text_windows import WindowEncoder
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.retrievers.legs.token_leg import MAX_ENCODED
from llama_index_ace_finetune.retrievers.load_models import load_serving_models
from llama_index_ace_finetune.retrievers.open_sparse import load_sparse_encoder
from llama_index_ace_finetune.run_folder import MAX_REPORT_BYTES, RunFolder, sparse_folder, token_folder, window_folder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.memory_store import MemoryStore
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.text_key import text_key

_REPORT: Final = Refusal("The file", "make the run again")
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
    found["windows"] = _checked("", _windows, run, serving, keys, found) if serving.windows else NOT_NEEDED
    found["truncated"] = _truncated(run)
    if found["problems"]:
        found["advice"].append(f"`ace-finetune index --data DATA --model {run.model} --replace` builds the index again")
    return found


def _keys_of_memories(index: Path) -> list[str]:
    with MemoryStore.open(path=index) as store:
        return [text_key(node.get_content(MetadataMode.EMBED)) for node in store.nodes()]


def _token_vectors(run: RunFolder, serving: Serving) -> Collection[str]:
    """Return the keys of the token vectors, whose fingerprint and checksums are compared."""
    return TokenReranker.open(token_folder(run.index), _served_model(run, serving).encoder).store.tokens.ids


def _served_model(run: RunFolder, serving: Serving) -> FineTunedEmbedding:
    tuned, base, serve = load_serving_models(run.model, run.base_model(), vectors=serving.vectors, fallback="off")
    model = base if serve == "base" else tuned
    assert model is not None  # without a fallback, a missing model is an error
    return model


def _windows(run: RunFolder, serving: Serving) -> Collection[str]:
    return StoredWindows.open(window_folder(run.index), WindowEncoder(_served_model(run, serving).encoder)).keys


def _truncated(run: RunFolder) -> str:
    """Return how many texts exceeded the token limit of the model in the evaluation of the run."""
    report = read_json_object(run.report, _REPORT, max_bytes=MAX_REPORT_BYTES) if run.report.is_file() else {}
    choice = report.get("choice")
    found = choice.get("windows") if isinstance(choice, dict) else None
    if not isinstance(found, dict):
        return "none"
    rest = "windows of the rest are served" if found.get("used") else "the rest is not in the dense leg"
    return f"{found.get('truncated')} of {found.get('memories')} memories exceed {found.get('tokens')} tokens; {rest}"


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
    """Return the state of a kind of vectors, "" for windows, and add a problem or advice to `found`."""
    try:
        stored = set(opened(run, serving))
    except AceFinetuneError as error:
        found["problems"].append(str(error))
        return "cannot be used"
    if keys is None:
        return "can be used"
    missing = sum(key not in stored for key in keys)
    lacking = f"have no {kind} vectors" if kind else "were not split into windows"
    few = f"{missing} of {len(keys)} memories in {str(run.index)!r} {lacking}"
    if missing > MAX_ENCODED:
        builder = f"build_{kind}_vectors" if kind else "build_windows"
        found["problems"].append(f"{few}; call the retriever's `{builder}`, or build the index again.")
    elif missing:
        found["advice"].append(f"{few}; the next search encodes them")
    return f"{len(keys) - missing} of {len(keys)} memories"
