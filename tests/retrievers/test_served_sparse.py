"""A run whose chosen system has a sparse encoder: opened, kept in step with the store, and skipped if it cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.serving_files import QUERIES, TEXTS, small_memories
from helpers.small_stores import node
from helpers.tiny_sparse import make_sparse_encoder

from llama_index_ace_finetune.encoders import stored_vectors
from llama_index_ace_finetune.encoders.sparse_encoder import SparseTextEncoder
from llama_index_ace_finetune.encoders.stored_sparse_vectors import StoredSparseVectors
from llama_index_ace_finetune.errors import AceFinetuneError, StoreError
from llama_index_ace_finetune.pipeline.check_index import check_index
from llama_index_ace_finetune.retrievers.finetuned_retrieval import FineTunedRetrieval
from llama_index_ace_finetune.retrievers.hybrid_retriever import FineTunedHybridRetriever
from llama_index_ace_finetune.retrievers.open_sparse import open_sparse_vectors
from llama_index_ace_finetune.retrievers.retriever_options import serving_options
from llama_index_ace_finetune.run_folder import RunFolder, sparse_folder
from llama_index_ace_finetune.serving import SparseEncoderRecord
from llama_index_ace_finetune.stores.build_index import memory_nodes
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.text_key import text_key

WEIGHTS = {"dense": 0.4, "bm25": 0.2, "sparse": 0.4}
QUERY = QUERIES["cache"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SparseTextEncoder:
    return SparseTextEncoder.load(make_sparse_encoder(tmp_path_factory.mktemp("sparse")), device="cpu")


@pytest.fixture(scope="module")
def sparse_run(finished_run: Path, encoder: SparseTextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a sparse encoder in its serving record, and its vectors in the index."""
    run = RunFolder(shutil.copytree(finished_run, tmp_path_factory.mktemp("sparse_run") / "run"))
    with_record(run, {"name": encoder.name, "fingerprint": encoder.fingerprint})
    vectors = StoredSparseVectors(encoder)
    vectors.add(TEXTS.values())
    vectors.save(sparse_folder(run.index))
    return run.path


def with_record(run: RunFolder, record: object) -> None:
    fusion = {"kind": "convex", "weights": WEIGHTS, "depth": 100}
    write_json(
        run.report,
        {"serving": {"vectors": "model", "weights": [0.5, 0.5], "fusion": fusion, "sparse_encoder": record}},
    )


@pytest.fixture
def copied(sparse_run: Path, tmp_path: Path) -> RunFolder:
    return RunFolder(shutil.copytree(sparse_run, tmp_path / "run"))


def test_record_is_read(sparse_run: Path, encoder: SparseTextEncoder) -> None:
    record = SparseEncoderRecord(encoder.name, encoder.fingerprint)
    assert RunFolder.open(sparse_run).serving().sparse_encoder == record


@pytest.mark.parametrize("record", ["splade", {"name": "splade"}, {"name": 1, "fingerprint": "0"}])
def test_corrupt_record_is_one_sentence(tmp_path: Path, record: object) -> None:
    run = RunFolder(tmp_path)
    with_record(run, record)
    with pytest.raises(AceFinetuneError, match="sparse_encoder") as error:
        run.serving()
    assert str(run.report) in str(error.value)


def test_run_serves_it_and_stores_what_is_written(copied: RunFolder, encoder: SparseTextEncoder) -> None:
    retriever = FineTunedHybridRetriever.from_run(copied.path)
    hits = retriever.retrieve(QUERY)
    assert set(hits[0].leg_scores) == set(WEIGHTS)
    assert hits[0].skipped_legs == []
    assert retriever.fallbacks == {}
    store, text, best = retriever.store, "restart the cache after a deploy", hits[0].node
    models = zip(store.named_vectors, retriever._search.chain.models, strict=True)
    rows = {name: np.array([model.get_text_embedding(text)], np.float32) for name, model in models}
    new = node("new", text)
    store.upsert([new], rows)
    store.delete([best.node_id])
    found = {hit.node.node_id: hit for hit in retriever.search("restart the cache", similarity_top_k=20)}
    assert best.node_id not in found
    assert "sparse" in found[new.node_id].leg_scores
    retriever.close()
    opened = StoredSparseVectors.open(sparse_folder(copied.index), encoder)
    kept = [one for one in TEXTS.values() if one != best.get_content()]
    assert len(opened) == len(kept) + 1
    assert opened.missing([*kept, text]) == []


