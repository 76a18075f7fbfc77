"""A client of an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from llama_index_ace_finetune.errors import AceFinetuneError

if TYPE_CHECKING:
    from llama_index.core.llms import LLM

DEFAULT_KEY_VARIABLE: Final = "OPENAI_API_KEY"
# Without quoting it: it may be a key, which was given in place of the variable's name.
_NO_KEY: Final = (
    "The environment variable of --llm-key-env is not set; give the name of one that holds the API key, not the key."
)


def require_variable_name(name: str) -> None:
    """Raise AceFinetuneError unless an environment variable can have the name, which the settings of a run record."""
    if not name.isidentifier():
        raise AceFinetuneError(_NO_KEY)


def endpoint_llm(
    url: str | None,
    name: str | None,
    *,
    key_variable: str = DEFAULT_KEY_VARIABLE,
    timeout: float = 60.0,
    chat: bool = True,
) -> LLM | None:
    """Return a client of an OpenAI-compatible endpoint, such as Ollama or vLLM; None without a URL.

    Args:
        url: of the endpoint.
        name: of the model there.
        key_variable: environment variable that holds the API key.
        timeout: seconds per call.
        chat: whether prompts are messages of a chat, or texts that the model completes.

    Raises:
        AceFinetuneError: if one of URL and name is given without the other, another variable than OPENAI_API_KEY is
            unset or empty, or the extra llm is not installed.
    """
    require_variable_name(key_variable)
    key = (os.environ.get(key_variable) or "").strip()  # a key from a file ends with a line break
    if url is None:
        if name is not None:
            raise AceFinetuneError(f"--llm-model {name} needs the endpoint; give it as --llm-url.")
        return None
    if name is None:
        raise AceFinetuneError("--llm-url needs the name of a model; give it as --llm-model.")
    if not key and key_variable != DEFAULT_KEY_VARIABLE:
        raise AceFinetuneError(_NO_KEY)
    try:
        from llama_index.llms.openai_like import OpenAILike
    except ImportError as error:
        raise AceFinetuneError(
            "--llm-url needs the extra llm; install it with `pip install 'llama-index-ace-finetune[llm]'`."
        ) from error
    # Retries are ours, so that they are counted and wait for a rate limit.
    return OpenAILike(
        model=name, api_base=url, api_key=key or "none", is_chat_model=chat, max_retries=0,
        timeout=timeout,
    )  # fmt: skip
