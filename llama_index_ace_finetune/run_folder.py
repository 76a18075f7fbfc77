"""RunFolder: the files of a run."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError, OutputExistsError
from llama_index_ace_finetune.serving import RUN_FILE, Serving, parse_serving
from llama_index_ace_finetune.utils.old_settings import current_mining, current_training
from llama_index_ace_finetune.utils.read_json import read_json_object

MANIFEST = "manifest.json"
MANIFEST_VERSION = 2
MAX_REPORT_BYTES: Final = 256 * 2**20
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths inside a run folder.

    manifest.json       inputs and stages; its presence marks a finished run
    config.yaml         all settings, to run it again
    split.json          the train, dev and test queries
    synthetic.jsonl     the synthetic queries, if there are any; beside it their report and the answers of the model
    training_data.json  queries, positives, mined negatives, corpus
    mining/             mining report: counts, histograms, samples
    model/              the selected model, or the refitted one
    selected/           the weights selected on dev, if a refit ships in their place
    index/              embedded store with the vectors of the model and the base
    report.json, report.html, report.per_query.jsonl
    folds/              of a run with folds: split and results of the second fold and the others
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
        """Return the finished run whose folder holds this model or export; None if there is none."""
        run = cls(Path(model).resolve().parent)
        return run if _is_file(run.manifest) else None

    @classmethod
    def create(cls, path: Path) -> RunFolder:
        """Make the folder for a new run.

        Raises:
            OutputExistsError: if it is a file or not empty.
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
        """Inputs and stages."""
        return self.path / MANIFEST

    @property
    def config(self) -> Path:
        """All settings, as `ace-finetune run --config` takes them."""
        return self.path / "config.yaml"

    @property
    def split(self) -> Path:
        """The split of the queries."""
        return self.path / "split.json"

    @property
    def training_data(self) -> Path:
        """Training examples with mined negatives."""
        return self.path / "training_data.json"

    @property
    def synthetic(self) -> Path:
        """The synthetic queries; not there unless the run wrote any."""
        return self.path / "synthetic.jsonl"

    @property
    def mining(self) -> Path:
        """Folder of the mining report."""
        return self.path / "mining"

    @property
    def model(self) -> Path:
        """The model that ships: the selected one, or the refitted one."""
        return self.path / "model"

    @property
    def selected(self) -> Path:
        """The model with the weights that were selected on dev; not there unless a refit ships in their place."""
        return self.path / "selected"

    @property
    def index(self) -> Path:
        """The embedded store."""
        return self.path / "index"

    @property
    def folds(self) -> Path:
        """Folder of the other folds, by their number from 2; not there unless the run has folds."""
        return self.path / "folds"

    @property
    def report(self) -> Path:
        """Measures, verdict and serving choice."""
        return self.path / "report.json"

    def base_model(self) -> str | None:
        """Name of the base model, from the model's record or, if that is missing or damaged, from the manifest."""
        try:
            record = read_provenance(self.model)
        except ModelError:
            record = None
        name = (record or self.read_manifest()).get("base_model")
        return str(name) if name else None

    def read_manifest(self) -> dict[str, Any]:
        """Return the manifest; one of an older version is converted.

        Raises:
            AceFinetuneError: if it is corrupt.
        """
        return _current(self._read(self.manifest))

    def serving(self) -> Serving:
        """Return the system to serve, from the report; if that is missing, from the manifest, with a warning.

        If the manifest does not have it either, as in a run of an earlier version, the tuned model serves with equal
        weights.

        Raises:
            AceFinetuneError: for a report that is corrupt, or of an earlier version.
        """
        if _is_file(self.report):
            return parse_serving(self._read(self.report), self.report)
        if "serving" in self.read_manifest():
            logger.warning("the report %s is missing; the system to serve is read from %s", self.report, MANIFEST)
            return parse_serving(self._read(self.manifest), self.manifest)
        logger.warning("the report %s is missing: the tuned model serves, with equal weights", self.report)
        return Serving()

    @staticmethod
    def _read(file: Path) -> dict[str, Any]:
        return read_json_object(file, RUN_FILE, max_bytes=MAX_REPORT_BYTES)


def index_beside(model: Path) -> Path:
    """Return where the index of a model folder is: `index` in a run folder, else `<model>_index` beside it."""
    folder = model.resolve()
    return folder.parent / ("index" if folder.name == "model" else f"{folder.name}_index")


def token_folder(index: Path) -> Path:
    """Return where the token vectors of an index are."""
    return index / "tokens"


def sparse_folder(index: Path) -> Path:
    """Return where the sparse vectors of an index are."""
    return index / "sparse"


def known_query_folder(index: Path) -> Path:
    """Return where the known queries of an index are."""
    return index / "known_queries"


def window_folder(index: Path) -> Path:
    """Return where the windows of an index's long texts are."""
    return index / "windows"


def _is_file(file: Path) -> bool:
    """Return whether the file exists; raises AceFinetuneError if the folder cannot be read."""
    try:
        return file.is_file()
    except OSError as error:
        raise AceFinetuneError(
            f"The run folder {str(file.parent)!r} cannot be read ({error.strerror}); check its permissions."
        ) from error


def _current(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest converted to `MANIFEST_VERSION`."""
    if manifest.get("format_version") != 1:
        return manifest
    manifest = {**manifest, "format_version": MANIFEST_VERSION}
    if "negatives" in manifest:
        manifest["num_negatives"] = manifest.pop("negatives")
    for name, current in (("mining", current_mining), ("training", current_training)):
        if isinstance(manifest.get(name), dict):
            manifest[name] = current(manifest[name])
    return manifest
