"""The model's README.md, in the form that model hubs read."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader

from llama_index_ace_finetune.encoders.base_card import licence_and_languages
from llama_index_ace_finetune.encoders.checkpoints import resolve_checkpoint
from llama_index_ace_finetune.errors import ModelError
from llama_index_ace_finetune.evaluation.stats.paired import PairedDifference

# A name at the hub: at most one slash, and nothing that only paths hold.
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def model_card(provenance: dict[str, Any], folder: Path) -> str:
    """Return the card for the record that is saved beside the model in `folder`.

    Licence and languages are those that the card of the base model names. Test results are added after the evaluation
    (`write_test_results`).

    Texts of users and paths of the machine never get into it; what does is numbers, names and settings.
    """
    environment = Environment(
        loader=PackageLoader("llama_index_ace_finetune.training.saving", "templates"),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    config = {
        name: _name_only(value) if name in ("base_model", "teacher") and value else value
        for name, value in provenance["config"].items()
    }
    licence, languages = _of_base(provenance["base_model"])
    fields = {
        "config": json.dumps(config, indent=2),
        "base_model": _name_only(provenance["base_model"]),
        "licence": licence,
        "languages": languages,
        "refused": _refused(provenance["selection"]),
        "base_is_on_hub": is_hub_name(provenance["base_model"]),
        "late_interaction_weight": config.get("late_interaction_weight"),
        "token_dimensions": config.get("late_interaction_dimensions"),
        "task_temperature": config.get("task_temperature"),
        "tasks": [{**task, "name": _name_in_table(task["name"])} for task in provenance["metrics"].get("tasks", ())],
        "two_towers": not (folder / "config.json").is_file() and (folder / "router_config.json").is_file(),
    }
    return environment.get_template("model_card.md.j2").render(**{**provenance, **fields})


def _of_base(name: str) -> tuple[str | None, list[str]]:
    try:
        return licence_and_languages(resolve_checkpoint(name, allow_download=False))
    except ModelError:
        return None, []


def _refused(selection: dict[str, Any] | None) -> str:
    """Why the base ships, if it does: the rule's own words."""
    if selection is None or selection["shipped"] != "base":
        return ""
    difference = PairedDifference.from_dict(selection["dev_difference_mrr@10"])
    return difference.not_a_gain or "rejected, since general queries lose too much"


def _name_in_table(name: str) -> str:
    """A file name without characters that Markdown or HTML would take as markup."""
    return re.sub(r"[^\w .()-]", "_", name)


def is_hub_name(name: str) -> bool:
    """Whether `name` can only be a model at the hub: it has the form of a hub name, and no folder here is called so."""
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def _name_only(model: str) -> str:
    """A hub name as it is, a folder by its last part."""
    return model if is_hub_name(model) else Path(model).expanduser().resolve().name
