"""The model's README.md, in the form that model hubs read."""

from __future__ import annotations

import json
from typing import Any

from jinja2 import Environment, PackageLoader


def model_card(provenance: dict[str, Any]) -> str:
    """Return the card for the record that is saved beside the model.

    Texts of users never get into it; what does is numbers, names and settings.
    """
    environment = Environment(
        loader=PackageLoader("llama_index_ace_finetune.training.saving", "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config = json.dumps(provenance["config"], indent=2)
    return environment.get_template("model_card.md.j2").render(**{**provenance, "config": config})
