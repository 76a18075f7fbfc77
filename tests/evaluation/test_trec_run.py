from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import pytrec_eval
from hypothesis import given
from hypothesis import strategies as st

from llama_index_ace_finetune.errors import DatasetError
from llama_index_ace_finetune.evaluation.metrics.trec_run import (
    TrecRun,
    read_run,
    run_to_rankings,
    write_run,
)

RUN = TrecRun("ours", {"q2": (("d1", 2.5), ("d0", 2.5), ("d2", -1e-9)), "q1": (("d2", 0.1),)})


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "run.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_written_run_file(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "run.txt"
    write_run(path, RUN)
    assert path.read_text(encoding="utf-8").splitlines() == [
        "q2 Q0 d1 1 2.5 ours",
        "q2 Q0 d0 2 2.5 ours",
        "q2 Q0 d2 3 -1e-09 ours",
        "q1 Q0 d2 1 0.1 ours",
    ]
    assert read_run(path) == RUN
    with path.open(encoding="utf-8") as stream:
        assert pytrec_eval.parse_run(stream) == {query: dict(hits) for query, hits in RUN.hits.items()}


IDS = st.text(st.characters(exclude_categories=("Z", "C")), min_size=1, max_size=5)
SCORES = st.floats(allow_nan=False, allow_infinity=False)
HITS = st.dictionaries(IDS, SCORES, min_size=1, max_size=6).map(
    lambda hits: tuple(sorted(hits.items(), key=lambda hit: -hit[1]))
)


@given(IDS, st.dictionaries(IDS, HITS, min_size=1, max_size=4))
def test_run_round_trips(tmp_path_factory: pytest.TempPathFactory, tag: str, hits: dict[str, object]) -> None:
    path = tmp_path_factory.getbasetemp() / "round_trip.txt"
    run = TrecRun(tag, hits)  # type: ignore[arg-type]
    write_run(path, run)
    assert read_run(path) == run


def test_hits_are_sorted_by_score_then_rank(tmp_path: Path) -> None:
    text = "\nq Q0 a 3 1.0 t\r\nq Q0 b 1 0.5 t\nq\tQ0 c 2 1.0 t\n"
    assert read_run(written(tmp_path, text)).hits == {"q": (("c", 1.0), ("a", 1.0), ("b", 0.5))}
    path = tmp_path / "run.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_run(path).tag == "t"


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("q Q0 d 1 0.5", "line 2: the line has 5 fields; write query Q0 document rank score tag"),
        ("q Q0 d 1 0.5 t more", "line 2: the line has 7 fields"),
        ("q Q0 d one 0.5 t", "line 2: the rank 'one' is not an integer"),
        ("q Q0 d 1.5 0.5 t", "line 2: the rank '1.5' is not an integer"),
        ("q Q0 d 1 high t", "line 2: the score 'high' is not a finite number"),
        ("q Q0 d 1 nan t", "line 2: the score 'nan' is not a finite number"),
        ("q Q0 d 1 inf t", "line 2: the score 'inf' is not a finite number"),
        ("q Q0 d0 2 0.4 t", "line 2: document 'd0' is repeated for query 'q'"),
    ],
)
def test_invalid_line_is_refused(tmp_path: Path, line: str, sentence: str) -> None:
    path = written(tmp_path, f"q Q0 d0 1 0.9 t\n{line}\n")
    with pytest.raises(DatasetError, match=sentence) as raised:
        read_run(path)
    assert str(raised.value).startswith(str(path))


def test_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the run file has no hits"):
        read_run(written(tmp_path, "\n\n"))
    with pytest.raises(DatasetError, match="missing"):
        read_run(tmp_path / "missing.txt")


@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (TrecRun("two words", {"q": (("d", 1.0),)}), "'two words' is empty or contains a space"),
        (TrecRun("t", {"": (("d", 1.0),)}), "'' is empty or contains a space"),
        (TrecRun("t", {"q": (("a\tb", 1.0),)}), "contains a space"),
        (
            TrecRun("t", {"q": (("a", 1.0), ("b", 2.0))}),
            "scores of query 'q' are not finite or not in descending order",
        ),
        (TrecRun("t", {"q": (("a", float("nan")),)}), "not finite"),
    ],
)
def test_invalid_run_is_not_written(tmp_path: Path, run: TrecRun, sentence: str) -> None:
    with pytest.raises(DatasetError, match=sentence):
        write_run(tmp_path / "run.txt", run)
    assert not (tmp_path / "run.txt").exists()


# ------------------------------------------------------------------------------------------------ rows


def test_run_as_rankings() -> None:
    run = TrecRun("t", {"a": (("z", 0.5), ("x", 0.25)), "c": (("y", -1.0),)})
    found, scores = run_to_rankings(run, query_ids=["a", "b", "c"], corpus_ids=["x", "y", "z"])
    assert found.tolist() == [[2, 0], [-1, -1], [1, -1]]
    assert scores.tolist() == [[0.5, 0.25], [0.0, 0.0], [-1.0, 0.0]]


def test_run_with_other_ids_is_refused() -> None:
    corpus_ids = ["d0", "d1", "d2"]
    with pytest.raises(DatasetError, match="shares no query with the qrels: it has 'q2' and they '17'"):
        run_to_rankings(RUN, query_ids=["17", "18"], corpus_ids=corpus_ids)
    with pytest.raises(DatasetError, match="has 1 queries that are not in the qrels, such as 'q1'"):
        run_to_rankings(RUN, query_ids=["q2", "q3"], corpus_ids=corpus_ids)
    with pytest.raises(DatasetError, match="has document 'd2' for query 'q1', which is not in the corpus"):
        run_to_rankings(RUN, query_ids=["q1", "q2"], corpus_ids=corpus_ids[:2])
    found, _ = run_to_rankings(RUN, query_ids=["q3", "q2"], corpus_ids=corpus_ids, other_queries=True)
    assert found.tolist() == [[-1, -1, -1], [1, 0, 2]]
