"""A run serves the legs, weights and fusion of its report, and skips token vectors that cannot be used."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import BASE, QUERIES, small_memories
from llama_index.core.schema import NodeWithScore

from llama_index_ace_finetune.embeddings.finetuned_embedding import FineTunedEmbedding
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.late_interaction.token_store import TokenStore
from llama_index_ace_finetune.pipeline import check_index as check_index_module
from llama_index_ace_finetune.pipeline.check_index import check_index
from llama_index_ace_finetune.pipeline.index import write_index
from llama_index_ace_finetune.ranking.fusion_settings import FusionSettings
from llama_index_ace_finetune.retrievers.finetuned_retrieval import FineTunedRetrieval
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.run_folder import RunFolder, token_folder
from llama_index_ace_finetune.serving import Serving
from llama_index_ace_finetune.stores.build_index import memory_nodes
from llama_index_ace_finetune.utils.atomic import write_json

WEIGHTS = {"dense": 0.4, "bm25": 0.2, "late": 0.4}
RECORD = {
    "vectors": "model",
    "weights": [0.75, 0.25],
    "fusion": {"kind": "convex", "weights": WEIGHTS, "depth": 100},
    "baseline_fusion": {"kind": "convex", "weights": {"dense": 0.3, "bm25": 0.7}, "depth": 100},
}
QUERY = QUERIES["cache"]


@pytest.fixture(scope="module")
def late_run(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose index holds token vectors, as the stage writes it."""
    run = RunFolder(shutil.copytree(finished_run, tmp_path_factory.mktemp("late") / "run"))
    write_json(run.report, {"serving": RECORD})
    models = Encoder.load(run.model), Encoder.load(BASE)
    write_index(small_memories(), tuned=models[0], base=models[1], path=run.index, serving=run.serving(), replace=True)
    return run.path


