from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder, Role
from llama_index_ace_finetune.encoders.token_states import TokenStates
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.evaluation import servable_systems
from llama_index_ace_finetune.evaluation.choosing.candidate import Candidate
from llama_index_ace_finetune.evaluation.choosing.choose import choose
from llama_index_ace_finetune.evaluation.choosing.contributions import contributions
from llama_index_ace_finetune.evaluation.choosing.limits import ServingLimits
from llama_index_ace_finetune.evaluation.choosing.structures import Structure
from llama_index_ace_finetune.evaluation.servable_systems import ServableSystems
from llama_index_ace_finetune.evaluation.systems import EncodedSet, EvaluationSet, bm25_system
from llama_index_ace_finetune.ranking.bm25 import BM25Index

TEXTS = (
    "How to restart the mail server after a failed update",
    "Restarting mail: run the restart command of the mail server",
    "The printer on the third floor is out of toner",
    "Ask the office for toner, paper and a new printer",
    "A password expires after ninety days",
    "Reset an expired password with the self-service page",
    "The build fails if getUserName is not found",
    "get_user_name was renamed in version two",
)


@pytest.fixture(scope="module")
def servable(minilm: Encoder) -> ServableSystems:
    """Every second memory is a question about the one before, so each query is itself a document."""
    dataset = RetrievalDataset(
        name="own",
        memories={f"m{row}": Memory(f"m{row}", text) for row, text in enumerate(TEXTS)},
        queries={f"m{row}": Query(f"m{row}", TEXTS[row]) for row in range(1, 8, 2)},
        judgements={f"m{row}": {f"m{row - 1}": 1.0} for row in range(1, 8, 2)},
    )
    data = replace(EvaluationSet.of(dataset, list(dataset.queries)), own=np.array([1, 3, 5, 7]))
    encoded = {"base": EncodedSet.of(data, minilm)}
    return ServableSystems.of(data, {"base": minilm}, encoded)


def test_own_document_is_left_out_of_every_leg(servable: ServableSystems) -> None:
    legs = servable.legs["base"]
    assert legs.available == ("dense", "bm25", "bm25_unstemmed", "char_ngrams", "late")
    table = legs.table(legs.available, slice(None))
    assert servable.data.own is not None
    for query, own in enumerate(servable.data.own):
        assert own not in table.rows[query]
    # The best remaining document of each leg is 1 after normalisation, not the query itself.
    for leg in range(4):
        alone = [float(leg == other) for other in range(5)]
        assert table.sums(alone).max(axis=1) == pytest.approx(1.0)


def test_selected_system_ranks_test_as_it_was_measured_on_dev(servable: ServableSystems) -> None:
    found = servable.compare(slice(None), latency={}, timed_queries=4)
    assert found.notes == ()
    for candidate in found.candidates:
        structure = candidate.structure
        assert candidate.milliseconds is not None
        assert candidate.milliseconds > 0
        assert candidate.bytes_per_memory is not None
        if structure.kind == "convex" and "late" in structure.legs:
            row = structure.neutral_row
            system = servable.system(structure, row, name="x", trained=False)
            firsts = [
                list(ranked).index(rows[0])
                for ranked, rows in zip(system.rankings, servable.data.relevant, strict=True)
            ]
            assert candidate.values[row] == pytest.approx([1 / (1 + first) for first in firsts])
    stored = servable.legs["base"].bytes_per_memory()
    assert stored["dense"] == 4 * 384
    assert all(stored[leg] > 0 for leg in servable.legs["base"].available)
    late = next(one for one in found.candidates if one.structure.legs == ("dense", "late"))
    assert late.bytes_per_memory == stored["dense"] + stored["late"]
    # With four queries the default is served: late interaction over the hits of the model.
    assert found.choice.candidate.structure.legs[:1] == ("dense",)
    assert "late" in found.choice.settings.weights
    assert "late" not in found.fallback_choice.settings.weights


def test_token_vectors_are_pooled_to_stay_within_the_limit(servable: ServableSystems, minilm: Encoder) -> None:
    whole = servable.legs["base"].bytes_per_memory()
    assert servable.token_pooling == {"base": 1}
    encoded = {"base": servable.legs["base"].dense}

    def within(late: float) -> ServableSystems:
        limits = ServingLimits(bytes_per_memory=whole["dense"] + late)
        return ServableSystems.of(servable.data, {"base": minilm}, encoded, limits=limits)

    for limit, pooling in ((whole["late"], 1), (0.7 * whole["late"], 2), (0.5 * whole["late"], 3)):
        made = within(limit)
        assert made.token_pooling == {"base": pooling}
        assert made.legs["base"].bytes_per_memory()["late"] <= limit
    # Where no pooling is enough, token vectors are as without a limit, and the limit leaves them out.
    assert within(0.1 * whole["late"]).token_pooling == {"base": 1}


