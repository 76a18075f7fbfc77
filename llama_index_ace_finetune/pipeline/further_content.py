"""The content of a further dataset of a training, for the digest of what a result depends on."""

from __future__ import annotations

import json

from llama_index_ace_finetune.datasets.text import text_hash
from llama_index_ace_finetune.training.data.further_tasks import read_further


def further_content(path: str) -> str:
    """Return a hash of a further dataset's queries, memories and judgements; raises what `read_further` raises."""
    return text_hash(json.dumps(read_further(path).to_dict(), sort_keys=True, default=str))
