"""Train a query encoder over fixed document vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import TrainingError
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.examples import IndexedExamples
from llama_index_ace_finetune.training.data.query_weights import query_weights
from llama_index_ace_finetune.training.data.token_cache import TokenCache
from llama_index_ace_finetune.training.loop.budget import EvaluationCost
from llama_index_ace_finetune.training.loop.callback import DevEvaluationCallback
from llama_index_ace_finetune.training.loop.fit import OnPlan, fit
from llama_index_ace_finetune.training.losses.embed_batch import ChunkLimits, embed
from llama_index_ace_finetune.training.losses.full_corpus import (
    full_corpus_loss,
    nearest_part,
    nearest_rows,
    pad_rows,
    places_in,
)
from llama_index_ace_finetune.training.model_selection.dev_set import DevScores, DevSet, encoding_seconds


@dataclass(frozen=True, kw_only=True)
class QueryEncoderSettings:
    """How `train_query_encoder` trains.

    Attributes:
        epochs: passes over the training queries, at most.
        budget_minutes: of training and dev evaluations; if the epochs would take longer, fewer steps are planned. None
            trains all epochs.
        batch_size: queries per step.
        learning_rate: peak of the schedule (linear warm-up, linear decay).
        warmup_steps: steps of warm-up, at most a tenth of all steps.
        temperature: divisor of the cosines in the softmax.
        whole_corpus: largest corpus whose documents are all candidates in each step. In a larger one the candidates are
            the nearest documents and the positives of the queries of the batch (see `nearest_part`).
        nearest: documents that each query adds to that part.
        max_seq_length: tokens per query of a step; None leaves the model's own limit.
        seed: random seed.
        synthetic_weight: of synthetic queries in the loss, beside queries of users, which have weight 1.
    """

    epochs: int = 4
    budget_minutes: float | None = 2.0
    batch_size: int = 64
    learning_rate: float = 1e-4
    warmup_steps: int = 100
    temperature: float = 0.03
    whole_corpus: int = 50_000
    nearest: int = 64
    max_seq_length: int | None = 256
    seed: int = 0
    synthetic_weight: float = 0.5

    def __post_init__(self) -> None:
        # Validates what the trainer takes.
        _ = self.training_config
        for name, least in (("whole_corpus", 0), ("nearest", 1)):
            if getattr(self, name) < least:
                raise TrainingError(
                    f"The query encoder setting {name} is {getattr(self, name)!r}; it must be {least} or more."
                )

    @property
    def training_config(self) -> TrainingConfig:
        """The same choices as the trainer takes them."""
        return TrainingConfig(
            epochs=self.epochs,
            budget_minutes=self.budget_minutes,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
            temperature=self.temperature,
            max_seq_length=self.max_seq_length,
            seed=self.seed,
            synthetic_weight=self.synthetic_weight,
        )


def train_query_encoder(
    encoder: Encoder,
    examples: IndexedExamples,
    document_vectors: NDArray[np.float32],
    *,
    settings: QueryEncoderSettings | None = None,
    matrix: NDArray[np.float32] | None = None,
    callbacks: Sequence[DevEvaluationCallback] = (),
    evaluation_cost: EvaluationCost | None = None,
    on_plan: OnPlan | None = None,
    checkpoints: Path | None = None,
) -> tuple[int, float]:
    """Train the weights of `encoder.model` in place, so that queries are close to their positives among fixed vectors.

    Softmax cross-entropy over the corpus (`full_corpus_loss`), in the sentence-transformers trainer.

    Args:
        encoder: its model becomes the query encoder; documents have to be encoded by another.
        examples: the training queries; their mined negatives are not needed.
        document_vectors: float32 [m, d], unit rows, one per text of `examples.corpus`.
        settings: of the training.
        matrix: float32 [d, d] on the encoder's output, as `fit_query_adapter` gives it; it is not trained.
        callbacks: of the training.
        evaluation_cost: see `fit`.
        on_plan: called with the planned steps before the first.
        checkpoints: see `fit`.

    Returns:
        Steps and epochs done.

    Raises:
        ValueError: if there is not one vector per document.
    """
    settings = settings or QueryEncoderSettings()
    model = encoder.model
    if len(document_vectors) != len(examples.corpus):
        raise ValueError(f"there are {len(document_vectors)} vectors of {len(examples.corpus)} documents")
    near = None
    if len(examples.corpus) > settings.whole_corpus:
        queries = apply_adapter(encoder.encode_queries(examples.queries), matrix)
        near = nearest_rows(torch.from_numpy(queries), torch.from_numpy(document_vectors), settings.nearest)
    weights = query_weights(examples, settings.synthetic_weight)
    loss = QueryEncoderLoss(
        model,
        document_vectors,
        pad_rows(examples.relevant),
        near=near,
        matrix=matrix,
        temperature=settings.temperature,
        packed=encoder.packs(examples.queries, "query"),
        own_rows=None if examples.own is None else torch.from_numpy(examples.own),
        weights=None if weights is None else torch.from_numpy(weights),
    )
    tokens = TokenCache(model, max_tokens=settings.max_seq_length)
    fitted = fit(
        encoder,
        loss=loss,
        collator=lambda: QueryCollator(tokens, examples, model.prompts.get("query") or ""),
        query_ids=examples.query_ids,
        config=settings.training_config,
        minutes=settings.budget_minutes,
        callbacks=callbacks,
        evaluation_cost=evaluation_cost,
        on_plan=on_plan,
        checkpoints=checkpoints,
    )
    return fitted.steps, fitted.epochs


@dataclass
class QueryCollator:
    """Turn example numbers into the query feature block; the numbers themselves are the labels.

    Attributes:
        preprocess: `preprocess(texts, prompt=..., task=...)` as of the model.
        examples: what the numbers mean.
        query_prompt: text in front of every query.
        epoch: unused, since every epoch holds each query once.
        batch: unused likewise.
        valid_label_columns: read by the trainer.
    """

    preprocess: Callable[..., dict[str, Any]]
    examples: IndexedExamples
    query_prompt: str
    epoch: int = 0
    batch: int = 0
    valid_label_columns: list[str] = field(default_factory=list)

    def __call__(self, rows: list[dict[str, int]]) -> dict[str, Any]:
        """Build the batch for dataset rows of the form {"example": number}."""
        numbers = [row["example"] for row in rows]
        texts = [self.examples.queries[number] for number in numbers]
        features = self.preprocess(texts, prompt=self.query_prompt or None, task="query")
        batch = {f"query_{name}": value for name, value in features.items()}
        return {**batch, "label": torch.tensor(numbers), "example": torch.tensor(numbers), "return_loss": True}


class QueryEncoderLoss(nn.Module):
    """`full_corpus_loss` of the queries of a batch; the labels are example numbers.

    Args:
        model: the query encoder.
        document_vectors: float32 [m, d], unit rows.
        positive_rows: int64 [examples, p], padded.
        near: int64 [examples, k], the nearest documents of each example; None compares with the whole corpus.
        matrix: float32 [d, d] on the encoder's output; None for none.
        temperature: divisor of the cosines.
        packed: see `embed`.
        own_rows: int64 [examples], the document that the query itself is; None where no query is one.
        weights: of the examples, float32 [examples]; None if they are equal.
    """

    documents: Tensor
    positive_rows: Tensor
    near: Tensor | None
    matrix: Tensor | None
    own_rows: Tensor | None
    weights: Tensor | None

    def __init__(
        self,
        model: nn.Module,
        document_vectors: NDArray[np.float32],
        positive_rows: Tensor,
        *,
        near: Tensor | None,
        matrix: NDArray[np.float32] | None,
        temperature: float,
        packed: bool,
        own_rows: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.packed = packed
        self.memory = ChunkLimits()
        held = None if matrix is None else torch.from_numpy(matrix)
        buffers = {"documents": torch.from_numpy(document_vectors), "positive_rows": positive_rows}
        rest = {"near": near, "matrix": held, "own_rows": own_rows, "weights": weights}
        for name, value in {**buffers, **rest}.items():
            # Not part of what a checkpoint holds: the corpus can be larger than the model.
            self.register_buffer(name, value, persistent=False)

    def forward(self, features: list[dict[str, Tensor]], labels: Tensor) -> Tensor:
        """Embed the first block and compare it with the documents."""
        queries = embed(self.model, features[0], packed=self.packed, memory=self.memory)
        if self.matrix is not None:
            # As at serving: in float32, also where the encoder is trained in bfloat16.
            with torch.autocast(queries.device.type, enabled=False):
                queries = nn.functional.normalize(queries @ self.matrix.T)
        documents, rows = self.documents, self.positive_rows[labels]
        own = None if self.own_rows is None else self.own_rows[labels]
        if self.near is not None:
            part, rows = nearest_part(self.near[labels], rows)
            documents = documents[part]
            own = None if own is None else places_in(part, own)
        weights = None if self.weights is None else self.weights[labels]
        return full_corpus_loss(queries, documents, rows, temperature=self.temperature, own_rows=own, weights=weights)


@dataclass(frozen=True)
class FixedDocumentsDevSet(DevSet):
    """Dev queries ranked over document vectors that do not change.

    Attributes:
        document_vectors: float32 [m, d], one per text of `examples.corpus`.
        matrix: float32 [d, d] on the encoder's query vectors; None for none.
    """

    document_vectors: NDArray[np.float32] = field(default_factory=lambda: np.empty((0, 0), np.float32))
    matrix: NDArray[np.float32] | None = None

    def score(self, encoder: Encoder) -> DevScores:
        """Rank the corpus for every dev query with `encoder` as the query encoder."""
        queries = apply_adapter(encoder.encode_queries(self.examples.queries), self.matrix)
        return self.rank(queries, self.document_vectors)

    def score_seconds(self, encoder: Encoder) -> float:
        """Return an estimate of the seconds that `score` takes."""
        return encoding_seconds(encoder.encode_queries, self.examples.queries)


def apply_adapter(queries: NDArray[np.float32], matrix: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Return normalize(matrix @ q) for each row q of `queries` [n, d]; without a matrix, `queries`."""
    if matrix is None:
        return queries
    return unit_rows(queries @ matrix.T)
