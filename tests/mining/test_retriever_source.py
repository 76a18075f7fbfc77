from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from mining_options import plain

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError, DatasetError
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.retriever_source import RetrieverError, RetrieverSource
from llama_index_ace_finetune.mining.sources import PADDING, UNKNOWN

TEXTS = {
    "10": "Restart the queue worker after every deploy",
    "11": "restart the  queue worker after every DEPLOY",
    "20": "Drain the queue before the database is upgraded",
    "21": "The worker restarts on its own after a crash",
    "22": "Ask the release manager before a deploy on Friday",
}
DATASET = RetrievalDataset(
    name="small",
    memories={i: Memory(i, text, {"source_id": int(i)}) for i, text in TEXTS.items()},
    queries={"q1": Query("q1", "do I restart the worker?"), "q2": Query("q2", "worker crashed")},
    judgements={"q1": {"10": 1.0}, "q2": {"21": 1.0}},
)
ROW = {identifier: row for row, identifier in enumerate(DATASET.answers)}  # 10, 20, 21, 22: 11 has the text of 10


class Fixed(BaseRetriever):
    """A retriever that returns the same hits for every query and fails for one."""

    def __init__(self, hits: list[NodeWithScore], *, fails_for: str | None = None) -> None:
        self.hits = hits
        self.fails_for = fails_for
        super().__init__()

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        if query_bundle.query_str == self.fails_for:
            raise ConnectionError("connection refused\nby the server")
        return self.hits


def hit(text: str, score: float | None = 0.5, *, document: str | None = None, **fields: object) -> NodeWithScore:
    metadata = fields.pop("metadata", {})
    node = TextNode(text=text, metadata=metadata, **fields)  # type: ignore[arg-type]
    if document is not None:
        node.relationships[NodeRelationship.SOURCE] = RelatedNodeInfo(node_id=document)
    return NodeWithScore(node=node, score=score)


def rows_of(*hits: NodeWithScore, k: int = 10) -> list[int]:
    source = RetrieverSource.over(DATASET, Fixed(list(hits)), ["anything"])
    return source.search(np.array([0]), k)[0][0].tolist()


def test_hits_are_matched_by_id_then_document_then_metadata_then_text() -> None:
    assert rows_of(hit("cut", id_="20")) == [ROW["20"]]
    assert rows_of(hit("cut", id_="11")) == [ROW["10"]]
    assert rows_of(hit("cut", document="21")) == [ROW["21"]]
    assert rows_of(hit("cut", metadata={"memory_id": 22})) == [ROW["22"]]
    assert rows_of(hit("cut", metadata={"bullet_id": "22"})) == [ROW["22"]]
    assert rows_of(hit("DRAIN the queue  before the database is upgraded")) == [ROW["20"]]
    # The text without its metadata is matched too.
    assert rows_of(hit(TEXTS["20"], metadata={"category": "DATABASE"})) == [ROW["20"]]
    assert rows_of(hit("cut", id_="20", document="21", metadata={"memory_id": 22})) == [ROW["20"]]
    assert rows_of(hit(TEXTS["20"], document="21", metadata={"memory_id": 22})) == [ROW["21"]]
    assert rows_of(hit(TEXTS["20"], metadata={"memory_id": 22})) == [ROW["22"]]
    assert rows_of(hit("nowhere", id_="99", document="98", metadata={"memory_id": 97})) == [UNKNOWN]


def test_ranks_are_those_of_the_retriever() -> None:
    hits = [
        hit("a", 0.9, id_="10"),
        hit("?", 0.8),
        hit("b", None, id_="11"),
        hit("c", None, id_="22"),
        hit("d", id_="20"),
    ]
    source = RetrieverSource.over(DATASET, Fixed(hits), ["anything", "else"])
    rows, scores = source.search(np.array([0, 1]), 4)
    assert rows.tolist() == [[ROW["10"], UNKNOWN, PADDING, ROW["22"]]] * 2
    assert scores[0, :2].tolist() == pytest.approx([0.9, 0.8])
    assert np.isnan(scores[0, 3])
    assert rows_of() == []


def test_retriever_with_other_sources(minilm: Encoder) -> None:
    retriever = Fixed([hit("a", 7.5, id_="22"), hit("?", 6.0), hit("b", 5.0, id_="20"), hit("c", None, id_="10")])
    miner = HardNegativeMiner(encoder=minilm, retriever=retriever, settings=plain())
    found = miner.mine(DATASET, ["q1"], count=3)["q1"]
    assert (found[0].memory_id, found[0].source, found[0].rank, found[0].score) == ("22", "retriever", 1, 7.5)
    assert {negative.memory_id for negative in found} == {"20", "21", "22"}
    assert miner.report["filtered"]["unknown id"] == 1
    assert miner.report["candidates_per_source"]["retriever"] == 3
    assert {"retriever", "dense", "bm25"} == set(miner.report["candidates_per_source"])


def test_retriever_only(minilm: Encoder) -> None:
    retriever = Fixed([hit("a", None, id_="10"), hit("b", None, id_="20")])
    settings = plain(dense=False, bm25=False)
    miner = HardNegativeMiner(encoder=minilm, retriever=retriever, settings=settings)
    found = miner.mine(DATASET, ["q1", "q2"], count=5)
    assert [[(n.memory_id, n.source, n.rank, n.score) for n in negatives] for negatives in found.values()] == [
        [("20", "retriever", 2, None)],
        [("10", "retriever", 1, None), ("20", "retriever", 2, None)],
    ]
    assert miner.report["queries_with_fewer"] == 2


def test_failing_retriever_is_reported_with_the_query(minilm: Encoder) -> None:
    miner = HardNegativeMiner(encoder=minilm, retriever=Fixed([hit("a", id_="20")], fails_for="worker crashed"))
    with pytest.raises(
        RetrieverError, match=r"Fixed failed for the query 'worker crashed' \(connection refused\)"
    ) as e:
        miner.mine(DATASET, ["q1", "q2"], count=1)
    assert isinstance(e.value, AceFinetuneError)
    assert isinstance(e.value.__cause__, ConnectionError)
    assert "\n" not in str(e.value)


def test_retriever_of_another_corpus_is_refused(minilm: Encoder) -> None:
    retriever = Fixed([hit("one"), hit("two")])
    miner = HardNegativeMiner(encoder=minilm, retriever=retriever, settings=plain(dense=False, bm25=False))
    with pytest.raises(DatasetError, match=r"All 4 candidates .* 4 of them as 'unknown id'"):
        miner.mine(DATASET, ["q1", "q2"], count=1)


def test_mining_does_not_import_llamaindex_without_a_retriever() -> None:
    code = "import sys, llama_index_ace_finetune.mining.miner; sys.exit('llama_index.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
