"""The words of a report, for readers who do not know them."""

from __future__ import annotations

from llama_index_ace_finetune.evaluation.stats.paired import SIGNIFICANT

GLOSSARY: tuple[tuple[str, str, str], ...] = (
    (
        "test-query",
        "Test query",
        "A held-out query with known relevant documents: nothing was trained or selected on it.",
    ),
    (
        "dev-query",
        "Dev query",
        "A query on which systems, weights and checkpoints are selected, and which is not tested on.",
    ),
    (
        "relevant",
        "Relevant document",
        "A document (a memory) that the labels of the data name as an answer to the query.",
    ),
    ("base", "base", "The embedding model before fine-tuning."),
    ("tuned", "tuned", "The embedding model that training selected; the base model itself if training did not help."),
    ("bm25", "BM25", "Search by words, without an embedding model."),
    (
        "hybrid",
        "base + BM25, tuned + BM25",
        "Both rankings fused. The two figures are the weights of the embedding model and of BM25. Dev weights were "
        "selected on dev queries; convex adds scores, the others add reciprocal ranks (RRF).",
    ),
    (
        "success",
        "Success@k",
        "Fraction of queries with a relevant document among the first k. Some texts call it Recall@k.",
    ),
    (
        "mrr",
        "MRR@10",
        "Mean of 1 / rank of the first relevant document: 1 if it is always first, 0.5 if always second, 0 beyond rank "
        "10. Every selection and the verdict use it.",
    ),
    (
        "ndcg",
        "nDCG@10",
        "Like MRR@10, for all relevant documents of a query: the lower their ranks, the less they count.",
    ),
    (
        "interval",
        "95% interval",
        "Range of the difference that chance in the choice of test queries leaves open. If it contains 0, no "
        "difference has been shown. Queries with the same relevant document are resampled together.",
    ),
    (
        "p",
        "p, p (Holm)",
        "Probability of a difference at least this large if the two systems were equally good (permutation test). p "
        "(Holm) is adjusted for the number of systems.",
    ),
    ("significant", "Significant, green and red", f"{SIGNIFICANT} Such a gain is green, such a loss red."),
    ("verdict-term", "Verdict", "Which system to serve, by a rule that is fixed before the evaluation."),
)
"""Anchor, term and meaning."""
