"""Judgements of BEIR folders: columns by their header or by known ids, and rows with unknown ids."""

from __future__ import annotations

from pathlib import Path

import dataset_files as files
import pytest

from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.errors import DatasetError

_RIGHT = {"q1": {"d1": 2.0, "d2": 0.0}, "q2": {"d2": 1.0, "d3": 1.0}}


@pytest.mark.parametrize(
    "qrels",
    [
        "query-id\tcorpus-id\tscore\tannotator\nq1\td1\t2\t7\nq1\td2\t0\t7\nq2\td2\t1\t8\nq2\td3\t1\t8\n",
        "score\tcorpus-id\tquery-id\n2\td1\tq1\n0\td2\tq1\n1\td2\tq2\n1\td3\tq2\n",
        "Query ID\tIteration\tDocNo\tRelevance\nq1\t0\td1\t2\nq1\t0\td2\t0\nq2\t0\td2\t1\nq2\t0\td3\t1\n",
        "q1 0 d1 2\nq1 0 d2 0\nq2 0 d2 1\nq2 0 d3 1\n",
        "q1\tQ0\td1\t2\r\nq1\tQ0\td2\t0\r\nq2\tQ0\td2\t1\r\nq2\tQ0\td3\t1\r\n",
        "d1\tq1\t2\nd2\tq1\t0\nd2\tq2\t1\nd3\tq2\t1\n",
        "q1\td1\t2\tsure\nq1\td2\t0\tsure\nq2\td2\t1\tno\nq2\td3\t1\tno\n",
        '"query-id","corpus-id","score"\nq1,d1,2\nq1,d2,0\nq2,d2,1\nq2,d3,1\n',
        "\n\ufeffquery_id;doc_id;grade\nq1;d1;2\nq1;d2;0\nq2;d2;1\nq2;d3;1\n".lstrip("\n"),
        "frage\tantwort\tpunkte\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\nq2\td3\t1\n",
    ],
)
def test_columns_are_recognised(tmp_path: Path, qrels: str) -> None:
    dataset = read_dataset(files.write_beir(tmp_path / "set", qrels=qrels))
    assert dataset.judgements == _RIGHT
    assert "row_left_out" not in dataset.ledger.counts


def test_numbers_in_another_column_are_not_grades(tmp_path: Path) -> None:
    corpus = [{"_id": n, "text": text} for n, text in enumerate(("Restart it.", "Free it.", "Raise it."), 1)]
    queries = [{"_id": n, "text": text} for n, text in enumerate(("it hangs", "in use", "too many"), 1)]
    qrels = "query-id\tcorpus-id\tscore\tannotator\n1\t1\t1\t3\n2\t2\t1\t2\n3\t3\t1\t1\n"
    dataset = read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    assert dataset.judgements == {"1": {"1": 1.0}, "2": {"2": 1.0}, "3": {"3": 1.0}}
    assert any("annotator" in line for line in dataset.ledger.lines())


def test_judgements_of_unknown_ids_are_left_out_and_named(tmp_path: Path) -> None:
    qrels = files.QRELS + "".join(f"q1\td{n}\t1\n" for n in range(50, 60)) + "q9\td1\t1\nq8\td8\t1\n"
    dataset = read_dataset(files.write_beir(tmp_path / "set", qrels=qrels))
    assert dataset.judgements == _RIGHT
    line = next(line for line in dataset.ledger.lines() if line.startswith("judgement_of_unknown_id_left_out: 12"))
    assert "qrels.tsv, line 6: there is no memory 'd50'" in line
    assert line.endswith("; ...)")


def test_unknown_ids_of_a_qa_dataset_are_left_out(tmp_path: Path) -> None:
    value = {**files.QA, "relevant_docs": {"q1": ["d1", "gone"], "q2": ["d2"], "q7": ["d1"]}}
    dataset = read_dataset(files.write_json(tmp_path / "qa.json", value))
    assert dataset.judgements == {"q1": {"d1": 1.0}, "q2": {"d2": 1.0}}
    assert dataset.ledger.counts == {"judgement_of_unknown_id_left_out": 2}


def test_only_unknown_ids_are_refused(tmp_path: Path) -> None:
    folder = files.write_beir(tmp_path / "set", qrels="query-id\tcorpus-id\tscore\n1\t2\t1\n3\t4\t1\n")
    with pytest.raises(DatasetError, match="none of 2 judgement"):
        read_dataset(folder)
