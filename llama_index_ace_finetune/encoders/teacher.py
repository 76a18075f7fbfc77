"""Teachers: stronger models that score query-document pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.model_files import check_module_classes, read_model_json
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import ModelError, first_line

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

_TOKENS_AT_ONCE = 8192
_SPECIAL_TOKENS = 3


class Teacher(Protocol):
    """Scores pairs of texts; a higher score means more relevant."""

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
        *,
        cache: Path | None = None,
    ) -> NDArray[np.float32]:
        """Return the scores, float32 [e], of e pairs: indices into `queries` and into `documents`, int [e] each.

        Raises:
            ModelError: if the model returns NaN or infinite scores.
        """
        ...


def load_teacher(name: str | Path, *, device: str | None = None) -> Teacher:
    """Load a cross-encoder or an embedding model by folder or hub name; its files determine the kind.

    Raises:
        ModelError: if it cannot be found, is incomplete, or gives more than one score per pair.
    """
    folder = resolve_checkpoint(name)
    if is_cross_encoder(folder):
        return CrossEncoderTeacher(_load_cross_encoder(folder, device), name=str(name))
    return EmbeddingTeacher(Encoder.load(name, settings=EncoderSettings(device=device)))


def is_cross_encoder(folder: Path) -> bool:
    """Whether a model folder contains a cross-encoder: by its configuration, or as a plain sequence classifier."""
    saved = _read_json(folder / "config_sentence_transformers.json")
    if "model_type" in saved:
        return bool(saved["model_type"] == "CrossEncoder")
    architectures = _read_json(folder / "config.json").get("architectures")
    return not (folder / "modules.json").is_file() and "ForSequenceClassification" in str(architectures)


class EmbeddingTeacher:
    """Cosines of another embedding model; each distinct text is encoded once."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
        *,
        cache: Path | None = None,
    ) -> NDArray[np.float32]:
        """See `Teacher`."""
        sides = []
        for texts, places, encode in (
            (queries, pairs[0], self.encoder.encode_queries),
            (documents, pairs[1], self.encoder.encode_documents),
        ):
            used, place = np.unique(places, return_inverse=True)
            sides.append((encode([texts[i] for i in used], cache=cache), place))
        (query_vectors, query), (document_vectors, document) = sides
        scores = np.empty(len(query), np.float32)
        size = max(1, 4_000_000 // max(1, self.encoder.dimension))
        for start in range(0, len(query), size):
            part = slice(start, start + size)
            scores[part] = np.einsum("ed,ed->e", query_vectors[query[part]], document_vectors[document[part]])
        return scores


class CrossEncoderTeacher:
    """A cross-encoder, which scores query and document jointly.

    All pairs are sorted by length and cut into batches of about the same number of tokens, which minimises padding.
    """

    def __init__(self, model: CrossEncoder, *, name: str) -> None:
        self.model = model
        self.name = name

    def score(
        self,
        queries: Sequence[str],
        documents: Sequence[str],
        pairs: tuple[NDArray[np.int64], NDArray[np.int64]],
        *,
        cache: Path | None = None,
    ) -> NDArray[np.float32]:
        """See `Teacher`; nothing is cached."""
        lengths = self._tokens(queries, pairs[0]) + self._tokens(documents, pairs[1]) + _SPECIAL_TOKENS
        lengths = np.minimum(lengths, self.model.max_seq_length or _TOKENS_AT_ONCE)
        scores = np.empty(len(lengths), np.float32)
        for batch in token_batches(lengths, _TOKENS_AT_ONCE):
            texts = [(queries[q], documents[d]) for q, d in zip(pairs[0][batch], pairs[1][batch], strict=True)]
            scores[batch] = self.model.predict(texts, batch_size=len(texts), show_progress_bar=False)
        if not np.isfinite(scores).all():
            raise ModelError(
                f"The teacher {self.name!r} returns NaN or infinite scores; its weights are broken, use another model."
            )
        return scores

    def _tokens(self, texts: Sequence[str], places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Tokens of the text of each pair, int64 [e]; each distinct text is counted once."""
        used, place = np.unique(places, return_inverse=True)
        if not len(used):
            return np.zeros(0, np.int64)
        encoded = self.model.tokenizer([texts[i] for i in used], add_special_tokens=False, verbose=False)
        return np.array([len(ids) for ids in encoded["input_ids"]], np.int64)[place]


def token_batches(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Yield the indices of `lengths`, int64 [e], longest first, in batches of at most `budget` padded tokens.

    The first text of a batch is its longest, so the padded size is that length times the number of texts. A text longer
    than the budget is a single batch.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def _load_cross_encoder(folder: Path, device: str | None) -> CrossEncoder:
    from sentence_transformers import CrossEncoder

    check_module_classes(folder)
    try:
        model: CrossEncoder = CrossEncoder(
            str(folder),
            device=device,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:
        raise ModelError(
            f"The teacher in {str(folder)!r} cannot be loaded ({first_line(error)}); give another model."
        ) from error
    if model.num_labels != 1:
        raise ModelError(
            f"The teacher in {str(folder)!r} gives {model.num_labels} scores per pair; use a re-ranker, which "
            "gives one."
        )
    model.eval()
    return model


def _read_json(file: Path) -> dict[str, object]:
    value = read_model_json(file) if file.is_file() else {}
    return value if isinstance(value, dict) else {}