@pytest.fixture
def copied(late_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(late_run, tmp_path / "run")


def found(hits: list[NodeWithScore]) -> list[tuple[str, float]]:
    return [(hit.node.node_id, round(hit.score, 6)) for hit in hits]


def with_serving(run: Path, **changes: object) -> Path:
    write_json(run / "report.json", {"serving": {**RECORD, **changes}})
    return run


def test_serving_is_read_from_the_report(late_run: Path) -> None:
    assert RunFolder.open(late_run).serving() == Serving(
        "model", (0.75, 0.25), None, FusionSettings(kind="convex", weights=WEIGHTS),
        FusionSettings(kind="convex", weights={"dense": 0.3, "bm25": 0.7}),
    )  # fmt: skip


def test_run_serves_the_fusion_of_its_report(copied: Path) -> None:
    assert check_index(copied) == {
        "folder": str(copied), "memories": 12, "token_vectors": "12 of 12 memories", "sparse_vectors": "not needed",
        "windows": "not needed", "truncated": "none", "problems": [], "advice": [],
    }  # fmt: skip
    retriever = FineTunedHybridRetriever.from_run(copied)
    try:
        hits = retriever.retrieve(QUERY)
        assert set(hits[0].leg_scores) == set(WEIGHTS)
        assert hits[0].skipped_legs == []
        assert retriever.fallbacks == {}
        by_rank = retriever.search(QUERY, fusion="rrf")
        assert retriever.as_retriever(fusion="rrf").settings.weights == (0.75, 0.25)
        assert by_rank[0].rrf_score is not None
        retriever._search.chain._links[0].model = None
        assert {(hit.served_by, *hit.leg_scores) for hit in retriever.retrieve(QUERY)} == {
            ("baseline", "dense", "bm25")
        }
    finally:
        retriever.close()
    with FineTunedRetrieval(copied / "model") as original:
        results = original.search(QUERY, threshold=-1.0, use_hybrid=True)
        assert [(one["id"], round(one["score"], 6)) for one in results] == [
            (hit.node.metadata["source_id"], round(hit.score, 6)) for hit in hits
        ]


def test_written_token_vectors_are_kept(copied: Path) -> None:
    """A memory that was written while the run was served is not encoded again."""
    retriever = FineTunedHybridRetriever.from_run(copied)
    store, late = retriever.store, retriever._search.late
    node = next(store.nodes()).model_copy(update={"id_": "new", "text": "Sharpen the pencils."})
    models = zip(store.named_vectors, retriever._search.chain.models, strict=True)
    store.upsert([node], {name: np.array([model.get_text_embedding(node.text)], np.float32) for name, model in models})
    assert retriever.search("pencils")[0].node.node_id == "new"
    assert len(late.reranker.store) == len(small_memories()) + 1
    retriever.close()
    again = FineTunedHybridRetriever.from_run(copied)
    try:
        assert again.build_token_vectors() == 0
        assert again.search("pencils")[0].skipped_legs == []
    finally:
        again.close()


def test_token_vectors_are_pooled_as_the_run_says(copied: Path) -> None:
    with_serving(copied, token_pooling=3)
    run, memories = RunFolder(copied), small_memories()
    models = Encoder.load(run.model), Encoder.load(BASE)
    before = TokenStore.open(token_folder(run.index)).bytes_per_memory
    write_index(memories, tuned=models[0], base=models[1], path=run.index, serving=run.serving(), replace=True)
    stored = TokenStore.open(token_folder(run.index))
    assert stored.settings.pooling == 3
    assert before / 3 < stored.bytes_per_memory < before / 2
    built = FineTunedHybridRetriever.from_nodes(memory_nodes(memories), model=run.model, baseline=None)
    try:
        assert built._search.late.reranker.store.settings == stored.settings
        assert built.retrieve(QUERY)[0].skipped_legs == []
    finally:
        built.close()
    for wrong in (0, 17):
        with_serving(copied, token_pooling=wrong)
        with pytest.raises(AceFinetuneError, match=f"serving.token_pooling: {wrong}"):
            run.serving()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "There are no token vectors"),
        ("truncated", "codes"),
        ("other dimension", "codes"),
        ("other model", "made by another model"),
        ("meta", "meta.json"),
    ],
)
def test_token_vectors_that_cannot_be_used_are_skipped(copied: Path, damage: str, words: str) -> None:
    folder = token_folder(copied / "index")
    codes = next(folder.glob("segments/*codes*"))
    if damage == "missing":
        shutil.rmtree(folder)
    elif damage == "truncated":
        codes.write_bytes(codes.read_bytes()[:-100])
    elif damage == "meta":
        (folder / "meta.json").write_text("{", "utf-8")
    else:
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        changes = {"other dimension": {"dimension": 95}, "other model": {"fingerprint": "0" * 32}}[damage]
        write_json(folder / "meta.json", {**meta, **changes})
    checked = check_index(copied)
    (problem,) = checked["problems"]
    assert str(folder) in problem
    assert words in problem
    assert checked["token_vectors"] == "cannot be used"
    retriever = FineTunedHybridRetriever.from_run(copied)
    try:
        hits = retriever.retrieve(QUERY)
        assert (hits[0].served_by, hits[0].skipped_legs) == ("finetuned", ["late"])
        assert retriever.fallbacks["late", "missing"] == 1
        assert found(hits) == found(retriever.search(QUERY, leg_weights={"dense": 0.4, "bm25": 0.2}))
    finally:
        retriever.close()


