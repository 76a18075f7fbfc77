"""Hyperparameter search: the rule of choice, the search space, and a real study on a tiny model."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.pipeline.tune import TuningResult, tune
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.fine_tuner import EmbeddingFineTuner
from llama_index_ace_finetune.tuning import study
from llama_index_ace_finetune.tuning.choose_trial import choose_trial
from llama_index_ace_finetune.tuning.search_space import SearchSpace
from tests.encoders.tiny_model import tiny_model
from tests.training.quick_training import QUICK

pytest.importorskip("optuna")

SPACE = SearchSpace(batch_size=(8, 16), hard_negatives=(0, 1), learning_rate=(1e-5, 1e-2))
DEFAULT = {"learning_rate": 1e-4, "temperature": 0.05, "batch_size": 8, "hard_negatives": 1}


class TestChoice:
    GROUPS = ("a", "b", "c", "d")

    def test_gain_above_one_standard_error(self) -> None:
        values = np.array([[0.0, 0.5, 0.0, 0.5], [0.2, 0.5, 0.2, 0.5], [1.0, 0.5, 1.0, 1.0]])
        choice = choose_trial(values, groups=self.GROUPS)
        # Differences 1, 0, 1, .5: mean .625, sample deviation .4787, standard error .2394.
        assert (choice.chosen, choice.best) == (2, 2)
        assert (choice.gain, choice.error) == pytest.approx((0.625, 0.239357), abs=1e-5)

    def test_gain_within_one_standard_error_keeps_the_default(self) -> None:
        values = np.array([[0.5, 0.5, 0.5, 0.5], [1.0, 0.5, 0.5, 0.4]])
        choice = choose_trial(values, groups=self.GROUPS)
        assert (choice.chosen, choice.best) == (0, 1)

    def test_one_group_keeps_the_default(self) -> None:
        assert choose_trial(np.array([[0.0, 0.0], [1.0, 1.0]]), groups=["a", "a"]).chosen == 0

    def test_default_only(self) -> None:
        assert choose_trial(np.array([[0.3, 0.1]]), groups=["a", "b"]).chosen == 0


class TestSpace:
    def test_default_settings_are_inside(self) -> None:
        assert SearchSpace().point(TrainingConfig()) == {
            "learning_rate": 1e-4, "temperature": 0.05, "batch_size": 64, "hard_negatives": 1,
        }  # fmt: skip

    @pytest.mark.parametrize("config", [{"learning_rate": 1.0}, {"batch_size": 48}])
    def test_default_outside_its_range_is_refused(self, config: dict[str, float]) -> None:
        with pytest.raises(AceFinetuneError, match=r"outside its range .*widen the range"):
            SearchSpace().point(TrainingConfig(**config))  # type: ignore[arg-type]

    @pytest.mark.parametrize("values", [{"temperature": (0.1, 0.02)}, {"learning_rate": (0, 1)}, {"batch_size": ()}])
    def test_invalid_ranges_are_refused(self, values: dict[str, tuple[float, ...]]) -> None:
        with pytest.raises(AceFinetuneError):
            SearchSpace(**values)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("tuning") / "tiny")


def search(suite: Path, base: Path, out: Path, trials: int, **config: object) -> TuningResult:
    settings = TrainingConfig(**{**QUICK, "mode": "auto", "base_model": str(base), **config})  # type: ignore[arg-type]
    return tune(suite, out, trials=trials, config=settings, space=SPACE)


@pytest.mark.slow  # three trainings
def test_study_is_resumed_and_its_result_is_a_configuration(suite: Path, base: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuning"
    first = search(suite, base, out, 1)
    assert [trial.settings for trial in first.trials] == [DEFAULT]
    assert not first.improved
    second = search(suite, base, out, 3)
    assert [trial.number for trial in second.trials] == [0, 1, 2]
    assert second.trials[0].dev_mrr == first.trials[0].dev_mrr
    assert search(suite, base, out, 3).trials == second.trials
    config = yaml.safe_load(second.config.read_text())
    assert {name: config["training"][name] for name in second.chosen} == second.chosen
    assert (config["data"], config["training"]["mode"]) == (str(suite), "auto")
    report = json.loads((out / "trials.json").read_text())
    assert [trial["number"] for trial in report["trials"]] == [0, 1, 2]
    assert (out / "trials.png").read_bytes().startswith(b"\x89PNG")
    assert not list(out.glob("trial-*"))
    with pytest.raises(AceFinetuneError, match="of other data or settings"):
        search(suite, base, out, 3, epochs=2)


def test_failed_trial_is_one_sentence_and_the_default_settings_are_repeated(
    suite: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuning"
    with monkeypatch.context() as broken:
        broken.setattr(EmbeddingFineTuner, "initialize_model", _fail)
        with pytest.raises(AceFinetuneError, match="no time"):
            search(suite, base, out, 1)
    assert "Traceback" not in capfd.readouterr().err
    done = search(suite, base, out, 1)
    assert [trial.state for trial in done.trials] == ["fail", "complete"]
    assert done.trials[1].settings == DEFAULT


def _fail(*_: object) -> None:
    raise AceFinetuneError("There is no time; raise the budget.")


@pytest.mark.filterwarnings("ignore:Heartbeat of storage:UserWarning")  # `ask` stands for a process that was killed
def test_trial_of_a_killed_process_is_repeated(
    suite: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "_HEARTBEAT", 1)
    out = tmp_path / "tuning"
    with monkeypatch.context() as killed:
        killed.setattr(study.Study, "run", _begin_and_vanish)
        search(suite, base, out, 1)
    time.sleep(3)  # silent for longer than twice the heartbeat
    done = search(suite, base, out, 2)
    assert [trial.state for trial in done.trials] == ["fail", "complete", "complete"]
    assert DEFAULT in [trial.settings for trial in done.trials[1:]]


def _begin_and_vanish(self: study.Study, *_: object, **__: object) -> None:
    trial = self._study.ask()
    self.space.sample(trial, self._config)
    self._study._storage.record_heartbeat(trial._trial_id)


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\x00" + b"\xff" * 200])
def test_damaged_study_is_refused(suite: Path, base: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "tuning"
    out.mkdir()
    (out / "study.db").write_bytes(content)
    with pytest.raises(AceFinetuneError, match=r"study\.db' cannot be opened"):
        search(suite, base, out, 1)
    assert (out / "study.db").read_bytes() == content
