"""The time of a query with late interaction: encoded by OpenVINO, dense retrieval and BM25, the hits re-ranked."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from findings import Findings
from llama_index.core.schema import TextNode
from made_up_vectors import DIMENSION, batches
from serving import SHIPPED, export_base, median_ms
from tokenizers import Tokenizer

from llama_index_ace_finetune import FineTunedEmbedding, FineTunedHybridRetriever
from llama_index_ace_finetune.late_interaction.settings import TokenSettings
from llama_index_ace_finetune.late_interaction.token_encoder import TokenEncoder
from llama_index_ace_finetune.late_interaction.token_reranker import TokenReranker
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.late_interaction.token_vectors import TokenVectors
from llama_index_ace_finetune.ranking.dense import unit_rows
from llama_index_ace_finetune.stores.memory_store import FINETUNED, MemoryStore
from llama_index_ace_finetune.stores.qdrant.collections import NamedVector
from llama_index_ace_finetune.utils.text_key import text_key

WORDS, DISTINCT_TOKENS, QUERY_TOKENS, QUERIES = 100, 75, 10, 100
DENSE, WITH_TOKENS = "dense + BM25", "dense + BM25 + late interaction"
MAX_MS = {10_000: 12.0, 100_000: 25.0}
_AT_ONCE = 1000


def measure_served(sizes: tuple[int, ...], findings: Findings) -> None:
    """Measure a hybrid query with and without re-ranking, by the number of memories."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        model = export_base(Path(folder), ((SHIPPED, False),))[SHIPPED]
        for size in sizes:
            p50 = query_times(model, Path(folder) / f"tokens-{size}", size)
            rows += [f"| {size:,} | {name} | {value:.1f} |" for name, value in p50.items()]
            whole = p50[WITH_TOKENS]
            findings.ask(f"a query among {size:,}, p50 {whole:.1f} ms (asked {MAX_MS[size]:.0f})", whole < MAX_MS[size])
    header = "| memories | system | p50, ms |"
    findings.section(f"A query, encoded by {SHIPPED}, memories of {WORDS} words", header, rows)


def query_times(model: Path, folder: Path, size: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    embedding = FineTunedEmbedding(str(model), query_cache_size=0)
    embedding.warm_up()
    # Words that are one token each, as common as in a language: the n-th has a probability of about 1 / n.
    tokens = Tokenizer.from_file(str(model / "tokenizer.json")).get_vocab()
    words = np.array(sorted(word for word in tokens if re.fullmatch("[a-z]{3,}", word)))
    share = 1 / (rng.permutation(len(words)) + 10)
    drawn = rng.choice(words, (size, WORDS), p=share / share.sum())
    texts = [" ".join(row) for row in drawn]
    queries = [" ".join(rng.choice(row, QUERY_TOKENS)) for row in drawn[rng.integers(0, size, QUERIES)]]
    store = MemoryStore.create({FINETUNED: NamedVector(DIMENSION, embedding.fingerprint)})
    start = 0
    for vectors in batches("grouped", size):
        numbers = range(start, start + len(vectors))
        nodes = [TextNode(id_=f"{number:08d}", text=texts[number]) for number in numbers]
        store.upsert(nodes, {FINETUNED: vectors})
        start += len(vectors)
    reranker = made_up_tokens(embedding, [text_key(text) for text in texts], folder, rng)

    def retriever(weights: dict[Any, float]) -> FineTunedHybridRetriever:
        return FineTunedHybridRetriever(
            store, embed_model=embedding, reranker=reranker, fallback="off", fusion="convex", leg_weights=weights
        )

    found = {
        DENSE: retriever({"dense": 0.5, "bm25": 0.5}),
        WITH_TOKENS: retriever({"dense": 0.4, "bm25": 0.3, "late": 0.3}),
    }
    if found[WITH_TOKENS].search(queries[0])[0].skipped_legs:
        raise SystemExit("late interaction was skipped, so that nothing was measured")
    p50 = median_ms({name: one.retrieve for name, one in found.items()}, queries)
    store.close()
    return p50


def made_up_tokens(embedding: FineTunedEmbedding, keys: list[str], folder: Path, rng: Any) -> TokenReranker:
    """Token vectors of the default form; a thousand memories share each, which costs the same."""
    settings = TokenSettings()
    dimension = settings.dimension or DIMENSION
    projection = rng.standard_normal((DIMENSION, dimension)).astype(np.float32)
    encoder = TokenEncoder(embedding.encoder, projection)
    store = TokenStore(dimension, encoder.fingerprint, settings=settings, projection=projection)
    vectors = unit_rows(rng.standard_normal((_AT_ONCE * DISTINCT_TOKENS, dimension), dtype=np.float32))
    tokens = TokenVectors(vectors, np.arange(_AT_ONCE + 1, dtype=np.int64) * DISTINCT_TOKENS)
    for start in range(0, len(keys), _AT_ONCE):
        store.upsert(keys[start : start + _AT_ONCE], tokens)
    return TokenReranker(encoder, store.save(folder))