def test_memories_without_token_vectors_are_counted(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = TokenStore.open(token_folder(copied / "index"))
    store.delete(store.tokens.ids[:2])
    found = check_index(copied)
    assert (found["problems"], found["token_vectors"]) == ([], "10 of 12 memories")
    assert "2 of 12 memories" in found["advice"][0]
    assert "the next search encodes them" in found["advice"][0]
    monkeypatch.setattr(check_index_module, "MAX_ENCODED", 1)
    (problem,) = check_index(copied)["problems"]
    assert "call the retriever's `build_token_vectors`" in problem


def test_file_that_shrinks_while_it_is_served_skips_the_leg(copied: Path) -> None:
    retriever = FineTunedHybridRetriever.from_run(copied)
    try:
        assert retriever.retrieve(QUERY)[0].skipped_legs == []
        codes = next(token_folder(copied / "index").glob("segments/*codes*"))
        with codes.open("r+b") as file:
            file.truncate(200)
        assert retriever.retrieve(QUERY)[0].skipped_legs == ["late"]
        assert retriever.fallbacks["late", "error"] == 1
    finally:
        retriever.close()


def test_base_model_that_was_chosen_has_its_own_token_vectors(copied: Path) -> None:
    run = RunFolder(with_serving(copied, vectors="base"))
    base = Encoder.load(BASE)
    write_index(
        small_memories(), tuned=Encoder.load(run.model), base=base, path=run.index, serving=run.serving(), replace=True
    )
    retriever = FineTunedHybridRetriever.from_run(copied)
    try:
        hits = retriever.retrieve(QUERY)
        assert (hits[0].served_by, hits[0].skipped_legs) == ("base", [])
        assert retriever._search.late.reranker.encoder.encoder.fingerprint == FineTunedEmbedding(BASE).fingerprint
    finally:
        retriever.close()


@pytest.mark.parametrize(
    ("fusion", "words"),
    [
        ({"kind": "convex", "weights": {"dense": 0.5, "colbert": 0.5}}, "serving.fusion: .*'colbert' is unknown"),
        ({"kind": "convex", "weights": {"dense": -1}}, "serving.fusion: .*number above 0"),
        ({"kind": "convex", "weights": {}}, "serving.fusion: .*No leg"),
        ({"kind": "convex", "weights": [0.5, 0.5]}, "fusion"),
        ({"kind": "sum", "weights": {"dense": 1}}, "fusion"),
        ({"kind": "rrf", "weights": {"dense": 1, "late": 1}}, "serving.fusion"),
        ({"kind": "convex", "weights": {"dense": 1}, "depth": 0}, "serving.fusion: .*depth"),
        ("convex", "fusion"),
    ],
)  # fmt: skip
def test_corrupt_fusion_is_one_sentence(tmp_path: Path, fusion: object, words: str) -> None:
    run = RunFolder(tmp_path)
    write_json(run.report, {"serving": {**RECORD, "fusion": fusion}})
    with pytest.raises(AceFinetuneError, match=words) as error:
        run.serving()
    assert str(run.report) in str(error.value)


def test_run_of_the_version_before_serves_by_its_weights(run: Path) -> None:
    retriever = FineTunedHybridRetriever.from_run(run)
    try:
        settings = retriever.settings
        assert (settings.fusion, settings.weights, settings.leg_weights) == ("rrf", (0.75, 0.25), None)
        assert retriever.retrieve(QUERY)[0].rrf_score is not None
    finally:
        retriever.close()


def test_run_serves_a_collection_with_token_vectors(late_run: Path, qdrant_url: str) -> None:
    """Built from the run's model, with the weights and the projection of the run."""
    collection = f"late-{uuid.uuid4().hex}"
    place = {"url": qdrant_url, "collection": collection}
    built = FineTunedHybridRetriever.from_nodes(
        memory_nodes(small_memories()), model=late_run / "model", baseline=None, **place
    )
    classic = FineTunedRetrieval(
        late_run / "model", qdrant_url=qdrant_url, collection_name=collection, fallback_to_baseline=False
    )
    own = FineTunedRetrieval(late_run / "model", fallback_to_baseline=False)
    try:
        stored = json.loads((token_folder(late_run / "index") / "meta.json").read_text())
        assert built._search.store.tokens.encoder.fingerprint == stored["fingerprint"]
        hits = built.retrieve(QUERY)
        assert hits[0].skipped_legs == []
        expected = {hit["id"]: hit for hit in own.search(QUERY, use_hybrid=True, threshold=-1.0)}
        served = {hit["id"]: hit for hit in classic.search(QUERY, use_hybrid=True, threshold=-1.0)}
        assert classic._search.late is not None
        assert classic._search.store.tokens is not None
        assert served.keys() == {hit.node.metadata["source_id"] for hit in hits}
        # The server has the token vectors in float16 and the folder in four bits, so that the last hit may differ.
        assert len(served) == len(expected)
        assert len(served.keys() - expected.keys()) <= 1
        for found, others in ((served, expected), (expected, served)):
            least = min(hit["score"] for hit in others.values())
            for name, hit in found.items():
                near = others[name]["score"] if name in others else least
                assert hit["score"] == pytest.approx(near, abs=0.05)
        assert classic._search.fallbacks == own._search.fallbacks == {}
    finally:
        built._search.store.client.delete_collection(collection)
        for each in (built, classic, own):
            each.close()
