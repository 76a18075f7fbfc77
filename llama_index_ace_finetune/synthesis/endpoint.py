"""A client of an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from llama_index_ace_finetune.errors import AceFinetuneError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

DEFAULT_KEY_VARIABLE: Final = "OPENAI_API_KEY"


def endpoint_llm(
    url: str | None, name: str | None, *, key_variable: str = DEFAULT_KEY_VARIABLE, timeout: float = 60.0
) -> LLM | None:
    """Return a client of an OpenAI-compatible endpoint, such as Ollama or vLLM; None without a URL.

    Args:
        url: of the endpoint.
        name: of the model there.
        key_variable: environment variable that holds the API key.
        timeout: seconds per call.

    Raises:
        AceFinetuneError: if one of URL and name is given without the other, or the extra llm is not installed.
    """
    if url is None:
        if name is not None:
            raise AceFinetuneError(f"--llm-model {name} needs the endpoint; give it as --llm-url.")
        return None
    if name is None:
        raise AceFinetuneError("--llm-url needs the name of a model; give it as --llm-model.")
    try:
        from llama_index.llms.openai_like import OpenAILike
    except ImportError as error:
        raise AceFinetuneError(
            "--llm-url needs the extra llm; install it with `pip install 'llama-index-ace-finetune[llm]'`."
        ) from error
    # Retries are ours, so that they are counted and wait for a rate limit.
    return OpenAILike(
        model=name, api_base=url, api_key=os.environ.get(key_variable) or "none", is_chat_model=True, max_retries=0,
        timeout=timeout,
    )  # fmt: skip
