"""Every format is recognised and read; every change is in the ledger."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import dataset_files as files
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from llama_index_ace_finetune.datasets import readers
from llama_index_ace_finetune.datasets.own_documents import own_documents
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.readers.qa_dataset import write_qa_dataset
from llama_index_ace_finetune.datasets.readers.register import FORMATS, READERS
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.errors import DatasetError


def test_ace_suite(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "suite.json", files.suite()))
    assert dataset.ledger.format == "ace_suite"
    assert list(dataset.queries) == ["11-0", "11-1", "wal-0", "wal-1"]
    assert dict(dataset.queries["11-0"].metadata) == {
        "category": "ERRORS",
        "query_category": "direct",
        "difficulty": "easy",
        "expected_rank": 1,
    }
    assert dict(dataset.memories["11"].metadata) == {
        "category": "ERRORS",
        "severity": 7,
        "original_queries": ["not used"],
        "source_id": 11,
    }
    assert dataset.judgements["11-1"] == {"11": 1.0}
    assert dataset.relevant("11-1") == dataset.relevant("wal-0") == {"11", "wal"}
    assert dataset.ledger.counts == {"ambiguous_query_text": 1}


def test_ace_suite_with_only_the_required_fields(tmp_path: Path) -> None:
    value = {
        "test_cases": [
            {"memory_id": 1, "content": "a", "generated_queries": [{"query": "b"}]},
            {"memory_id": 2, "content": "c"},
        ]
    }
    dataset = read_dataset(files.write_json(tmp_path / "s.json", value))
    assert dataset.judgements == {"1-0": {"1": 1.0}}
    assert dict(dataset.queries["1-0"].metadata) == {}
    assert set(dataset.memories) == {"1", "2"}


def test_ace_inventory_joins_the_corpus_and_the_suite_wins(tmp_path: Path) -> None:
    inventory = files.inventory()
    inventory[0]["payload"]["lesson"] = "An older wording"
    inventory[2]["payload"]["content"] = "Prefer the caf\u00c3\u00a9 build"
    suite = files.write_json(tmp_path / "suite.json", files.suite())
    dataset = read_dataset(suite, files.write_json(tmp_path / "inventory.json", inventory))
    assert set(dataset.memories) == {"11", "wal", "12", "13"}
    assert dataset.memories["11"].text == "Retry the upload with a growing delay"
    assert dataset.memories["13"].text == "Prefer the caf\u00e9 build"
    assert dataset.memories["12"].metadata["source_id"] == 12
    assert dataset.answer_ids["12"] == "11"
    assert dataset.ledger.counts == {
        "memory_text_overridden": 1,
        "memories/mojibake_repaired_memory": 1,
        "equal_memory_text": 1,
        "ambiguous_query_text": 1,
    }


def test_ace_folder_finds_suite_and_inventory(tmp_path: Path) -> None:
    files.write_json(tmp_path / "suite.json", files.suite())
    files.write_json(tmp_path / "inventory.json", files.inventory())
    files.write_json(tmp_path / "other.json", {"some": "thing"})
    dataset = read_dataset(tmp_path)
    assert (dataset.name, dataset.ledger.format) == (tmp_path.name, "ace_suite")
    assert set(dataset.memories) == {"11", "wal", "12", "13"}


def test_only_an_inventory_or_selected_memories(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "i.json", files.inventory()))
    assert dataset.ledger.format == "ace_inventory"
    assert dict(dataset.memories["12"].metadata) == {"severity": 3, "source_id": 12}
    selected = [{"memory_id": 5, "content": "a b", "sample_queries": ["x"]}]
    dataset = read_dataset(files.write_json(tmp_path / "s.json", selected))
    assert dataset.memories["5"].text == "a b"


@pytest.mark.parametrize(
    "text", ["\u26aa one", "\U0001f534 stop", "caf\u00e9", "\u201cquoted\u201d", "\U0001f7e1 two \u2013 three"]
)
def test_mojibake_is_repaired_exactly_and_counted(tmp_path: Path, text: str) -> None:
    # Bytes without a Windows-1252 character come through as controls, as most decoders let them.
    broken = "".join(bytes([b]).decode("cp1252", "ignore") or chr(b) for b in text.encode("utf-8"))
    value = [{"id": 1, "payload": {"lesson": broken}}, {"id": 2, "payload": {"lesson": text + "."}}]
    dataset = read_dataset(files.write_json(tmp_path / "i.json", value))
    assert dataset.memories["1"].text == text
    assert dataset.memories["2"].text == text + "."
    assert dataset.ledger.counts == {"mojibake_repaired_memory": 1}
    assert "line 1" in dataset.ledger.entries[0].where


@pytest.mark.parametrize(
    ("value", "texts", "counts"),
    [
        (
            files.BULLETS,
            {"s-1": "Read the log first", "s-3": "Pin the versions"},
            {"inactive_memory_skipped": 1, "stored_embedding_ignored": 1},
        ),
        (files.LEGACY, {"t-1": "Use ripgrep", "s-1": "Plan"}, {}),
        (files.SKILLS, {"k-1": "Quote the paths"}, {}),
        (
            files.SCHEMA_2,
            {"k-1": "The build hangs.\n\nKill the daemon.\n\nKeywords: gradle, daemon"},
            {"inactive_memory_skipped": 1},
        ),
    ],
)
def test_ace_playbooks(tmp_path: Path, value: object, texts: dict[str, str], counts: dict[str, int]) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "playbook.json", value))
    assert dataset.ledger.format == "ace_playbook"
    assert {m.id: m.text for m in dataset.memories.values()} == texts
    assert dataset.ledger.counts == counts
    assert all("embedding" not in m.metadata for m in dataset.memories.values())


def test_playbook_with_queries(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "playbook.json", files.BULLETS)
    dataset = read_dataset(path, queries={"where do I start": "s-1", "which versions": ["s-3", "s-1"], "x": {"s-3": 0}})
    right = {q.text: dataset.relevant(q.id) for q in dataset.queries.values()}
    assert right == {"where do I start": {"s-1"}, "which versions": {"s-3", "s-1"}, "x": frozenset()}
    assert dataset.ledger.counts["query_without_positive"] == 1


def test_beir(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_beir(tmp_path / "set"))
    assert (dataset.name, dataset.ledger.format) == ("set", "beir")
    assert dataset.memories["d1"].text == "Deadlocks take locks in one order"
    assert dict(dataset.memories["d2"].metadata) == {"page": 3}
    assert dict(dataset.queries["q1"].metadata) == {"category": "symptom"}
    assert dataset.judgements["q1"] == {"d1": 2.0, "d2": 0.0}
    assert dataset.judged_negative("q1") == {"d2"}
    assert dataset.relevant("q2") == {"d2", "d3"}


def test_beir_gzipped_with_a_folder_of_qrels(tmp_path: Path) -> None:
    plain = read_dataset(files.write_beir(tmp_path / "set"))
    folder = tmp_path / "gz"
    (folder / "qrels").mkdir(parents=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        (folder / f"{name}.gz").write_bytes(gzip.compress((tmp_path / "set" / name).read_bytes()))
    lines = files.QRELS.splitlines()
    (folder / "qrels" / "train.tsv").write_text("\n".join(lines[:3]))
    (folder / "qrels" / "test.tsv").write_text(
        "\n".join(f"{a}\t0\t{b}\t{c}" for a, b, c in (r.split("\t") for r in lines[3:]))
    )
    dataset = read_dataset(folder)
    assert (dataset.memories, dataset.queries, dataset.judgements) == (plain.memories, plain.queries, plain.judgements)


def test_beir_corpus_without_queries(tmp_path: Path) -> None:
    folder = files.write_beir(tmp_path / "set")
    dataset = read_dataset(folder / "corpus.jsonl")
    assert set(dataset.memories) == {"d1", "d2", "d3"}
    assert not dataset.queries


def test_qa_dataset(tmp_path: Path) -> None:
    dataset = read_dataset(files.write_json(tmp_path / "qa.json", files.QA))
    assert dataset.ledger.format == "qa_dataset"
    assert dataset.judgements == {"q1": {"d1": 1.0}, "q2": {"d2": 1.0, "d1": 1.0}}


@pytest.mark.parametrize("name", ["p.csv", "p.tsv", "p.jsonl", "p.json", "p.parquet", "p.csv.gz", "datasets.Dataset"])
def test_pairs_are_read_equally_from_every_container(tmp_path: Path, name: str) -> None:
    dataset = read_dataset(_pairs(tmp_path, name))
    assert dataset.ledger.format == "pairs"
    hang = next(q.id for q in dataset.queries.values() if q.text == "why do my threads hang")
    assert {dataset.memories[i].text for i in dataset.relevant(hang)} == {"take locks in one order"}
    assert {dataset.memories[i].text for i in dataset.judged_negative(hang)} == {"keep transactions short"}
    assert len(dataset.memories) == len(dataset.queries) == 2


def _pairs(folder: Path, name: str) -> object:
    path = folder / name
    if name == "datasets.Dataset":
        return pytest.importorskip("datasets").Dataset.from_list(files.PAIRS)
    if name == "p.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(files.PAIRS), path)
    elif name == "p.jsonl":
        files.write_json_lines(path, files.PAIRS)
    elif name == "p.json":
        files.write_json(path, files.PAIRS)
    else:
        mark = "\t" if ".tsv" in name else ","
        text = "\r\n".join(mark.join(row) for row in [list(files.PAIRS[0]), *(list(r.values()) for r in files.PAIRS)])
        content = ("\ufeff" + text).encode("utf-8")
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def test_pairs_with_ids_labels_lists_and_metadata(tmp_path: Path) -> None:
    rows = [
        {
            "query_id": 0,
            "question": "a b",
            "pos": ["one", "two"],
            "neg": ["three"],
            "negative_1": None,
            "category": "x",
        },
        {"query_id": 0, "question": "a b", "pos": ["three"], "neg": [], "category": "w", "label": 0},
    ]
    dataset = read_dataset(files.write_json_lines(tmp_path / "p.jsonl", rows))
    assert list(dataset.queries) == ["0"]
    assert dict(dataset.queries["0"].metadata) == {"category": "w", "source_id": 0}
    assert {dataset.memories[i].text for i in dataset.relevant("0")} == {"one", "two"}
    assert {dataset.memories[i].text for i in dataset.judged_negative("0")} == {"three"}
    assert dataset.ledger.counts == {"missing_negative": 1, "conflicting_metadata": 1, "repeated_judgement": 1}


def test_memory_ids_of_pairs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text('query,positive,memory_id\n"say ""hi"", twice","line one\nline two",m 1\n')
    dataset = read_dataset(tmp_path / "p.csv")
    assert dataset.memories["m 1"].text == "line one\nline two"
    assert next(iter(dataset.queries.values())).text == 'say "hi", twice'


def test_llama_nodes_are_read_as_they_are_embedded() -> None:
    from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

    hidden = TextNode(
        text="body", id_="n1", metadata={"topic": "locks", "secret": "x"}, excluded_embed_metadata_keys=["secret"]
    )
    scored = NodeWithScore(node=TextNode(text="other", id_="n2"), score=0.5)
    dataset = read_dataset([hidden, scored], queries={"why": ["n1"]})
    assert dataset.ledger.format == "llama_nodes"
    assert dataset.memories["n1"].text == hidden.get_content(metadata_mode=MetadataMode.EMBED)
    assert "locks" in dataset.memories["n1"].text
    assert "secret" not in dataset.memories["n1"].text
    assert dataset.memories["n1"].metadata["secret"] == "x"
    assert dataset.judgements == {next(iter(dataset.queries)): {"n1": 1.0}}


def test_all_cleaning_is_in_the_ledger(tmp_path: Path) -> None:
    corpus = [
        *files.CORPUS,
        {"_id": "d4", "text": "   "},
        {"_id": "d3", "text": "back off and  try again"},
        {"_id": "d5", "text": "x" * 9000},
        {"_id": "d6", "text": "half \ud800 a pair"},
    ]
    queries = [*files.QUERIES, {"_id": "q3", "text": ""}, {"_id": "q4", "text": "nobody knows"}]
    qrels = files.QRELS + "q1\td4\t1\nq3\td1\t1\nq1\td1\t2\nq1\td2\t1\n"
    dataset = read_dataset(files.write_beir(tmp_path / "set", corpus, queries, qrels))
    assert dataset.ledger.counts == {
        "empty_memory_dropped": 1,
        "repeated_memory_id": 1,
        "over_long_memory": 1,
        "lone_surrogate_replaced": 1,
        "empty_query_dropped": 1,
        "judgement_of_empty_text_dropped": 2,
        "repeated_judgement": 1,
        "conflicting_grade": 1,
        "query_without_positive": 1,
    }
    assert dataset.judgements["q1"]["d2"] == 1.0
    assert dataset.memories["d6"].text == "half \ufffd a pair"
    dropped = next(e for e in dataset.ledger.entries if e.rule == "empty_memory_dropped")
    assert dropped.where.endswith("corpus.jsonl, line 4")


def test_format_can_be_named(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "s.json", files.suite())
    assert read_dataset(path, format="ace_suite").ledger.format == "ace_suite"
    for wrong in ("qa_dataset", "pairs", "beir", "llama_nodes"):
        with pytest.raises(DatasetError):
            read_dataset(path, format=wrong)
    with pytest.raises(DatasetError, match="choose one of ace_suite"):
        read_dataset(path, format="xml")


def test_reader_has_the_name_of_its_file() -> None:
    assert tuple(reader.name for reader in READERS) == FORMATS
    assert all(reader.read.__module__.startswith(f"{readers.__name__}.") for reader in READERS)


def test_error_lists_the_formats_of_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        read_dataset(files.write_json(tmp_path / "x.json", {"some": "thing"}))
    listed = [reader.name for reader in READERS if reader.signature in str(caught.value)]
    assert listed == ["ace_suite", "qa_dataset", "ace_playbook", "ace_inventory", "llama_docstore", "memories"]


def test_reading_needs_no_heavy_import(tmp_path: Path) -> None:
    path = files.write_json(tmp_path / "s.json", files.suite())
    code = (
        "import sys; from llama_index_ace_finetune.datasets.read_dataset import read_dataset; "
        f"read_dataset({str(path)!r}); "
        "print([m for m in ('torch', 'llama_index', 'pyarrow', 'datasets', 'transformers') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: not t.isspace())
_MAPPING = st.dictionaries(_TEXT, _TEXT, min_size=1, max_size=5)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(memories=_MAPPING, queries=_MAPPING, data=st.data())
def test_qa_dataset_round_trip(
    tmp_path: Path, memories: dict[str, str], queries: dict[str, str], data: st.DataObject
) -> None:
    right = {
        q: dict.fromkeys(data.draw(st.lists(st.sampled_from(sorted(memories)), min_size=1, unique=True)), 1.0)
        for q in sorted(queries)
    }
    made = files.make_dataset(queries, memories, right)
    assume(not own_documents(made))
    write_qa_dataset(made, tmp_path / "qa.json")
    once = read_dataset(tmp_path / "qa.json")
    write_qa_dataset(once, tmp_path / "again.json")
    again = read_dataset(tmp_path / "again.json")
    assert (again.memories, again.queries, again.judgements) == (once.memories, once.queries, once.judgements)
    assert once.judgements == made.judgements
    assert _texts(once) == _repaired(made)


def _texts(dataset: RetrievalDataset) -> dict[str, str]:
    return {
        **{f"m{m.id}": m.text for m in dataset.memories.values()},
        **{f"q{q.id}": q.text for q in dataset.queries.values()},
    }


def _repaired(dataset: RetrievalDataset) -> dict[str, str]:
    from llama_index_ace_finetune.datasets.text import repair_mojibake

    return {key: repair_mojibake(text) for key, text in _texts(dataset).items()}


def test_qa_dataset_is_not_half_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DatasetError, match="cannot be written"):
        write_qa_dataset(files.make_dataset({}, {"m": "x"}, {}), tmp_path / "file" / "qa.json")


def test_written_qa_dataset_has_the_fields_of_llama_index(tmp_path: Path) -> None:
    write_qa_dataset(
        files.make_dataset({"q": "a"}, {"m": "b", "n": "c"}, {"q": {"m": 1.0, "n": 0.0}}), tmp_path / "qa.json"
    )
    assert json.loads((tmp_path / "qa.json").read_text()) == {
        "queries": {"q": "a"},
        "corpus": {"m": "b", "n": "c"},
        "relevant_docs": {"q": ["m"]},
        "mode": "text",
    }


# What each README.txt counts: memories, queries, relevant and irrelevant judgements.
_SIZES = {
    "ace": (2108, 1038, 1038, 0),
    "cosqa": (6267, 1000, 1000, 0),
    "cranfield": (1398, 225, 1611, 225),
    "locomo": (5882, 1525, 2336, 0),
    "medquad": (5442, 4357, 5027, 0),
    "msvc_errors": (2235, 2215, 2257, 0),
    "nl2bash": (10585, 11322, 12592, 0),
    "scifact": (5183, 1105, 1211, 0),
}


@pytest.mark.parametrize("name", sorted(_SIZES))
def test_shared_datasets_have_the_stated_sizes(shared_data: Path, name: str) -> None:
    dataset = read_dataset(shared_data / name)
    grades = [grade for held in dataset.judgements.values() for grade in held.values()]
    sizes = (len(dataset.memories), len(dataset.queries), sum(g > 0 for g in grades), sum(g <= 0 for g in grades))
    assert sizes == _SIZES[name]
    if name == "ace":
        assert dataset.ledger.counts["mojibake_repaired_memory"] == 8
        assert dataset.ledger.counts["ambiguous_query_text"] == 63
