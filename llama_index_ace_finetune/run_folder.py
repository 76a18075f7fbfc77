"""The folder that a run leaves: what lies where."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from typing_extensions import NotRequired, TypedDict

from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, OutputExistsError, quoted
from llama_index_ace_finetune.utils.checked import checked
from llama_index_ace_finetune.utils.old_settings import current_mining, current_training
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.refusal import Refusal

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2
MAX_REPORT_BYTES: Final = 256 * 2**20
_RUN_FILE: Final = Refusal("The file", "make the run again")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Serving:
    """What dev chose: whose vectors to search, those of the model folder or the base's, and the weights of the legs.

    The weights are of the dense and the BM25 leg under RRF; a leg with weight 0 is not needed. `baseline_weights` are
    those for the base model where it has to stand in; None where they are the same.
    """

    vectors: Literal["model", "base"] = "model"
    weights: tuple[float, float] = (1.0, 1.0)
    baseline_weights: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run folder.

    manifest.json       what was run on what; its presence marks a finished run
    config.yaml         every setting, to run it again
    split.json          which query is train, dev, test
    training_data.json  queries, right answers, mined negatives, corpus
    mining/             report of the mining: counts, histograms, samples
    model/              what ships
    index/              embedded store with the vectors of model and base
    report.json, report.html, report.per_query.jsonl
    """

    path: Path

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Return a finished run.

        Raises:
            AceFinetuneError: if there is none.
        """
        if not _is_file(path / MANIFEST):
            raise AceFinetuneError(
                f"{str(path)!r} holds no finished run (no {MANIFEST}); make one with `ace-finetune run --out {path}`."
            )
        return cls(path)

    @classmethod
    def of_model(cls, model: str | Path) -> RunFolder | None:
        """Return the finished run in whose folder this model lies, as it is or exported; None for one elsewhere."""
        run = cls(Path(model).resolve().parent)
        return run if _is_file(run.manifest) else None

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder for a new run.

        Raises:
            OutputExistsError: if there is something already.
        """
        if path.is_file():
            raise OutputExistsError(f"The output {str(path)!r} is a file; give a folder.")
        if path.is_dir() and any(path.iterdir()):
            what = "a run" if (path / MANIFEST).is_file() else "other files"
            raise OutputExistsError(
                f"The output folder {str(path)!r} already holds {what}; give another folder, or delete it first."
            )
        return cls(path)

    @property
    def manifest(self) -> Path:
        """What was run."""
        return self.path / MANIFEST

    @property
    def config(self) -> Path:
        """Every setting, as `ace-finetune run --config` takes it."""
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        """The division of the queries."""
        return self.path / "split.json"

    @property
    def training_data(self) -> Path:
        """Mined examples."""
        return self.path / "training_data.json"

    @property
    def mining(self) -> Path:
        """Folder with the report of the mining."""
        return self.path / "mining"

    @property
    def model(self) -> Path:
        """The model that ships."""
        return self.path / "model"

    @property
    def index(self) -> Path:
        """The embedded store."""
        return self.path / "index"

    @property
    def report(self) -> Path:
        """The figures."""
        return self.path / "report.json"

    def base_model(self) -> str | None:
        """Name of the base model, from the model's record or, where that is gone or broken, from the manifest."""
        try:
            record = read_provenance(self.model)
        except ModelError:
            record = None
        name = (record or self.read_manifest()).get("base_model")
        return str(name) if name else None

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest, that of an older version as it would be written now.

        Raises:
            AceFinetuneError: where it is corrupt.
        """
        return _current(self._read(self.manifest))

    def serving(self) -> Serving:
        """Return what dev chose to serve, from the report; where that is gone, from the manifest, which is logged.

        Where the manifest does not say it either, as in a run of an earlier version, the tuned model serves with equal
        weights.

        Raises:
            AceFinetuneError: for a report that is corrupt, or of an earlier version.
        """
        if _is_file(self.report):
            return self._serving(self.report)
        if "serving" in self.read_manifest():
            logger.warning("the report %s is gone; what serves is taken from %s", self.report, MANIFEST)
            return self._serving(self.manifest)
        logger.warning("the report %s is gone: the tuned model serves, with equal weights", self.report)
        return Serving()

    def _serving(self, file: Path) -> Serving:
        chosen = checked(self._read(file), _Report, file, _RUN_FILE)["serving"]
        serving = Serving(chosen["vectors"], chosen["weights"], chosen.get("baseline_weights"))
        for pair in (serving.weights, serving.baseline_weights):
            if pair and not all(0 <= weight < math.inf for weight in pair):
                raise _RUN_FILE.because(file, f"is corrupt (serving.weights: {quoted(pair)})")
        return serving

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        return read_json_object(file, _RUN_FILE, max_bytes=MAX_REPORT_BYTES)


def _is_file(file: Path) -> bool:
    """Whether the file is there; raises AceFinetuneError where the folder may not be looked into."""
    try:
        return file.is_file()
    except OSError as error:
        raise AceFinetuneError(
            f"The run folder {str(file.parent)!r} cannot be read ({error.strerror}); check its permissions."
        ) from error


def _current(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest with the names and margins of `MANIFEST_VERSION`."""
    if manifest.get("format_version") != 1:
        return manifest
    manifest = {**manifest, "format_version": MANIFEST_VERSION}
    if "negatives" in manifest:
        manifest["num_negatives"] = manifest.pop("negatives")
    for name, current in (("mining", current_mining), ("training", current_training)):
        if isinstance(manifest.get(name), dict):
            manifest[name] = current(manifest[name])
    return manifest


class _Chosen(TypedDict):
    vectors: Literal["model", "base"]
    weights: tuple[float, float]
    baseline_weights: NotRequired[tuple[float, float] | None]


class _Report(TypedDict):
    """What is read of a report to serve a run."""

    serving: _Chosen
