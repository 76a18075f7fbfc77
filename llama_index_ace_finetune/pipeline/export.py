"""Export a model for a runtime without torch, if it ranks as well on dev."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from llama_index_ace_finetune.datasets.splits.shipped_refit import shipped_refit
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.exports.card import write_card
from llama_index_ace_finetune.encoders.exports.exported_encoder import ExportedEncoder
from llama_index_ace_finetune.encoders.exports.record import DevLoss, ExportRecord
from llama_index_ace_finetune.encoders.exports.runtime import EXPORT_BACKENDS, ExportBackend, require_runtime
from llama_index_ace_finetune.encoders.identity import identify_model
from llama_index_ace_finetune.encoders.provenance import read_provenance
from llama_index_ace_finetune.encoders.settings import EncoderSettings
from llama_index_ace_finetune.errors import AceFinetuneError, ModelError
from llama_index_ace_finetune.run_folder import MANIFEST, RunFolder
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.data.divide_examples import divide_examples
from llama_index_ace_finetune.training.data.examples import index_examples
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet
from llama_index_ace_finetune.utils.new_folder import new_folder, require_replaceable, tidy

MAX_LOSS = 0.005
EXPORT = "export"
_TIMED, _UNTIMED = 40, 5
_COMPARED_TEXTS = 64

logger = logging.getLogger(__name__)


def export(
    path: str | Path,
    *,
    backend: ExportBackend,
    int8: bool = False,
    max_loss: float = MAX_LOSS,
    training_data: str | Path | None = None,
) -> ExportRecord:
    """Export a model for serving without torch, if dev MRR@10 falls by at most `max_loss`; return the export's record.

    The export is the folder `backend` of the model folder.

    Args:
        path: a run folder, or a model folder.
        backend: "onnx" or "openvino".
        int8: 8-bit weights ("onnx" only).
        max_loss: largest decrease of dev MRR@10, absolute.
        training_data: file with the dev queries; by default the one of the run.

    Raises:
        ModelError: if the model cannot be exported, a package is missing, or dev MRR@10 falls by more.
        OutputExistsError: if the folder holds something else.
        AceFinetuneError: without dev queries.
    """
    model, dev = find_model(Path(path), None if training_data is None else Path(training_data))
    return export_model(model, dev, backend=backend, int8=int8, max_loss=max_loss)


def export_model(
    model: Path, dev: DevSet, *, backend: ExportBackend, int8: bool = False, max_loss: float = MAX_LOSS
) -> ExportRecord:
    """Write the export into the folder `backend` of the model folder and a line into its card; return its record.

    It is kept only if dev MRR@10 falls by at most `max_loss` (absolute), both with memories embedded by the export
    and with memories embedded in torch; otherwise the folder is left unchanged.

    Args:
        model: a model folder.
        dev: queries that were not trained on.
        backend: "onnx" or "openvino".
        int8: 8-bit weights ("onnx" only).
        max_loss: the bound.

    Raises:
        ModelError: if the model cannot be exported, a package is missing, or dev MRR@10 falls by more.
        OutputExistsError: if the folder holds something else.
    """
    if backend not in EXPORT_BACKENDS:
        raise ModelError(f"There is no export for the backend {backend!r}; take onnx or openvino.")
    require_runtime(backend)
    if not model.is_dir():
        raise ModelError(
            f"The model {str(model)!r} is not a folder, and an export is kept in one; copy it to a folder."
        )
    target = model / backend
    tidy(target)
    require_replaceable(target, kind=EXPORT)
    settings = EncoderSettings(device="cpu")
    identity = identify_model(model, settings=settings)
    encoder = Encoder.load(model, settings=settings)

    from llama_index_ace_finetune.encoders.exports.write_graphs import require_same_tokens, write_graphs

    with new_folder(target, kind=EXPORT) as folder:
        record = write_graphs(
            encoder.model, folder, name=str(model), source=identity.content, backend=backend, int8=int8
        )
        exported = ExportedEncoder(identity, folder, record, name=str(model), settings=settings)
        queries, corpus = dev.examples.queries, dev.examples.corpus
        require_same_tokens(encoder, exported, [*queries[:_COMPARED_TEXTS], *corpus[:_COMPARED_TEXTS]])
        loss = _dev_loss(encoder, exported, dev)
        if loss.loss > max_loss:
            raise ModelError(
                f"The {describe_export(record)} export of {str(model)!r} is not kept, since dev MRR@10 falls by "
                f"{loss.loss:.4f} (from {loss.torch:.4f} over {loss.queries} queries), more than {max_loss:g}; "
                "take another backend or precision, or allow more with --max-loss."
            )
        record = replace(record, dev=loss, query_milliseconds=_query_milliseconds(encoder, exported, queries))
        record.write(folder)
    write_card(model)
    return record


def find_model(path: Path, training_data: Path | None = None) -> tuple[Path, DevSet]:
    """Return the model folder of a run folder or of itself, and its dev queries.

    Args:
        path: a run folder, or a model folder.
        training_data: the file that the model was trained on; by default the one of its run.

    Raises:
        AceFinetuneError: if there are no dev queries.
    """
    if (path / MANIFEST).is_file():
        run, model = RunFolder.open(path), RunFolder.open(path).model
    else:
        run, model = RunFolder(path.resolve().parent), path
    file = training_data or run.training_data
    if not file.is_file():
        raise AceFinetuneError(
            f"There are no dev queries to measure an export of {str(path)!r} on; give the file that it was trained on "
            "with --training-data."
        )
    data = TrainingData.load(file)
    config = (read_provenance(model) or {}).get("config", {})
    default = TrainingConfig()
    _, examples = divide_examples(
        data,
        train_split=float(config.get("train_split", default.train_split)),
        seed=int(config.get("seed", default.seed)),
    )
    if not examples:
        raise AceFinetuneError(f"{str(file)!r} holds no dev queries to measure an export on; give another file.")
    if shipped_refit(read_provenance(model)):
        logger.warning(
            "the model %s was trained on these dev queries too: its MRR@10 on them is higher than on other queries",
            model,
        )
    return model, DevSet(index_examples(data, examples))


def describe_export(record: ExportRecord) -> str:
    """Return backend and precision of an export."""
    return f"{record.backend}, {record.precision}"


def _dev_loss(encoder: Encoder, exported: Encoder, dev: DevSet) -> DevLoss:
    examples = dev.examples
    queries = {e.backend: e.encode_queries(examples.queries) for e in (encoder, exported)}
    memories = {e.backend: e.encode_documents(examples.corpus) for e in (encoder, exported)}

    def mrr(by: Encoder, over: Encoder) -> float:
        return float(np.mean(dev.rank(queries[by.backend], memories[over.backend]).mrr))

    return DevLoss(
        queries=len(examples.queries),
        memories=len(examples.corpus),
        torch=mrr(encoder, encoder),
        export=mrr(exported, exported),
        mixed=mrr(exported, encoder),
    )


def _query_milliseconds(encoder: Encoder, exported: Encoder, queries: Sequence[str]) -> dict[str, float]:
    """Median of single queries, torch and export alternating, so that a busy moment affects both."""
    chosen = [queries[place % len(queries)] for place in range(_UNTIMED + _TIMED)]
    seconds: dict[str, list[float]] = {"torch": [], "export": []}
    for query in chosen:
        for name, each in (("torch", encoder), ("export", exported)):
            start = time.perf_counter()
            each.encode_queries([query])
            seconds[name].append(time.perf_counter() - start)
    return {name: round(1000 * median(values[_UNTIMED:]), 3) for name, values in seconds.items()}
