"""Checks of the options that name a Qdrant server."""

from __future__ import annotations

import os
from collections.abc import Mapping

from llama_index_ace_finetune.errors import AceFinetuneError


def read_api_key(variable: str | None) -> str | None:
    """Return the key in an environment variable; None, for that of QDRANT_API_KEY or none, without a variable.

    Raises:
        AceFinetuneError: if the variable is unset or empty, or the key cannot be sent.
    """
    if variable is None:
        return None
    from llama_index_ace_finetune.stores.qdrant.connection import qdrant_key

    if not os.environ.get(variable):
        # Without quoting it: it may be a key, which was given in place of the variable's name.
        raise AceFinetuneError(
            "The environment variable of --api-key-env is not set; give the name of one that holds the API key, not "
            "the key."
        )
    return qdrant_key(variable)


def require_url(options: Mapping[str, object]) -> None:
    """Raise AceFinetuneError if an option is given, by name and value, that needs a server."""
    given = [name for name, value in options.items() if value]
    if given:
        raise AceFinetuneError(f"The option {given[0]} is for a Qdrant server; give its address with --url.")
