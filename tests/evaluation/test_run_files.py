"""TREC files of an evaluation: other tools compute the same values from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import pytest

from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import DatasetError, OutputExistsError
from llama_index_ace_finetune.evaluation.evaluate import evaluate_systems
from llama_index_ace_finetune.evaluation.metrics.trec_run import read_run, run_to_rankings
from llama_index_ace_finetune.evaluation.report.run_files import QRELS, check_run_files, write_run_files
from llama_index_ace_finetune.evaluation.result import Evaluation


@pytest.fixture(scope="module")
def evaluation(small_dataset: RetrievalDataset, minilm: Encoder) -> Evaluation:
    test = [query for query in small_dataset.queries if small_dataset.relevant(query)][:12]
    return evaluate_systems(small_dataset, test=test, dev=(), base=minilm, tuned=minilm, timed_queries=0)


def test_other_tools_compute_the_same_values(evaluation: Evaluation, tmp_path: Path) -> None:
    paths = write_run_files(tmp_path / "runs", evaluation)
    assert [path.name for path in paths[:3]] == [QRELS, "BM25.run", "base.run"]
    assert len(paths) == len(evaluation.systems) + 1
    qrels = list(ir_measures.read_trec_qrels(str(paths[0])))
    assert len(qrels) == sum(len(rows) for rows in evaluation.data.relevant)
    for system, path in zip(evaluation.systems, paths[1:], strict=True):
        run = list(ir_measures.read_trec_run(str(path)))
        found = ir_measures.calc_aggregate([ir_measures.nDCG @ 10, ir_measures.RR @ 10], qrels, run)
        assert found[ir_measures.nDCG @ 10] == pytest.approx(evaluation.mean(system.name, "nDCG@10"))
        assert found[ir_measures.RR @ 10] == pytest.approx(evaluation.mean(system.name, "MRR@10"))


def test_equal_scores_keep_their_order(evaluation: Evaluation, tmp_path: Path) -> None:
    """trec_eval sorts equal scores by descending document id."""
    count = len(evaluation.data.query_ids)
    tied = replace(evaluation.systems[0], name="tied", rankings=np.tile(np.arange(5, dtype=np.int32), (count, 1)),
                   scores=np.ones((count, 5), np.float32))  # fmt: skip
    (_, path) = write_run_files(tmp_path / "runs", replace(evaluation, systems=(tied,)))
    run = read_run(path)
    rankings, scores = run_to_rankings(run, query_ids=evaluation.data.query_ids, corpus_ids=evaluation.data.corpus_ids)
    assert (rankings == tied.rankings).all()
    assert scores[0].tolist() == sorted(set(scores[0].tolist()), reverse=True)
    assert len(set(scores[0].astype(np.float32).tolist())) == 5
    assert scores[0][1] == pytest.approx(1, abs=1e-6)


def test_hits_outside_of_the_corpus_keep_their_rank(evaluation: Evaluation, tmp_path: Path) -> None:
    count = len(evaluation.data.query_ids)
    stranger = len(evaluation.data.corpus_ids) + 3
    other = replace(
        evaluation.systems[0], scores=None, rankings=np.tile([stranger, 1, -1], (count, 1)).astype(np.int32)
    )
    (_, path) = write_run_files(tmp_path / "runs", replace(evaluation, systems=(other,)))
    hits = read_run(path).hits[evaluation.data.query_ids[0]]
    assert [name for name, _ in hits] == [f"not-in-the-corpus-{stranger}", evaluation.data.corpus_ids[1]]


def test_other_files_in_the_folder_are_kept(evaluation: Evaluation, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    write_run_files(folder, evaluation)
    assert write_run_files(folder, evaluation)[0].is_file()  # files of an earlier call are replaced
    foreign = tmp_path / "other"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="did not write"):
        check_run_files(foreign, ["a"])
    assert (foreign / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("identifier", ["", "two words", "tab\there"])
def test_empty_id_or_id_with_space_is_refused(tmp_path: Path, identifier: str) -> None:
    with pytest.raises(DatasetError, match="empty or contains a space"):
        check_run_files(tmp_path / "runs", ["fine", identifier])