def test_other_weights_are_pooled_alike(servable: ServableSystems, minilm: Encoder) -> None:
    whole = servable.legs["base"].bytes_per_memory()
    encoded = dict.fromkeys(("base", "tuned"), servable.legs["base"].dense)
    limits = ServingLimits(bytes_per_memory=whole["dense"] + 0.7 * whole["late"])
    other = Encoder(minilm.model, name="tuned", fingerprint="tuned", settings=minilm.settings)
    made = ServableSystems.of(servable.data, {"base": minilm, "tuned": other}, encoded, limits=limits)
    again = made.with_tuned(other, encoded["tuned"])
    assert again.token_pooling == made.token_pooling == {"base": 2, "tuned": 2}
    assert again.legs["tuned"].bytes_per_memory() == made.legs["tuned"].bytes_per_memory()


def test_copies_of_a_text_count_as_in_the_store() -> None:
    """The evaluation has a row per distinct text, and the BM25 statistics of all memories."""
    texts = {"b": "sky over the sea", "a": "red tree", "c": "Red  tree", "d": "red"}
    dataset = RetrievalDataset(
        name="copies",
        memories={name: Memory(name, text) for name, text in texts.items()},
        queries={"q": Query("q", "red")},
        judgements={"q": {"c": 1.0}},
    )
    data = EvaluationSet.of(dataset, ["q"])
    assert data.corpus_ids == ("a", "b", "d")
    assert data.copies is not None
    assert data.copies.rows.tolist() == [0, 1, 0, 2]
    assert data.stored == ["red tree", "sky over the sea", "red tree", "red"]
    system = bm25_system(data)
    assert system.rankings[0, :3].tolist() == [2, 0, -1]
    expected = BM25Index.build(["red tree", "sky over the sea", "red tree", "red"]).scores("red")
    assert system.scores is not None
    assert system.scores[0, :2] == pytest.approx([expected[3], expected[0]], rel=1e-6)
    distinct = replace(dataset, memories={name: dataset.memories[name] for name in "abd"}, judgements={"q": {"a": 1.0}})
    assert EvaluationSet.of(distinct, ["q"]).copies is None


def test_without_late_interaction_it_is_no_candidate(servable: ServableSystems, minilm: Encoder) -> None:
    encoded = {"base": servable.legs["base"].dense}
    made = ServableSystems.of(servable.data, {"base": minilm}, encoded, late_interaction=False)
    assert "late" not in made.legs["base"].available
    found = made.compare(slice(0, 0), latency={})
    assert found.choice.candidate.structure.name == "base"
    assert found.choice.values.shape == (0,)
    with pytest.raises(AceFinetuneError, match="The leg 'late' was not evaluated"):
        made.legs["base"].table(["dense", "late"], slice(None))


class NoTokens(Encoder):
    """A model without token states, such as one of static vectors."""

    def encode_tokens(self, texts: Sequence[str], *, role: Role) -> TokenStates:
        raise ModelError("The model 'x' has no token states; use it without late interaction.")


def test_model_without_token_states_has_no_late_interaction(servable: ServableSystems, minilm: Encoder) -> None:
    other = NoTokens(minilm.model, name="x", fingerprint="x", settings=minilm.settings)
    encoded = {"base": servable.legs["base"].dense, "tuned": servable.legs["base"].dense}
    made = ServableSystems.of(servable.data, {"base": minilm, "tuned": other}, encoded)
    assert "late" in made.legs["base"].available
    assert "late" not in made.legs["tuned"].available
    assert made.legs["tuned"].available[:2] == ("dense", "base")
    assert made.notes == (
        "Late interaction of the tuned model was left out: The model 'x' has no token states; use it without late "
        "interaction.",
    )


def test_at_most_two_thousand_dev_queries_are_compared_on(
    servable: ServableSystems, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servable_systems, "_MAX_DEV", 3)
    found = servable.compare(slice(1, None), latency={})
    assert {one.values.shape[1] for one in found.candidates} == {3}
    monkeypatch.setattr(servable_systems, "_MAX_DEV", 2)
    found = servable.compare(slice(1, None), latency={})
    assert {one.values.shape[1] for one in found.candidates} == {2}