def test_classic_class_serves_it(copied: RunFolder) -> None:
    with FineTunedRetrieval(copied.model) as classic:
        found = {one["id"] for one in classic.search(QUERY, threshold=-1.0, use_hybrid=True)}
        assert classic._search.fallbacks == {}
    retriever = FineTunedHybridRetriever.from_run(copied.path)
    try:
        assert {hit.node.metadata["source_id"] for hit in retriever.retrieve(QUERY)} == found
    finally:
        retriever.close()


def test_nodes_are_encoded_with_the_sparse_encoder_of_the_run(sparse_run: Path) -> None:
    retriever = FineTunedHybridRetriever.from_nodes(
        memory_nodes(small_memories()), model=sparse_run / "model", baseline=None
    )
    try:
        assert retriever.retrieve(QUERY)[0].skipped_legs == []
        assert retriever.build_sparse_vectors() == 0
    finally:
        retriever.close()


def damage(run: RunFolder, kind: str, encoder: SparseTextEncoder) -> None:
    folder = sparse_folder(run.index)
    if kind == "missing":
        shutil.rmtree(folder)
    elif kind == "truncated":
        weights = folder / "weights.npy"
        weights.write_bytes(weights.read_bytes()[:-10])
    elif kind == "other vectors":
        meta = json.loads((folder / "meta.json").read_text("utf-8"))
        write_json(folder / "meta.json", {**meta, "fingerprint": "0" * 32})
    elif kind == "no encoder":
        with_record(run, {"name": str(run.path / "gone"), "fingerprint": encoder.fingerprint})
    else:
        with_record(run, {"name": encoder.name, "fingerprint": "0" * 32})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "There are no sparse vectors in"),
        ("truncated", "weights.npy"),
        ("other vectors", "are not those of the encoder"),
        ("no encoder", "does not exist"),
        ("other encoder", "is not the one that the run was evaluated with"),
    ],
)
def test_vectors_that_cannot_be_used_are_a_warning(
    copied: RunFolder, encoder: SparseTextEncoder, kind: str, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    options = serving_options(copied.serving())
    assert open_sparse_vectors(copied.index, copied.serving(), options) is not None
    assert check_index(copied.path)["sparse_vectors"] == "12 of 12 memories"
    damage(copied, kind, encoder)
    checked = check_index(copied.path)
    (problem,) = checked["problems"]
    assert words in problem
    assert (checked["token_vectors"], checked["sparse_vectors"]) == ("not needed", "cannot be used")
    assert open_sparse_vectors(copied.index, copied.serving(), options) is None
    (record,) = caplog.records
    assert record.getMessage().startswith("the sparse encoder is skipped: ")
    assert words in record.getMessage()
    caplog.clear()
    assert open_sparse_vectors(copied.index, copied.serving(), {}) is None  # no leg needs them
    assert not caplog.records


def test_run_without_usable_vectors_skips_the_leg(copied: RunFolder, encoder: SparseTextEncoder) -> None:
    damage(copied, "missing", encoder)
    retriever = FineTunedHybridRetriever.from_run(copied.path)
    try:
        hits = retriever.retrieve(QUERY)
        assert (hits[0].served_by, hits[0].skipped_legs) == ("finetuned", ["sparse"])
        assert retriever.fallbacks["sparse", "missing"] == 1
        with pytest.raises(AceFinetuneError, match="no sparse encoder"):
            retriever.build_sparse_vectors()
    finally:
        retriever.close()


def test_changes_are_written_before_a_search_could_not_encode_them(
    encoder: SparseTextEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StoredSparseVectors(encoder).save(tmp_path / "v")
    vectors = StoredSparseVectors.open(tmp_path / "v", encoder)
    monkeypatch.setattr(stored_vectors, "MAX_CHANGES", 2)

    def stored() -> int:
        return len(StoredSparseVectors.open(tmp_path / "v", encoder))

    vectors.add(["pool limit"])
    assert stored() == 0
    vectors.add(["disk logs"])
    assert stored() == 2
    expected = vectors.encode_documents(["disk logs"]).toarray()
    vectors.delete([text_key("pool limit"), text_key("unknown")])
    assert stored() == 2
    vectors.flush()
    assert stored() == 1
    assert (vectors.encode_documents(["disk logs"]).toarray() == expected).all()
    other = json.loads((tmp_path / "v" / "meta.json").read_text("utf-8"))
    write_json(tmp_path / "v" / "meta.json", {**other, "fingerprint": "0" * 32})
    vectors.delete([text_key("disk logs")])
    with pytest.raises(StoreError, match="not those of the encoder"):
        vectors.flush()
