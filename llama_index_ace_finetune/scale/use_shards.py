"""Use folders of shards in place of encoding: their memories, and their vectors."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from llama_index_ace_finetune.datasets.types import Memory
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.errors import StoreError, quoted
from llama_index_ace_finetune.scale.shard_encoder import ShardEncoder
from llama_index_ace_finetune.scale.shard_folder import ShardFolder

logger = logging.getLogger(__name__)


def shard_memories(folders: Sequence[ShardFolder]) -> list[Memory]:
    """Return the memories of all shards, each id once: several models may have shards of the same memories.

    Of memories with the same id and different texts the first one counts, with a warning.
    """
    found: dict[str, Memory] = {}
    others: list[str] = []
    for folder in folders:
        for memory in folder.memories():
            if found.setdefault(memory.id, memory).text != memory.text:
                others.append(memory.id)
    if others:
        logger.warning(
            "%d memories of the shards have the id of an earlier one with another text, such as %s; they are left out",
            len(others), quoted(others[0]),
        )  # fmt: skip
    return list(found.values())


def with_shards(encoders: Sequence[Encoder], folders: Sequence[ShardFolder]) -> list[Encoder]:
    """Return the models, each with the vectors of its shards if there are any.

    Raises:
        StoreError: if a folder's shards are of none of the models.
    """
    known = {encoder.document_fingerprint for encoder in encoders}
    names = " and ".join(repr(encoder.name)[:80] for encoder in encoders)
    for folder in folders:
        if folder.fingerprint not in known:
            raise StoreError(
                f"The shards in {str(folder.path)!r} are of another model ({folder.model!r:.80}) than "
                f"{names}; encode the memories with one of them."
            )
    found: list[Encoder] = []
    for encoder in encoders:
        own = [folder for folder in folders if folder.fingerprint == encoder.document_fingerprint]
        found.append(ShardEncoder(encoder, own) if own else encoder)
    return found
