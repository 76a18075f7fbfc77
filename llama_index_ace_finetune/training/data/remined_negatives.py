"""Negatives that are mined again during a training, with the weights that it has reached."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypedDict

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, TrainingError
from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import CandidateSource, DenseSource, LexicalSource, WithoutOwnDocuments
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.dense import dense_top_k
from llama_index_ace_finetune.ranking.own_documents import without_own
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

logger = logging.getLogger(__name__)

_DEPTH = 10
# The trainer fetches one batch ahead, with the negatives of then.
_FETCHED_AHEAD = 2
_STATE = Refusal("The mined negatives", "delete the checkpoints and train again", TrainingError)
_MAX_BYTES = 8 * 2**30


@dataclass(frozen=True, slots=True)
class Remining:
    """A re-mining: after which step, queries whose first ten had changed, those with new negatives, and seconds."""

    step: int
    changed_queries: int
    new_negatives: int
    seconds: float


class _State(TypedDict):
    step: int
    changed_queries: int
    new_negatives: int
    seconds: float
    first: list[list[int]]
    negatives: list[list[int]]


class ReminedNegatives:
    """Mines the negatives of the training queries again, after some steps of a training.

    As a model learns, the negatives that were hard become easy, and others become hard. Only queries with other
    documents among their first ten than when they were last mined get new negatives, from the sources and with the
    filters of the first mining; cosines are those of the present weights. Negatives that the data label come first. A
    query for which all candidates are rejected keeps its negatives.

    Source: ANCE (Xiong et al. 2020, arXiv:2007.00808), once or twice in a training instead of all the time.

    Args:
        encoder: the model that is trained.
        examples: the training queries.
        first: the base model's first ten documents of each query, int [n, 10] or narrower, padded with -1.
        settings: of the first mining.
        count: negatives per query.
        before: called before texts are encoded, to copy weights into `encoder` if another model is trained.
        on_phase: called with True when a mining begins, and with False when it ends.
    """

    def __init__(
        self,
        encoder: Encoder,
        examples: IndexedExamples,
        *,
        first: NDArray[np.int32],
        settings: MiningSettings,
        count: int,
        before: Callable[[], object] | None = None,
        on_phase: Callable[[bool], object] | None = None,
    ) -> None:
        self.record: list[Remining] = []
        self._encoder = encoder
        self._examples = examples
        self._first = np.sort(first, axis=1)
        self._settings = settings
        self._count = count
        self._before = before or (lambda: None)
        self._on_phase = on_phase or (lambda begins: None)
        self._after: tuple[int, ...] = ()
        self._folder: Path | None = None
        self._negatives: list[tuple[int, tuple[NDArray[np.int64], ...]]] = [(-_FETCHED_AHEAD, examples.negatives)]

    def begin(self, after: Sequence[int], *, folder: Path | None, resumed_at: int = 0) -> None:
        """Set the steps after which negatives are mined, and read those that an interrupted training has mined.

        Args:
            after: steps, ascending.
            folder: where the mined negatives are kept, beside the checkpoints; None keeps none.
            resumed_at: step of the checkpoint that is resumed.

        Raises:
            TrainingError: if a file of mined negatives is missing, corrupt or of other data.
        """
        self._after, self._folder = tuple(after), folder
        for step in self._after:
            if folder and step <= resumed_at:
                self._read(folder / _name(step))

    def of_batch(self, number: int) -> Sequence[NDArray[np.int64]]:
        """Return the negatives, rows of each query, for the batch of this number, from 1.

        It depends on the number only, so that a resumed training has the same batches.
        """
        return next(rows for step, rows in reversed(self._negatives) if step + _FETCHED_AHEAD <= number)

    def after_step(self, step: int) -> None:
        """Mine, if it is time."""
        if step not in self._after:
            return
        start = time.perf_counter()
        self._on_phase(True)
        self._before()
        encoder, examples = self._encoder, self._examples
        training = encoder.model.training
        encoder.model.eval()
        encoder.weights_changed()
        queries, corpus = encoder.encode_queries(examples.queries), encoder.encode_documents(examples.corpus)
        encoder.model.train(training)
        first = np.sort(first_documents(queries, corpus, examples), axis=1)
        changed = np.flatnonzero((first != self._first).any(axis=1))
        negatives = list(self._negatives[-1][1])
        mined = self._mine(changed, queries[changed], corpus)
        renewed = 0
        for query, rows in zip(changed.tolist(), mined, strict=True):
            if len(rows) and not np.array_equal(rows, negatives[query]):
                negatives[query] = rows
                renewed += 1
        self._first = first
        self._negatives.append((step, tuple(negatives)))
        self.record.append(Remining(step, len(changed), renewed, time.perf_counter() - start))
        logger.info(
            "negatives mined again after step %d: the first ten of %d of %d queries had changed, %d have new negatives",
            step, len(changed), len(negatives), renewed,
        )  # fmt: skip
        if self._folder:
            self._write(self._folder / _name(step))
        self._on_phase(False)

    def _mine(
        self, changed: NDArray[np.int64], queries: NDArray[np.float32], corpus: NDArray[np.float32]
    ) -> list[NDArray[np.int64]]:
        examples = self._examples
        if not len(changed):
            return []
        texts = [examples.queries[query] for query in changed]
        sources: list[CandidateSource] = [DenseSource(queries, corpus)] if self._settings.dense else []
        if self._settings.bm25:
            sources.append(LexicalSource(texts, self._bm25))
        if examples.own is not None:
            own = examples.own[changed]
            sources = [WithoutOwnDocuments(source, own) for source in sources]
        found = mine_negatives(
            query_vectors=queries,
            corpus_vectors=corpus,
            relevant=[examples.relevant[query] for query in changed],
            judged_negatives=[examples.judged[query] for query in changed] if examples.judged else None,
            sources=sources,
            count=self._count,
            settings=self._settings,
            excluded=examples.held_out,
            keys=texts,
        )
        return [rows[rows >= 0].astype(np.int64) for rows in found.rows]

    @cached_property
    def _bm25(self) -> BM25Index:
        return BM25Index.build(list(self._examples.corpus))

    def _write(self, path: Path) -> None:
        last = self.record[-1]
        state: _State = {
            "step": last.step,
            "changed_queries": last.changed_queries,
            "new_negatives": last.new_negatives,
            "seconds": last.seconds,
            "first": self._first.tolist(),
            "negatives": [rows.tolist() for rows in self._negatives[-1][1]],
        }
        write_json(path, state)

    def _read(self, path: Path) -> None:
        state = checked(read_json_object(path, _STATE, max_bytes=_MAX_BYTES), _State, path, _STATE)
        count, documents = len(self._examples.queries), len(self._examples.corpus)
        rows = [np.array(of_query, np.int64) for of_query in state["negatives"]]
        found = np.concatenate([np.empty(0, np.int64), *rows])
        same = len(rows) == count and np.shape(state["first"]) == self._first.shape
        if not same or (len(found) and not 0 <= found.min() <= found.max() < documents):
            raise _STATE.because(path, "are of other training data")
        self._first = np.array(state["first"], self._first.dtype)
        self._negatives.append((state["step"], tuple(rows)))
        self.record.append(Remining(state["step"], state["changed_queries"], state["new_negatives"], state["seconds"]))


def first_documents(
    queries: NDArray[np.float32], corpus: NDArray[np.float32], examples: IndexedExamples
) -> NDArray[np.int32]:
    """Return the first ten documents of each query without its own, int32 [n, 10], narrower for a small corpus."""
    return without_own(dense_top_k(queries, corpus, _DEPTH + 1)[0], examples.own, limit=_DEPTH)[0]


def mining_settings_of(metadata: Mapping[str, Any]) -> MiningSettings:
    """Return the settings with which training data were mined, from their metadata; the defaults if unknown.

    Raises:
        TrainingError: if they are not valid, or a teacher's scores decided, which are not computed again.
    """
    mining = metadata.get("mining")
    values = mining.get("settings") if isinstance(mining, Mapping) else None
    if not isinstance(values, Mapping):
        return MiningSettings()
    try:
        settings = MiningSettings(**{**values, "relaxation": tuple(values.get("relaxation") or ())})
    except (TypeError, ValueError, AceFinetuneError) as error:
        raise TrainingError(
            f"The training data hold mining settings that are not valid ({error}); generate them again, or set remine "
            "to 0."
        ) from error
    if settings.teacher is not None:
        raise TrainingError(
            f"The negatives were filtered by the scores of the teacher {str(settings.teacher)!r}, which a re-mining "
            "does not compute; set remine to 0, or mine without a teacher."
        )
    return settings


def _name(step: int) -> str:
    return f"negatives-{step}.json"
