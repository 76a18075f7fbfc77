"""Warn if a collection holds other texts than those that its model was trained with."""

from __future__ import annotations

import logging

from llama_index.core.schema import MetadataMode
from qdrant_client import QdrantClient

from llama_index_ace_finetune.datasets.text import normalise
from llama_index_ace_finetune.datasets.training_data import TrainingData
from llama_index_ace_finetune.errors import AceFinetuneError
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.point_ids import point_id
from llama_index_ace_finetune.utils.node_payload import node_in_payload

_SAMPLE = 64
logger = logging.getLogger(__name__)


def warn_of_other_texts(client: QdrantClient, collection: str, run: RunFolder | None) -> None:
    """Log a warning if nodes of the collection embed other texts than the run was trained with under their ids.

    Training on bare texts and embedding them with metadata is the usual reason. A sample of the run's memories is
    compared; ids that the collection does not have are skipped, and so is a run without training data.
    """
    if run is None or not run.training_data.is_file():
        return
    try:
        memories = TrainingData.load(run.training_data).memories
    except AceFinetuneError:
        return
    ids = [point_id(identifier) for identifier in list(memories)[:_SAMPLE]]
    nodes = [node_in_payload(one.payload, point_id=one.id) for one in client.retrieve(collection, ids)]
    found = [node for node in nodes if node is not None and node.node_id in memories]
    other = [
        node for node in found if normalise(node.get_content(MetadataMode.EMBED)) != normalise(memories[node.node_id])
    ]
    if other:
        logger.warning(
            "%d of %d compared nodes of %r embed another text than the model was trained with, such as %r (metadata, "
            "perhaps); train with --memories COLLECTION, so that both are the same",
            len(other), len(found), collection, other[0].node_id,
        )  # fmt: skip
