"""HardNegativeMiner: mines negatives that the retrieval in use today ranks high."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.training_data import HardNegative
from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.checkpoints import DEFAULT_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder, Progress
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.encoders.teacher import Teacher, load_teacher
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.apply_filters import Rescore
from llama_index_ace_finetune.mining.collection_source import CollectionSource
from llama_index_ace_finetune.mining.hard_negatives import mine_negatives
from llama_index_ace_finetune.mining.report import mining_report, mining_samples, require_negatives
from llama_index_ace_finetune.mining.results import MinedNegatives
from llama_index_ace_finetune.mining.retriever_source import RetrieverSource
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.mining.sources import CandidateSource, DenseSource, LexicalSource, WithoutOwnDocuments
from llama_index_ace_finetune.ranking.bm25 import BM25Index
from llama_index_ace_finetune.ranking.corpus_statistics import CorpusStatistics
from llama_index_ace_finetune.ranking.own_documents import NO_ROW
from llama_index_ace_finetune.stores.qdrant.live_collection import DEFAULT_COLLECTION, LiveCollection

if TYPE_CHECKING:
    from llama_index.core.base.base_retriever import BaseRetriever

logger = logging.getLogger(__name__)


class HardNegativeMiner:
    """Mine hard negatives by id; known positives are never negatives.

    Candidates come from the embedding model and from BM25 over the dataset's corpus. With `qdrant_url` they also come
    from an existing Qdrant collection, with `retriever` also from any LlamaIndex retriever. After each run `report`
    holds counts, histograms and samples; `save_mining_report` writes it.

    Args:
        qdrant_url: Qdrant server with an existing collection; None mines only from the dataset's corpus.
        collection_name: name of that collection.
        embedding_url: OpenAI-compatible endpoint that embeds queries for that collection.
        embedding_model: model name at that endpoint.
        top_k: candidates per source and query; overrides `settings.range_max` (default 50).
        model: embedding model, by folder or hub name.
        settings: sources, filters, margin back-off and sampling strategy.
        retriever: the LlamaIndex retriever in use today, such as `index.as_retriever(similarity_top_k=20)`.
        encoder: the embedding model, already loaded; used instead of `model`.
        cache: folder for cached vectors; none by default. An interrupted run resumes from it.
        device: torch device of the model and of the teacher.
        precision: "float32", "bfloat16", or "auto": bfloat16 if the device supports it. Another precision can give
            other negatives, so `report` records the one used; an `encoder` keeps the precision it was loaded with.
        statistics: of a corpus that the dataset is a part of, for BM25 scores as in that corpus.

    Raises:
        AceFinetuneError: if a setting is out of range, or no source is enabled.
    """

    def __init__(
        self,
        qdrant_url: str | None = None,
        collection_name: str = DEFAULT_COLLECTION,
        embedding_url: str | None = None,
        embedding_model: str | None = None,
        top_k: int | None = None,
        *,
        model: str = DEFAULT_BASE_MODEL,
        settings: MiningSettings | None = None,
        retriever: BaseRetriever | None = None,
        encoder: Encoder | None = None,
        cache: Path | None = None,
        device: str | None = None,
        precision: Literal["auto", "float32", "bfloat16"] = "auto",
        statistics: CorpusStatistics | None = None,
    ) -> None:
        self.settings = settings or MiningSettings()
        if top_k is not None:
            if top_k < 1:
                raise AceFinetuneError(f"The miner's top_k is {top_k}; it must be at least 1.")
            self.settings = replace(self.settings, range_max=top_k)
        if not (self.settings.dense or self.settings.bm25 or qdrant_url or retriever is not None):
            raise AceFinetuneError(
                "The miner has no source of candidates; enable dense or bm25, or give a retriever or a collection."
            )
        for warning in self.settings.warnings():
            logger.warning("%s", warning)
        self.model = model
        self.collection = (
            LiveCollection(qdrant_url, collection_name, embedding_url=embedding_url, embedding_model=embedding_model)
            if qdrant_url
            else None
        )
        self.retriever = retriever
        self.report: dict[str, Any] = {}
        self._encoder = encoder
        self._cache = cache
        self._statistics = statistics
        self._model_settings = EncoderSettings(device=device, precision=precision)
        self._teacher: Teacher | None = None
        self._dataset: RetrievalDataset | None = None
        self._corpus: _Corpus | None = None

    def use(self, dataset: RetrievalDataset) -> None:
        """Set the dataset whose corpus `mine_hard_negatives` mines from."""
        self._dataset = dataset

    def mine(
        self,
        dataset: RetrievalDataset,
        query_ids: Sequence[str],
        *,
        count: int,
        excluded: frozenset[str] = frozenset(),
        progress: Progress | None = None,
    ) -> dict[str, tuple[HardNegative, ...]]:
        """Return up to `count` negatives per query, in the order of `MiningSettings.sampling_strategy`.

        Negatives labelled in the data come first, negatives from the margin back-off last.

        Args:
            dataset: the corpus and the relevance judgements.
            query_ids: queries to mine for.
            count: negatives per query.
            excluded: answer ids that must not become negatives, such as positives of held-out queries.
            progress: called with the number of newly encoded texts.

        Raises:
            AceFinetuneError: if `count` is negative.
            DatasetError: if a query has no positive in the corpus, or the filters reject all candidates.
            ModelError: if the model or the teacher cannot be used.
            RetrieverError: if the retriever fails.
        """
        if count < 0:
            raise AceFinetuneError(f"The number of negatives per query is {count}; it must be 0 or more.")
        answers = list(dataset.answers)
        row_of = {identifier: row for row, identifier in enumerate(answers)}
        for query_id in query_ids:
            if not dataset.relevant(query_id):
                raise DatasetError(
                    f"{dataset.name}: query {query_id!r} has no positive in the corpus; label one or remove the query."
                )
        encoder = self._load_encoder()
        queries = [dataset.queries[query_id].text for query_id in query_ids]
        query_vectors = encoder.encode(queries, role="query", cache=self._cache, progress=progress)
        corpus = self._prepare_corpus(dataset, encoder, progress)
        relevant = [np.array(sorted(row_of[a] for a in dataset.relevant(q)), np.int64) for q in query_ids]
        sources = self._sources(dataset, queries, query_vectors, corpus)
        if dataset.own_documents:
            own = (dataset.own_answer(query_id) for query_id in query_ids)
            rows = np.array([NO_ROW if answer is None else row_of[answer] for answer in own], np.int64)
            sources = [WithoutOwnDocuments(source, rows) for source in sources]
        mined = mine_negatives(
            query_vectors=query_vectors,
            corpus_vectors=corpus.vectors,
            relevant=relevant,
            judged_negatives=[
                np.array(sorted(row_of[a] for a in dataset.judged_negative(q)), np.int64) for q in query_ids
            ],
            sources=sources,
            count=count,
            settings=self.settings,
            excluded=np.array([identifier in excluded for identifier in answers], bool),
            rescore=self._rescore(queries, corpus.texts),
            # Texts, not numbers or ids: the draw of a query then does not depend on the other queries.
            keys=queries,
        )
        if count:
            require_negatives(mined)
        self.report = mining_report(mined, queries=len(query_ids), wanted=count) | {
            "settings": self.settings.to_dict(),
            "precision": encoder.compute_backend,
            "samples": mining_samples(
                mined, queries=queries, corpus=corpus.texts, relevant=relevant, seed=self.settings.seed
            ),
        }
        return _to_hard_negatives(mined, query_ids, answers)

    def mine_hard_negatives(self, query: str, correct_memory_id: str | int, num_negatives: int = 5) -> list[str]:
        """Return the texts of up to `num_negatives` hard negatives of one query, hardest first.

        Call `use(dataset)` first; `TrainingDataGenerator` does. Other positives that the dataset has for the same query
        text are left out too.

        Raises:
            AceFinetuneError: without a dataset, or if it has no memory with that id.
        """
        if self._dataset is None:
            raise AceFinetuneError("The miner has no corpus to mine from; call use(dataset) first.")
        dataset, identifier = self._dataset, str(correct_memory_id)
        if identifier not in dataset.memories:
            raise DatasetError(f"{dataset.name}: there is no memory {identifier!r}; give the id of an existing memory.")
        same = [i for i, known in dataset.queries.items() if normalise(known.text) == normalise(query)]
        relevant = {dataset.answer_ids[identifier]}.union(*(dataset.relevant(i) for i in same))
        own = next((dataset.own_documents[i] for i in same if i in dataset.own_documents), None)
        single = _single_query(dataset, query, relevant, own)
        negatives = self.mine(single, ["query"], count=num_negatives)["query"]
        return [dataset.memories[negative.memory_id].text for negative in negatives]

    def close(self) -> None:
        """Close connections and release the model."""
        if self.collection is not None:
            self.collection.close()
        self._encoder = None
        self._teacher = None
        self._corpus = None

    def __enter__(self) -> HardNegativeMiner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _load_encoder(self) -> Encoder:
        if self._encoder is None:
            self._encoder = Encoder.load(self.model, settings=self._model_settings)
        return self._encoder

    def _prepare_corpus(self, dataset: RetrievalDataset, encoder: Encoder, progress: Progress | None) -> _Corpus:
        """Encode and index a corpus once; later calls with the same corpus reuse it."""
        if self._corpus is None or self._corpus.memories is not dataset.memories:
            texts = [memory.text for memory in dataset.answers.values()]
            self._corpus = _Corpus(
                memories=dataset.memories,
                texts=texts,
                vectors=encoder.encode(texts, role="document", cache=self._cache, progress=progress),
                bm25=BM25Index.build(texts, statistics=self._statistics) if self.settings.bm25 else None,
            )
        return self._corpus

    def _sources(
        self,
        dataset: RetrievalDataset,
        queries: Sequence[str],
        query_vectors: NDArray[np.float32],
        corpus: _Corpus,
    ) -> list[CandidateSource]:
        """The enabled sources, those in use today first: at equal ranks the earlier source wins."""
        sources: list[CandidateSource] = []
        if self.retriever is not None:
            sources.append(RetrieverSource.over(dataset, self.retriever, queries))
        if self.collection is not None:
            sources.append(CollectionSource.over(self.collection, queries, corpus.texts))
        if self.settings.dense:
            sources.append(DenseSource(query_vectors, corpus.vectors))
        if corpus.bm25 is not None:
            sources.append(LexicalSource(queries, corpus.bm25))
        return sources

    def _rescore(self, queries: Sequence[str], corpus: Sequence[str]) -> Rescore | None:
        if self.settings.teacher is None:
            return None
        if self._teacher is None:
            self._teacher = load_teacher(self.settings.teacher, device=self._model_settings.device)
        teacher = self._teacher
        return lambda query, row: teacher.score(queries, corpus, (query, row), cache=self._cache)


@dataclass(frozen=True)
class _Corpus:
    """A dataset's distinct answers, encoded and indexed; `memories` identifies the dataset."""

    memories: Mapping[str, Memory]
    texts: list[str]
    vectors: NDArray[np.float32]
    bm25: BM25Index | None


def _single_query(dataset: RetrievalDataset, text: str, relevant: set[str], own: str | None) -> RetrievalDataset:
    return RetrievalDataset(
        name=dataset.name,
        memories=dataset.memories,
        queries={"query": Query("query", text)},
        judgements={"query": dict.fromkeys(relevant, 1.0)},
        own_documents={} if own is None else {"query": own},
    )


def _to_hard_negatives(
    mined: MinedNegatives, query_ids: Sequence[str], answers: Sequence[str]
) -> dict[str, tuple[HardNegative, ...]]:
    return {
        query_id: tuple(
            HardNegative(
                memory_id=answers[negative.row],
                source=negative.source,
                score=None if negative.score is None else round(negative.score, 6),
                rank=negative.rank,
            )
            for negative in negatives
        )
        for query_id, negatives in zip(query_ids, mined.negatives, strict=True)
    }