DENSE = Structure("base", "convex", ("dense",), ((1.0,),), (1.0,))
TUNED = Structure("tuned", "convex", ("dense",), ((1.0,),), (1.0,))
LATE = Structure("tuned", "convex", ("dense", "late"), ((0.5, 0.5),), (0.5, 0.5))


def priced(structure: Structure, value: float, milliseconds: float | None, stored: float) -> Candidate:
    return Candidate(structure, np.full((1, 50), value), milliseconds, stored)


def test_limits_bound_the_candidates() -> None:
    made = [priced(DENSE, 0.4, 5.0, 1500), priced(TUNED, 0.5, 6.0, 1500), priced(LATE, 0.6, 12.0, 5000)]
    assert ServingLimits().apply(made) == (made, "")
    assert ServingLimits(query_ms=6).apply(made) == (made[:2], "")
    assert ServingLimits(bytes_per_memory=4000, query_ms=100).apply(made) == (made[:2], "")
    kept, note = ServingLimits(query_ms=1, bytes_per_memory=9000).apply(made)
    assert kept == made[:1]
    assert note == (
        "No system is within 1 ms per query and 9000 bytes per memory; the nearest is served, base, with 5.0 ms per "
        "query and 1500 bytes per memory. Raise the limits, or use a smaller base model."
    )
    # A time that was not measured is within every limit.
    assert ServingLimits(query_ms=1).apply([priced(DENSE, 0.4, None, 1)])[1] == ""


@pytest.mark.parametrize("value", [0.0, -1.0, float("inf"), float("nan")])
def test_invalid_limits_are_refused(value: float) -> None:
    with pytest.raises(AceFinetuneError, match=r"The limit query-ms is .*; set it to a number above 0"):
        ServingLimits(query_ms=value)
    with pytest.raises(AceFinetuneError, match="The limit bytes-per-memory is"):
        ServingLimits(bytes_per_memory=value)


def test_contributions_are_those_without_a_part() -> None:
    made = [priced(DENSE, 0.4, 5.0, 1500), priced(TUNED, 0.5, 6.0, 1500), priced(LATE, 0.6, 12.0, 5000)]
    # The system with late interaction of the base was not compared, so what tuning adds is unknown.
    assert contributions(made, choose(made)) == pytest.approx({"late interaction": 0.1})
    assert contributions(made[:2], choose(made[:2])) == pytest.approx({"tuning": 0.1})
    assert contributions(made[:1], choose(made[:1])) == {}


class _Words:
    """A sparse encoder of word counts, by the words of the texts."""

    def __init__(self) -> None:
        self.known = sorted({word for text in TEXTS for word in text.lower().split()})
        self.dimension = len(self.known)

    def encode_queries(self, texts: Sequence[str]) -> csr_array:
        return csr_array([[float(text.lower().split().count(word)) for word in self.known] for text in texts])

    encode_documents = encode_queries


def test_a_sparse_encoder_is_a_leg(servable: ServableSystems, minilm: Encoder) -> None:
    sparse = _Words()
    made = ServableSystems.of(
        servable.data, {"base": minilm}, {"base": servable.legs["base"].dense}, late_interaction=False, sparse=sparse
    )
    legs = made.legs["base"]
    assert legs.available == ("dense", "bm25", "bm25_unstemmed", "char_ngrams", "sparse")
    products = (sparse.encode_queries(servable.data.queries) @ sparse.encode_documents(TEXTS).T).toarray()
    table = legs.table(("sparse",), slice(None))
    for query, (rows, scores) in enumerate(zip(table.rows, table.scores[0], strict=True)):
        there = rows < len(TEXTS)
        assert scores[there].tolist() == products[query, rows[there]].tolist()
    assert table.found.any()
    found = made.compare(slice(None), latency={}, timed_queries=4)
    with_sparse = [one for one in found.candidates if "sparse" in one.structure.legs]
    assert {one.structure.name for one in with_sparse} == {
        "base + sparse encoder, convex",
        "base + BM25 + sparse encoder, convex",
    }
    assert all(one.milliseconds and one.bytes_per_memory for one in with_sparse)
    assert not any("sparse" in one.structure.legs for one in servable.compare(slice(None), latency={}).candidates)
