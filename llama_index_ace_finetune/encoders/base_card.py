"""Licence and languages of a base model, from its model card."""

from __future__ import annotations

import re
from pathlib import Path

from llama_index_ace_finetune.utils.read_yaml import read_front_matter

_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,39}")
_LANGUAGE = re.compile(r"[a-z]{2,12}(-[A-Za-z0-9]{1,8}){0,2}")
_MAX_LANGUAGES = 200


def licence_and_languages(model: Path) -> tuple[str | None, list[str]]:
    """Return what the card (README.md) in a model folder names, as identifiers of the Hugging Face hub.

    The licence is None, and the languages are empty, if the card does not name them, or not as identifiers.
    """
    metadata = read_front_matter(model / "README.md")
    licence, named = metadata.get("license"), metadata.get("language")
    languages = named if isinstance(named, list) else [named]
    return (
        licence if isinstance(licence, str) and _LICENCE.fullmatch(licence) else None,
        [one for one in languages if isinstance(one, str) and _LANGUAGE.fullmatch(one)][:_MAX_LANGUAGES],
    )
