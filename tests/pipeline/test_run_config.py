"""A run's configuration file: what is read, what is refused, and what is written."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from llama_index_ace_finetune.cli import app
from llama_index_ace_finetune.datasets.splits.settings import SplitSettings
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.mining.settings import MiningSettings
from llama_index_ace_finetune.pipeline.config_file import coerce, config_text, describe_type, run_settings
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.training.config import TrainingConfig

runner = CliRunner()


def read(tmp_path: Path, text: str, **flags: Any) -> RunSettings:
    file = tmp_path / "ace-finetune.yaml"
    file.write_text(text, encoding="utf-8")
    return run_settings(file, flags)


class TestReading:
    def test_missing_settings_are_defaults(self, tmp_path: Path) -> None:
        found = read(tmp_path, "data: d.json\nout: run\n")
        assert found == RunSettings(data=Path("d.json"), out=Path("run"))

    def test_every_kind_of_value(self, tmp_path: Path) -> None:
        text = """
            data: d.json
            out: run
            min_difficulty: medium
            skip_categories: [a, b]
            mining: {teacher: some/model, relaxation: [0, null], range_max: 20}
            training: {learning_rate: 5e-5, budget_minutes: null, interpolation: [1], keep_index: true, temperature: 1}
        """
        found = read(tmp_path, text)
        assert (found.min_difficulty, found.skip_categories) == ("medium", frozenset("ab"))
        assert found.mining == MiningSettings(teacher="some/model", relaxation=(0.0, None), range_max=20)
        assert found.training == TrainingConfig(
            learning_rate=5e-5, budget_minutes=None, interpolation=(1.0,), keep_index=True, temperature=1.0
        )

    def test_seed_of_a_section_overrides_the_common_seed(self, tmp_path: Path) -> None:
        found = read(tmp_path, "{data: d, out: o, seed: 7, training: {seed: 8}}")
        assert found.seeds() == {"split": 7, "mining": 7, "training": 8}

    def test_options_override_single_settings_of_the_file(self, tmp_path: Path) -> None:
        text = "{data: d, out: o, num_negatives: 3, training: {epochs: 9, batch_size: 16}}"
        found = read(tmp_path, text, data=Path("other"), training={"epochs": 2})
        assert (found.data, found.out, found.num_negatives) == (Path("other"), Path("o"), 3)
        assert (found.training.epochs, found.training.batch_size) == (2, 16)

    def test_option_switches_off_a_setting_of_the_file(self, tmp_path: Path) -> None:
        found = read(tmp_path, "{data: d, out: o, mining: {relative_margin: 0.1}}", mining={"relative_margin": None})
        assert found.mining.relative_margin is None


class TestErrors:
    @pytest.mark.parametrize(
        ("text", "sentence"),
        [
            (
                "data: d\nout: o\ntraining:\n  lerning_rate: 1\n",
                "line 4: there is no setting 'lerning_rate' in trainin",
            ),
            ("training: {lerning_rate: 1}", "did you mean 'learning_rate'"),
            ("num_negative: 3", "line 1: there is no setting 'num_negative'; did you mean 'num_negatives'"),
            ("data: d\nepochs: 3", "line 2: there is no setting 'epochs'; move it under training"),
            ("zzz: 3", "leave it out"),
            ("training: {output_dir: x}", "there is no setting 'output_dir' in training"),
            ("resume: true", "there is no setting 'resume'"),
            ("training:\n  epochs: many", "line 2: training.epochs is 'many'; it must be a whole number"),
            ("training: {epochs: 2.5}", "must be a whole number"),
            ("training: {epochs: true}", "must be a whole number"),
            ("training: {mode: best}", "must be auto, linear, queries, in_batch, full or towers"),
            ("training: {keep_index: 1}", "must be true or false"),
            ("training: {device: 0}", "must be a text or null"),
            ("training: {interpolation: 0.5}", "must be a list in brackets, each of it a number"),
            ("min_difficulty: brutal", "must be easy, medium or hard or null"),
            ("training: 3", "line 1: training holds no settings"),
            ("training: {epochs: -1}", "cannot be used: The training setting epochs is -1"),
            ("split: {train: 0.9}", "sum to 1"),
            ("training: {epochs: 1}\nmining: {}\ntraining: {epochs: 2}", "has training on line 1 and on line 3"),
            ("data: [", "cannot be read"),
            ("- data", "is not a YAML mapping"),
            ("", "is not a YAML mapping"),
        ],
    )
    def test_one_sentence_with_file_line_and_remedy(self, tmp_path: Path, text: str, sentence: str) -> None:
        with pytest.raises(AceFinetuneError) as refusal:
            read(tmp_path, text)
        message = str(refusal.value)
        assert sentence in message
        assert "ace-finetune.yaml" in message
        assert "\n" not in message

    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(AceFinetuneError, match=r"no\.yaml.*does not exist"):
            run_settings(tmp_path / "no.yaml", {})

    @pytest.mark.parametrize("name", ["data", "out"])
    def test_missing_data_or_out(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(AceFinetuneError, match=f"does not say {name}; give it with --{name}"):
            read(tmp_path, "out: o" if name == "data" else "data: d")

    def test_error_in_an_option_does_not_name_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(AceFinetuneError) as refusal:
            read(tmp_path, "{data: d, out: o}", training={"epochs": -1})
        assert "ace-finetune.yaml" not in str(refusal.value)

    def test_on_the_command_line(self, tmp_path: Path) -> None:
        file = tmp_path / "c.yaml"
        file.write_text("data: d\nout: o\nnum_negatives: few\n", encoding="utf-8")
        result = runner.invoke(app, ["run", "--config", str(file)])
        assert result.exit_code == 2
        assert "line 3: num_negatives is 'few'" in result.stderr


class TestWriting:
    def test_init_writes_the_defaults_with_a_comment_on_each(self, tmp_path: Path) -> None:
        file = tmp_path / "ace-finetune.yaml"
        done = runner.invoke(app, ["init", "--out", str(file), "--data", "d.json", "--run", "r"])
        assert done.exit_code == 0, done.output
        assert run_settings(file, {}) == RunSettings(data=Path("d.json"), out=Path("r"))
        lines = file.read_text(encoding="utf-8").splitlines()
        settings = [n for n, line in enumerate(lines) if ":" in line and not line.strip().startswith("#")]
        bare = [lines[n] for n in settings if not lines[n - 1].strip().startswith("#")]
        assert bare == ["split:", "mining:", "training:"]
        held = yaml.safe_load(file.read_text(encoding="utf-8"))
        assert set(held["training"]) == {field.name for field in fields(TrainingConfig)} - {"output_dir", "seed"}
        assert set(held["mining"]) == {field.name for field in fields(MiningSettings)} - {"seed"}
        assert set(held["split"]) == {field.name for field in fields(SplitSettings)} - {"seed"}

    def test_init_replaces_nothing_without_force(self, tmp_path: Path) -> None:
        file = tmp_path / "mine.yaml"
        file.write_text("mine", encoding="utf-8")
        refused = runner.invoke(app, ["init", "--out", str(file)])
        assert (refused.exit_code, file.read_text(encoding="utf-8")) == (2, "mine")
        assert "is there already" in refused.stderr
        assert runner.invoke(app, ["init", "--out", str(file), "--force"]).exit_code == 0
        assert "training:" in file.read_text(encoding="utf-8")

    @settings(max_examples=40)
    @example(seeds=(0, 2, 1), rate=1.0, name="ends in a no-break space\xa0", skipped=frozenset(), budget=None)
    @given(
        seeds=st.tuples(*[st.integers(0, 3)] * 3),
        rate=st.floats(1e-9, 10),
        name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1),
        skipped=st.frozensets(st.text("ab: #'\"-", min_size=1)),
        budget=st.none() | st.floats(0.01, 1e6),
    )
    def test_written_settings_are_read_back_equal(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        seeds: tuple[int, int, int],
        rate: float,
        name: str,
        skipped: frozenset[str],
        budget: float | None,
    ) -> None:
        written = RunSettings(
            data=Path(name),
            out=Path("o"),
            skip_categories=skipped,
            split=SplitSettings(seed=seeds[0], group_field=name),
            mining=MiningSettings(seed=seeds[1], relaxation=(0.03, None)),
            training=TrainingConfig(seed=seeds[2], learning_rate=rate, budget_minutes=budget, dimensions=(64, 32)),
        )
        file = tmp_path_factory.mktemp("config") / "c.yaml"
        file.write_text(config_text(written), encoding="utf-8")
        assert run_settings(file, {}) == written


class TestCoerce:
    @pytest.mark.parametrize(
        ("value", "hint", "typed"),
        [
            (3, float, 3.0),
            ("1e-3", float, 0.001),
            ("a", Path, Path("a")),
            ([1, None], tuple[float | None, ...], (1.0, None)),
            (["a"], frozenset[str], frozenset({"a"})),
            (None, int | None, None),
            ("b", Literal["a", "b"], "b"),
        ],
    )
    def test_accepted(self, value: Any, hint: Any, typed: Any) -> None:
        found = coerce(value, hint)
        assert (found, type(found)) == (typed, type(typed))

    @pytest.mark.parametrize(
        ("value", "hint", "must"),
        [
            (True, int, "a whole number"),
            (1, bool, "true or false"),
            ("x", float, "a number"),
            (3, str, "a text"),
            ([1], Literal["a", "b"], "a or b"),
            ("ab", tuple[str, ...], "a list in brackets, each of it a text"),
        ],
    )
    def test_refused(self, value: Any, hint: Any, must: str) -> None:
        with pytest.raises(TypeError, match=f"^{must}$"):
            coerce(value, hint)
        assert describe_type(hint) == must
