from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llama_index_ace_finetune.datasets.types import Memory, Query, RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.histograms import score_histograms
from llama_index_ace_finetune.mining.miner import HardNegativeMiner
from llama_index_ace_finetune.mining.plot import plot_mining
from llama_index_ace_finetune.mining.report import mining_counts, save_mining_report
from llama_index_ace_finetune.mining.settings import MiningSettings

EMPTY = np.empty(0, np.float32)


@pytest.fixture(scope="module")
def mined(minilm: Encoder, small_dataset: RetrievalDataset) -> HardNegativeMiner:
    settings = MiningSettings(relative_margin=0.1, relaxation=(0.0,), seed=3)
    miner = HardNegativeMiner(encoder=minilm, settings=settings)
    miner.mine(small_dataset, list(small_dataset.queries), count=4)
    return miner


def test_histograms_of_cosines_have_fixed_bins() -> None:
    found = score_histograms(
        positives=np.array([-1, 1, 1.0000001], np.float32),
        kept=np.array([0.0, 0.049, 0.051, -0.001], np.float32),
        filtered={"near-duplicate": np.array([0.96, np.nan], np.float32)},
        teacher=False,
    ).to_dict()
    assert found["scores"] == "cosine"
    assert found["edges"] == [round(-1 + place * 0.05, 6) for place in range(41)]
    assert found["positives"] == [1, *[0] * 38, 2]
    assert {place: number for place, number in enumerate(found["kept"]) if number} == {19: 1, 20: 2, 21: 1}
    assert found["filtered"] == {"near-duplicate": [*[0] * 39, 1]}


def test_histograms_of_teacher_scores_span_their_range() -> None:
    found = score_histograms(
        positives=np.array([8.0], np.float32), kept=np.array([-4.0, 2.0], np.float32), filtered={}, teacher=True
    ).to_dict()
    assert (found["scores"], found["edges"][0], found["edges"][-1], len(found["edges"])) == ("teacher", -4.0, 8.0, 41)
    assert found["kept"][0] == 1
    assert found["kept"][20] == 1
    assert found["positives"][-1] == 1
    one = score_histograms(positives=np.array([3.0], np.float32), kept=EMPTY, filtered={}, teacher=True)
    assert one.positives.sum() == 1
    assert score_histograms(positives=EMPTY, kept=EMPTY, filtered={}, teacher=True).kept.sum() == 0


def test_report_counts_add_up(mined: HardNegativeMiner, small_dataset: RetrievalDataset) -> None:
    report = mined.report
    assert report["candidates"] == report["kept"] + sum(report["filtered"].values()) + report["not_needed"]
    assert report["queries"] == len(small_dataset.queries)
    assert report["candidates_per_source"]["dense"] == 60 * 12
    assert report["relaxed"][0]["relative_margin"] == 0.0
    assert report["relaxed"][0]["queries"] > 0
    assert sum(report["histograms"]["kept"]) == report["kept"]
    assert sum(report["histograms"]["positives"]) == 60
    assert report["settings"]["relative_margin"] == 0.1
    left = report["candidates"]
    for name, rate in report["passing"].items():
        accepted = left - report["filtered"].get(name, 0)
        assert rate == pytest.approx(accepted / left, abs=1e-4)
        left = accepted


def test_samples_show_positives_and_negatives(
    mined: HardNegativeMiner, small_dataset: RetrievalDataset, minilm: Encoder
) -> None:
    samples = mined.report["samples"]
    assert len(samples) == 20
    texts = {memory.text[:200] for memory in small_dataset.memories.values()}
    queries = {query.text[:200]: query_id for query_id, query in small_dataset.queries.items()}
    for sample in samples:
        relevant = {small_dataset.memories[i].text[:200] for i in small_dataset.relevant(queries[sample["query"]])}
        assert sample["right"] in relevant
        for negative in sample["negatives"]:
            assert negative["text"] in texts - relevant
            found = negative["found_by"][negative["source"]]
            assert (found["rank"], found["score"]) == (negative["rank"], negative["score"])
            if "dense" in negative["found_by"]:
                assert negative["found_by"]["dense"]["score"] == pytest.approx(negative["similarity"], abs=1e-5)
    again = HardNegativeMiner(encoder=minilm, settings=mined.settings)
    again.mine(small_dataset, list(small_dataset.queries), count=4)
    assert again.report == mined.report
    other = HardNegativeMiner(encoder=minilm, settings=MiningSettings(seed=4))
    other.mine(small_dataset, list(small_dataset.queries), count=4)
    assert [sample["query"] for sample in other.report["samples"]] != [sample["query"] for sample in samples]


def test_long_texts_in_samples_are_truncated(minilm: Encoder) -> None:
    texts = {"1": "alpha " * 60, "2": "beta " * 60}
    data = RetrievalDataset(
        name="long",
        memories={i: Memory(i, text) for i, text in texts.items()},
        queries={"q": Query("q", "gamma " * 60)},
        judgements={"q": {"1": 1.0}},
    )
    miner = HardNegativeMiner(encoder=minilm)
    miner.mine(data, ["q"], count=1)
    (sample,) = miner.report["samples"]
    assert [len(text) for text in (sample["query"], sample["right"], sample["negatives"][0]["text"])] == [200] * 3


def test_report_is_saved_as_json_and_png(mined: HardNegativeMiner, tmp_path: Path) -> None:
    save_mining_report(mined.report, tmp_path / "new" / "folder")
    written = sorted(path.name for path in (tmp_path / "new" / "folder").iterdir())
    assert written == ["mining_report.json", "mining_report.png"]
    saved = json.loads((tmp_path / "new" / "folder" / "mining_report.json").read_text(encoding="utf-8"))
    assert saved == mined.report
    assert not {"histograms", "samples"} & set(mining_counts(saved))
    assert mining_counts(saved)["kept"] == saved["kept"]
    plot = (tmp_path / "new" / "folder" / "mining_report.png").read_bytes()
    save_mining_report(mined.report, tmp_path / "new" / "folder")
    assert (tmp_path / "new" / "folder" / "mining_report.png").read_bytes() == plot


def test_plot_shows_the_histograms(mined: HardNegativeMiner, tmp_path: Path) -> None:
    from matplotlib.image import imread

    plot_mining(mined.report, tmp_path / "full.png")
    nothing = {**mined.report["histograms"], "kept": [0] * 40, "filtered": {}}
    plot_mining({"histograms": nothing}, tmp_path / "less.png")
    full, less = imread(tmp_path / "full.png"), imread(tmp_path / "less.png")
    assert full.shape == less.shape == (600, 800, 4)
    assert (full != less).mean() > 0.01
    assert len(np.unique(full.reshape(-1, 4), axis=0)) > 10


def test_plot_does_not_import_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys; from llama_index_ace_finetune.mining.plot import plot_mining\n"
        "h = {'scores': 'cosine', 'edges': [-1, 0, 1], 'positives': [0, 1], 'kept': [1, 0], 'filtered': {}}\n"
        "plot_mining({'histograms': h}, sys.argv[1]); sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "p.png")], check=False)
    assert done.returncode == 0
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")


def test_reports_that_cannot_be_saved_are_refused(mined: HardNegativeMiner, tmp_path: Path) -> None:
    with pytest.raises(AceFinetuneError, match="no mining report to save; mine first"):
        save_mining_report({}, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AceFinetuneError, match="file', is a file; give a folder"):
        save_mining_report(mined.report, tmp_path / "file")
