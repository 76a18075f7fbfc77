"""label: judgements in the terminal and on the page, and the data that they become."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from helpers.browser import CHROMIUM, dump, look_at
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.read_dataset import read_dataset
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.datasets.splits.split import split_dataset
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.pipeline import label_page
from llama_index_ace_finetune.pipeline.label import Labelling, label
from llama_index_ace_finetune.pipeline.label_page import LabelServer

SUBJECTS = ("valves", "filters", "sensors", "pumps", "boilers", "switches", "gaskets", "motors", "cables", "fans")


@pytest.fixture
def synthetic(tmp_path: Path) -> Path:
    """Two queries for each of ten memories."""
    path = tmp_path / "synthetic.jsonl"
    rows = [
        {"query_id": f"synthetic-{n}-{turn}", "query": f"{word} {subject}", "memory_id": f"m{n}",
         "text": f"All {subject} of hall {n} are checked on day {n * 7919}.", "synthetic": "offline"}
        for n, subject in enumerate(SUBJECTS)
        for turn, word in enumerate(("who checks the", "day of control for"))
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def judge(source: Path, out: Path, keys: str, *options: str) -> str:
    found = CliRunner().invoke(app, ["label", str(source), "--out", str(out), *options], input=keys)
    assert found.exit_code == 0, found.output
    return found.output


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_keys_become_judged_data_in_dev_and_test(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged.jsonl"
    shown = judge(synthetic, out, "k\nw\nx\ne\nwhen are they looked at\ns\n" + "k\n" * 6, "--count", "9")
    assert "9 of 9 queries judged (7 keep, 1 wrong, 1 edit, 1 skip)" in shown
    data = read_dataset(out)
    assert len(data.queries) == 9
    assert "when are they looked at" in {query.text for query in data.queries.values()}
    assert not any("synthetic" in query.metadata for query in data.queries.values())
    assert sorted(grade for grades in data.judgements.values() for grade in grades.values()) == [0.0, *[1.0] * 8]
    assert len(data.memories) == 9  # different ones first
    split = split_dataset(data, settings=SplitSettings(train=0, dev=0.4, test=0.6))
    assert (len(split.train), len(split.dev), len(split.test), len(split.without_answer)) == (0, 3, 5, 1)


def test_queries_about_one_memory_are_in_one_part(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged.jsonl"
    judge(synthetic, out, "k\n" * 20)
    parts: dict[object, set[object]] = {}
    for row in rows(out):
        parts.setdefault(row["memory_id"], set()).add(row["earlier_split"])
    assert [len(held) for held in parts.values()] == [1] * 10
    assert sorted(part for held in parts.values() for part in held) == ["dev"] * 4 + ["test"] * 6


@pytest.mark.parametrize("end", ["", "q\n", "e\n"])
def test_it_ends_politely_and_resumes(synthetic: Path, tmp_path: Path, end: str) -> None:
    out = tmp_path / "judged.jsonl"
    assert "2 of 5 queries judged" in judge(synthetic, out, f"k\nw\n{end}", "--count", "5")
    with out.open("a") as file:
        file.write('{"query": "half a li')  # of a kill
    shown = judge(synthetic, out, "k\n" * 9, "--count", "5")
    assert "3 of 5" in shown
    found = rows(out)
    assert len({row["synthetic_id"] for row in found}) == len(found) == 5


def test_skipped_query_is_asked_again_next_time(synthetic: Path, tmp_path: Path) -> None:
    out = tmp_path / "judged.jsonl"
    first = judge(synthetic, out, "s\nq\n").splitlines()[2]
    assert first in judge(synthetic, out, "q\n")
    assert rows(out) == []


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("query,positive\na b,c d\n", (), "holds no synthetic queries"),
        (None, ("--count", "0"), "it must be at least 1"),
    ],
)
def test_wrong_input_exits_2(
    synthetic: Path, tmp_path: Path, content: str | None, options: tuple[str, ...], message: str
) -> None:
    source = synthetic
    if content is not None:
        source = tmp_path / "real.csv"
        source.write_text(content)
    found = CliRunner().invoke(app, ["label", str(source), "--out", str(tmp_path / "j.jsonl"), *options])
    assert (found.exit_code, (tmp_path / "j.jsonl").exists()) == (2, False)
    assert message in " ".join(found.output.split())


@pytest.mark.parametrize("line", ["[]", '{"query": "a"}', "x,y", '{"query": 1, "memory_id": "m", "judgement": "k"}'])
def test_other_output_is_refused(synthetic: Path, tmp_path: Path, line: str) -> None:
    out = tmp_path / "other.jsonl"
    out.write_text(line + "\n")
    with pytest.raises(AceFinetuneError, match="line 1 is not a judged query"), label(synthetic, out):
        pass
    assert out.read_text() == line + "\n"


def test_run_without_synthetic_queries(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "manifest.json").write_text("{}")
    with pytest.raises(AceFinetuneError, match="has no synthetic queries"), label(tmp_path / "run", tmp_path / "j"):
        pass


class TestPage:
    @pytest.fixture
    def labelling(self, tmp_path: Path) -> Iterator[Labelling]:
        path = tmp_path / "synthetic.jsonl"
        path.write_text(
            "".join(
                json.dumps({"query": f"<script>alert({n})</script> & \"{subject}\"", "memory_id": f"m{n}",
                            "text": f"<b>All {subject}</b>", "synthetic": "small"}) + "\n"
                for n, subject in enumerate(SUBJECTS[:3])
            )
        )  # fmt: skip
        with label(path, tmp_path / "judged.jsonl") as found:
            yield found

    @pytest.fixture
    def server(self, labelling: Labelling) -> Iterator[LabelServer]:
        with LabelServer(labelling) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            yield server
            server.shutdown()

    def post(self, server: LabelServer, **fields: str) -> str:
        request = urllib.request.Request(server.url, data=urlencode(fields).encode())
        with urllib.request.urlopen(request, timeout=10) as answer:
            return str(answer.read().decode())

    def test_judgements_are_stored_and_the_server_ends(self, labelling: Labelling) -> None:
        with LabelServer(labelling) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            for fields in ({"judgement": "keep"}, {"judgement": "edit", "text": " what of  them "}):
                query = labelling.next()
                assert query is not None
                page = self.post(server, id=query.id, **fields)
                self.post(server, id=query.id, judgement="wrong")  # a second time, or an old page
            last = labelling.next()
            assert last is not None
            assert "2 of 50 judged" in page
            assert "3 queries are judged" not in page
            assert "2 queries are judged" in self.post(server, id=last.id, judgement="skip")
            thread.join(10)
            assert not thread.is_alive()
        assert labelling.counts() == {"keep": 1, "wrong": 0, "edit": 1, "skip": 1}
        assert labelling.judged.rows[1]["query"] == "what of them"

    def test_texts_are_escaped_and_no_foreign_script_is_allowed(self, server: LabelServer) -> None:
        with urllib.request.urlopen(server.url, timeout=10) as answer:
            page, policy = answer.read().decode(), answer.headers["Content-Security-Policy"]
        assert "&lt;script&gt;alert(" in page
        assert "<script>alert" not in page
        assert "&lt;b&gt;All" in page
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert server.server_address[0] == "127.0.0.1"

    def refused(self, url: str, data: bytes | None = None, **headers: str) -> int:
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers), timeout=10)
        return error.value.code

    def test_others_are_refused(self, server: LabelServer) -> None:
        bare = server.url.partition("?")[0]
        assert self.refused(bare) == self.refused(f"{bare}?token=x", data=b"judgement=keep") == 403
        assert self.refused(server.url.replace("/?", "/other?")) == 403
        assert self.refused(server.url, Host="attacker.example") == 403
        assert self.refused(server.url, data=b"judgement=own") == 400
        assert self.refused(server.url, data=b"x", **{"Content-Length": "9999999"}) == 413
        assert server.labelling.done == 0

    @pytest.mark.slow
    @pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
    def test_in_a_browser(
        self, labelling: Labelling, server: LabelServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        page, _ = label_page._page(labelling, "token")
        file = tmp_path / "page.html"
        file.write_text(page, encoding="utf-8")
        for width in (390, 1280):
            seen = look_at(file, width=width)
            assert (seen.errors, seen.scroll_width, seen.outside) == ([], width, [])
            assert not [one for one in seen.violations or () if one["impact"] in ("serious", "critical")]
        assert "<h1>&lt;script&gt;alert(" in dump(server.url, virtual_time=False)
        # Keys judge all queries, one after the other.
        press = 'document.dispatchEvent(new KeyboardEvent("keydown", {key: "k"}));'
        monkeypatch.setattr(label_page, "_SCRIPT", label_page._SCRIPT + press)
        dump(server.url)
        assert labelling.counts() == {"keep": 3, "wrong": 0, "edit": 0, "skip": 0}
