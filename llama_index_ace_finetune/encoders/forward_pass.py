"""ForwardPass: one forward pass of a model, in its precision, and by packed sequences where these give the same."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.memory import is_out_of_memory

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import Tensor

    from llama_index_ace_finetune.encoders.encoder import Role
    from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder

logger = logging.getLogger(__name__)

_CHECKED_TEXTS: Final = 8
_MIN_COSINE: Final = {"bfloat16": 0.995, "float32": 0.99999}


class ForwardPass:
    """Computes vectors and token states of texts without lone surrogates; not thread-safe.

    Args:
        model: whose weights may be trained meanwhile.
        name: as errors and the log name it.
        settings: precision, batch size and truncation of vectors.
    """

    def __init__(self, model: SentenceTransformer, *, name: str, settings: EncoderSettings) -> None:
        self._model, self._settings = model, settings
        self.name = name
        self._packed: dict[Role, PackedEncoder | None] = {}
        self._packed_version = -1
        self._checked: set[Role] = set()
        self._disagreeing: set[Role] = set()
        self._pads: dict[Role, bool] = {}

    def vectors(self, texts: list[str], role: Role, *, padded: bool) -> NDArray[np.float32]:
        """Return unit vectors of some texts, float32 [n, d]; with `padded`, those of all lengths share a batch."""
        packed = self._current_packed(texts, role)
        if packed:
            return np.asarray(packed(*self._tokens(texts, role)).numpy(), np.float32)
        batches = [np.arange(len(texts))] if padded else self._equal_lengths(texts, role)
        found = [self._model_forward([texts[row] for row in rows], role) for rows in batches]
        vectors = np.empty((len(texts), found[0].shape[1]), np.float32)
        for rows, one in zip(batches, found, strict=True):
            vectors[rows] = one
        return vectors

    def states(self, texts: list[str], role: Role) -> TokenStates:
        """Return the vectors, and the states of the last layer of all tokens.

        Raises:
            ModelError: if the model has no token states.
        """
        packed = self._current_packed(texts, role)
        if packed:
            return packed.token_states(*self._tokens(texts, role))
        batches = self._equal_lengths(texts, role)
        return TokenStates.in_order(
            [(rows, self._model_states([texts[row] for row in rows], role)) for rows in batches]
        )

    def packs(self, texts: list[str], role: Role) -> bool:
        """Whether the fast pass is used, which was compared with the model on a few of the texts."""
        return self._current_packed(texts, role) is not None

    def weights_changed(self) -> None:
        """Copy the weights again before the next pass: fused optimisers change them without a trace."""
        self._packed_version = -1

    def _equal_lengths(self, texts: list[str], role: Role) -> list[NDArray[np.intp]]:
        """Rows of `texts` grouped by number of tokens, on the CPU; else one group.

        Without padding, and with one thread, the vector of a text is bit-equal whatever else is in the batch; with more
        threads all but its last digits. Otherwise the contents of the cache would affect close decisions, such as which
        negatives are mined.
        """
        if len(texts) == 1 or self._model.device.type != "cpu" or not self._has_padding(texts, role):
            return [np.arange(len(texts))]
        lengths = self._features(texts, role)["attention_mask"].sum(dim=1).numpy()
        return [np.flatnonzero(lengths == length) for length in np.unique(lengths)]

    def _has_padding(self, texts: list[str], role: Role) -> bool:
        """Whether the model pads texts: a static model does not, and spends most of its time on tokenizing them."""
        if role not in self._pads:
            self._pads[role] = "attention_mask" in self._features(texts[:1], role)
        return self._pads[role]

    def _model_forward(self, texts: list[str], role: Role) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = self._call_model(texts, role, normalize_embeddings=True, convert_to_numpy=True)
        return vectors

    def _model_states(self, texts: list[str], role: Role) -> TokenStates:
        import torch

        found: list[dict[str, Tensor]] = self._call_model(texts, role, output_value=None)
        if not {"token_embeddings", "attention_mask", "input_ids"} <= found[0].keys():
            raise ModelError(f"The model {self.name!r} has no token states; use it without late interaction.")
        vectors = torch.stack([text["sentence_embedding"] for text in found])
        states, ids = (
            [text[name][text["attention_mask"].bool()] for text in found] for name in ("token_embeddings", "input_ids")
        )
        return TokenStates(
            torch.nn.functional.normalize(vectors, dim=1).float().cpu().numpy(),
            torch.cat(states).float().cpu().numpy(),
            np.array([len(text) for text in states], np.int64),
            torch.cat(ids).cpu().numpy(),
        )

    def _call_model(self, texts: list[str], role: Role, **output: object) -> Any:
        """Encode in the model's precision, with smaller batches if memory runs out."""
        import torch

        encode: Any = self._model.encode_query if role == "query" else self._model.encode_document
        enabled = self._settings.precision == "bfloat16"
        batch_size = self._settings.batch_size
        while True:
            try:
                with torch.autocast(self._model.device.type, dtype=torch.bfloat16, enabled=enabled):
                    return encode(
                        texts,
                        batch_size=batch_size,
                        show_progress_bar=False,
                        truncate_dim=self._settings.truncate_dim,
                        **output,
                    )
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch_size == 1:
                    raise ModelError(
                        f"Out of memory: {self._model.device} cannot encode a single text with the model "
                        f"{self.name!r}; lower max_seq_length, use a smaller model, or set device to cpu."
                    ) from error
            batch_size //= 2
            torch.cuda.empty_cache()
            logger.warning("out of memory; continuing with batches of %d texts", batch_size)

    def _features(self, texts: list[str], role: Role) -> dict[str, Any]:
        return self._model.preprocess(texts, prompt=self._model.prompts.get(role) or None, task=role)

    def _tokens(self, texts: list[str], role: Role) -> tuple[Tensor, Tensor]:
        features = self._features(texts, role)
        return features["input_ids"], features["attention_mask"]

    def _current_packed(self, texts: list[str], role: Role) -> PackedEncoder | None:
        """The fast forward pass with the current weights; None if that of the model must be used."""
        if self._settings.truncate_dim:
            return None
        # Torch counts in-place changes per tensor.
        version = sum(weight._version for weight in self._model.parameters())
        if version != self._packed_version:
            self._packed, self._packed_version = {}, version
        if role not in self._packed:
            self._packed[role] = self._verified_packed(texts, role)
        return self._packed[role]

    def _verified_packed(self, texts: list[str], role: Role) -> PackedEncoder | None:
        """A fast forward pass for a role, compared with the model on some texts the first time; None if not usable."""
        import torch

        from llama_index_ace_finetune.encoders.packed_encoder import PackedEncoder

        if role in self._disagreeing or not PackedEncoder.supports(self._model, role=role):
            return None
        precision = self._settings.precision
        packed = next((one for one in self._packed.values() if one and one.encodes(role)), None)
        if not packed:
            dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
            packed = PackedEncoder(self._model, role=role, dtype=dtype)
        if role in self._checked:
            return packed
        self._checked.add(role)
        sample = texts[:: max(1, len(texts) // _CHECKED_TEXTS)][:_CHECKED_TEXTS]
        cosines = (self._model_forward(sample, role) * packed(*self._tokens(sample, role)).numpy()).sum(axis=1)
        if cosines.min() > _MIN_COSINE[precision]:
            return packed
        logger.warning("%s: the fast forward pass differs from that of the model and is not used", self.name)
        self._disagreeing.add(role)
        return None
