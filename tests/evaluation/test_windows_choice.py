"""Windows of long texts are compared on dev where a text is truncated, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.short_model import short_model

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import choose, choose_on_few
from llama_index_ace_finetune.evaluation.choosing.contributions import contributions
from llama_index_ace_finetune.evaluation.choosing.structures import structures, with_windows
from llama_index_ace_finetune.evaluation.decision.selection import selection_of
from llama_index_ace_finetune.evaluation.decision.verdict import reach_verdict
from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
from llama_index_ace_finetune.evaluation.report.choice import describe_choice
from llama_index_ace_finetune.evaluation.result import Evaluation

FILLER = "The meeting was held as planned and everybody signed the list before lunch in the hall."
THINGS = ["whale", "violin", "granite", "yeast", "tax", "comet", "harbour", "lantern", "beetle", "glacier"]
DEEDS = ["sleeps", "breaks", "is sold", "grows", "is painted", "is counted"]


def test_windows_are_an_option_of_dense_legs_that_are_fused_by_score() -> None:
    made = structures(("bm25",), embeddings=("base",))
    (dense, hybrid) = with_windows(made)
    assert (dense.name, hybrid.name) == ("base (windows)", "base (windows) + BM25, convex")
    plain = next(one for one in made if one.name == "base")
    assert dense.cost > plain.cost
    cut, whole = [0.5] * 50, [1.0] * 20 + [0.5] * 30
    candidates = [Candidate(plain, np.array([cut])), Candidate(dense, np.array([whole]))]
    chosen = choose(candidates)
    assert chosen.candidate.structure == dense
    assert contributions(candidates, chosen) == {"windows": 0.2}
    # One query of fifty gains .5: .01 +- .01, which is not more than one standard error.
    near = choose([candidates[0], Candidate(dense, np.array([[1.0, *cut[1:]]]))])
    assert near.candidate.structure == plain
    assert choose_on_few(candidates).candidate.structure == plain


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Sixty memories, each with its fact beyond the limit of 32 tokens, and a query about each fact."""
    pairs = [(thing, deed) for thing in THINGS for deed in DEEDS]
    facts = [f"In the {thing} report, it says who {deed} first" for thing, deed in pairs]
    memories = {f"m{n:02}": Memory(f"m{n:02}", f"{FILLER} {FILLER} {fact}.") for n, fact in enumerate(facts)}
    queries = {
        f"q{n:02}": Query(f"q{n:02}", f"who {deed} by the {thing} report?") for n, (thing, deed) in enumerate(pairs)
    }
    dataset = RetrievalDataset("facts", memories, queries, {f"q{n:02}": {f"m{n:02}": 1.0} for n in range(60)})
    encoder = Encoder.load(short_model(tmp_path_factory.mktemp("short") / "model"))
    ids = sorted(queries)
    return evaluate_systems(
        dataset, test=ids[:12], dev=ids[12:], base=encoder, tuned=encoder, timed_queries=2, late_interaction=False
    )


@pytest.mark.slow
def test_dev_chooses_windows_where_facts_are_beyond_the_limit(compared: Evaluation) -> None:
    means = compared.choice.means
    assert means["base (windows)"] > means["base"] + 0.2
    dense = {one.structure.windows: one for one in compared.candidates if one.structure.legs == ("dense",)}
    assert dense[True].bytes_per_memory > dense[False].bytes_per_memory
    assert not compared.fallback_choice.candidate.structure.windows
    assert "base" in {system.name for system in compared.systems}
    described = describe_choice(compared, compared.choice)
    assert described is not None
    found = described["windows"]
    assert (found["truncated"], found["memories"], found["tokens"]) == (60, 60, 30)
    assert found["with"] == pytest.approx(means["base (windows)"], abs=1e-6)
    assert found["used"] == compared.choice.candidate.structure.windows
    verdict = reach_verdict(compared, None)
    assert verdict.serving.get("windows", False) == verdict.system.windows
    chosen = selection_of(compared, compared.choice)
    assert ("windows of long texts" in str(chosen)) == chosen.windows
    assert compared.system(compared.choice.system_name).rankings.shape[0] == 12


@pytest.mark.slow
def test_nothing_is_compared_where_no_text_is_truncated(compared: Evaluation, minilm: Encoder) -> None:
    memories = {"a": Memory("a", "one text"), "b": Memory("b", "another")}
    queries = {"q": Query("q", "one")}
    found = evaluate_systems(
        RetrievalDataset("short", memories, queries, {"q": {"a": 1.0}}), test=["q"], dev=["q"], base=minilm,
        tuned=minilm, timed_queries=0, late_interaction=False,
    )  # fmt: skip
    assert not any(one.structure.windows for one in found.candidates)
    described = describe_choice(found, found.choice)
    assert described is not None
    assert described["windows"] is None
