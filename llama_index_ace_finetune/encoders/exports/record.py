"""ExportRecord: source, files and dev accuracy of an export."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from llama_index_ace_finetune.encoders.exports.runtime import EXPORT_BACKENDS, ExportBackend
from llama_index_ace_finetune.encoders.fingerprint import EXPORT_RECORD, file_hash
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.utils.atomic import write_json
from llama_index_ace_finetune.utils.file_errors import Refusal
from llama_index_ace_finetune.utils.read_json import read_json_object
from llama_index_ace_finetune.utils.validation import checked

FORMAT_VERSION = 1
TOKENIZER = "tokenizer.json"
_RECORD = Refusal("The record", "export again with `ace-finetune export`", ModelError)
_MOST = 2**20


@dataclass(frozen=True, kw_only=True)
class DevLoss:
    """MRR@10 on dev of the model in torch and of its export.

    Attributes:
        queries: number of queries.
        memories: number of ranked memories.
        torch: MRR@10 of the model in torch.
        export: MRR@10 with queries and memories encoded by the export.
        mixed: MRR@10 with queries by the export and memories by torch, as in an index built before the export.
        loss: `torch` minus the smaller of the others; negative if the export is better.
    """

    queries: int
    memories: int
    torch: float
    export: float
    mixed: float

    @property
    def loss(self) -> float:
        """Loss in the worse of the two uses."""
        return self.torch - min(self.export, self.mixed)


@dataclass(frozen=True, kw_only=True)
class ExportRecord:
    """The record in the folder of an export.

    Attributes:
        backend: runtime of the export.
        precision: of its weights.
        source: fingerprint of the files of the exported model, without settings.
        graphs: file name per role; one file serves both roles unless the model is a dual encoder.
        files: sha256 of every file.
        dimension: dimension of the vectors.
        max_seq_length: maximum tokens per text.
        padding_id: id of the padding token.
        token_states: whether the graphs also give the states of all tokens; exports of version 0.1.0 do not.
        dev: accuracy on dev; None if it was not measured.
        query_milliseconds: median latency of one query, by "torch" and by "export", on the exporting machine.
    """

    backend: ExportBackend
    precision: Literal["float32", "int8"]
    source: str
    graphs: dict[str, str]
    files: dict[str, str]
    dimension: int
    max_seq_length: int
    padding_id: int
    token_states: bool = False
    dev: DevLoss | None = None
    query_milliseconds: dict[str, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return {"format_version": FORMAT_VERSION, **asdict(self)}

    def write(self, folder: Path) -> None:
        """Write the record into the export's folder."""
        write_json(folder / EXPORT_RECORD, self.to_dict())

    @classmethod
    def read(cls, folder: Path) -> ExportRecord:
        """Read the record in the folder of an export.

        Raises:
            ModelError: if there is no record, or it cannot be read.
        """
        file = folder / EXPORT_RECORD
        if not file.is_file():
            raise ModelError(f"There is no export in {str(folder)!r}; create one with `ace-finetune export`.")
        content = read_json_object(file, _RECORD)
        if content.pop("format_version", None) != FORMAT_VERSION:
            raise _RECORD.because(file, "is corrupt (of another version)")
        record = checked(content, cls, file, _RECORD)
        roles = {"query", "document"}
        if record.graphs.keys() != roles or not record.files.keys() >= {TOKENIZER, *record.graphs.values()}:
            raise _RECORD.because(file, "is corrupt (it names other files than it lists)")
        if not (0 < record.dimension <= _MOST and 0 < record.max_seq_length <= _MOST and record.padding_id >= 0):
            raise _RECORD.because(file, "is corrupt (a number is out of range)")
        return record


def exports_of(model: Path) -> list[ExportBackend]:
    """Return the backends that the model folder has an export for."""
    return [backend for backend in EXPORT_BACKENDS if (model / backend / EXPORT_RECORD).is_file()]


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the sha256 per file in the folder of an export, except the record and hidden files."""
    names = (path for path in folder.iterdir() if path.name != EXPORT_RECORD and not path.name.startswith("."))
    files = sorted(path for path in names if path.is_file())
    return {path.name: file_hash(path) for path in files}
