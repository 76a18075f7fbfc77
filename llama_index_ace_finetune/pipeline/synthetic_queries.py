"""The synthetic queries of a run: written for memories that are not held out, and joined with the known queries."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from llama_index_ace_finetune.datasets.labels import labels_of
from llama_index_ace_finetune.datasets.splits.components import group_values
from llama_index_ace_finetune.datasets.splits.earlier import EarlierSplit, earlier_parts
from llama_index_ace_finetune.datasets.splits.split import Split, split_dataset
from llama_index_ace_finetune.datasets.types import RetrievalDataset
from llama_index_ace_finetune.encoders.encoder import Encoder
from llama_index_ace_finetune.pipeline.events import PipelineEvents
from llama_index_ace_finetune.pipeline.settings import RunSettings
from llama_index_ace_finetune.pipeline.synthesize import describe_synthesis, write_queries
from llama_index_ace_finetune.run_folder import RunFolder
from llama_index_ace_finetune.stores.read_dataset import read_dataset
from llama_index_ace_finetune.synthesis.settings import SynthesisSettings
from llama_index_ace_finetune.synthesis.synthesize import Synthesizer

_HELD_OUT = frozenset({"dev", "test"})


def split_known(settings: RunSettings, dataset: RetrievalDataset, earlier: EarlierSplit | None) -> Split | None:
    """Return the split of the known queries; None if there are none, and synthetic ones will be split.

    If all of them were held out earlier, as queries that a person judged are, none is trained on.

    Raises:
        DatasetError: if a part would be empty.
    """
    chosen = settings.split
    if settings.synthesize:
        labelled = [query_id for query_id in dataset.queries if dataset.relevant(query_id)]
        if not labelled:
            return None
        parts = earlier_parts(dataset, earlier)
        held_out = chosen.dev + chosen.test
        if held_out and all(parts.get(query_id) in _HELD_OUT for query_id in labelled):
            chosen = replace(chosen, train=0.0, dev=chosen.dev / held_out, test=1 - chosen.dev / held_out)
    return split_dataset(dataset, settings=chosen, earlier=earlier)


def add_synthetic(
    settings: RunSettings,
    dataset: RetrievalDataset,
    split: Split | None,
    earlier: EarlierSplit | None,
    base: Encoder,
    *,
    work: Path,
    reuse: bool,
    events: PipelineEvents,
) -> tuple[RetrievalDataset, Split]:
    """Write the synthetic queries of a run into the work folder; return the dataset and the split with them.

    Those of an interrupted run are taken from the work folder, and with `reuse` those of the finished run.
    """
    path, old = RunFolder(work).synthetic, RunFolder(settings.out).synthetic
    if reuse and old.is_file():
        copy_synthetic(old, path)
    elif not path.is_file():
        answers = old.with_suffix(".answers.jsonl")
        if answers.is_file() and not (work / answers.name).exists():
            shutil.copy2(answers, work)  # a call that was answered before is not repeated
        made_by = synthesizer_of(settings, dataset, split, base, cache=work / "vectors")
        for line in describe_synthesis(write_queries(made_by, path, events=events)):
            events.on_message(line)
    return join_synthetic(settings, dataset, split, earlier, read_dataset(path))


def synthesizer_of(
    settings: RunSettings,
    dataset: RetrievalDataset,
    split: Split | None,
    base: Encoder | None,
    *,
    cache: Path | None = None,
) -> Synthesizer:
    """Return what writes the synthetic queries of a run: for memories that are in no way held out."""
    near_duplicate = settings.split.near_duplicate
    return Synthesizer(
        dataset,
        split=split,
        llm=settings.language_model(),
        encoder=base,
        settings=SynthesisSettings(
            num_queries=settings.synthesize, near_duplicate=near_duplicate, seed=settings.split.seed
        ),
        leave_out=_held_out(dataset, split) if split else (),
        cache=cache,
    )


def join_synthetic(
    settings: RunSettings,
    dataset: RetrievalDataset,
    split: Split | None,
    earlier: EarlierSplit | None,
    made: RetrievalDataset,
) -> tuple[RetrievalDataset, Split]:
    """Return the dataset with synthetic queries, and its split: they are in train; without known ones, in all parts."""
    joined = with_queries(dataset, made)
    if split is None:
        return joined, split_dataset(joined, settings=settings.split, earlier=earlier)
    added = sorted(joined.queries.keys() - dataset.queries.keys())
    parts = {name: split.part(name) for name in split.held_parts}
    parts["train"] = (*split.train, *added)
    return joined, Split.of(
        joined,
        parts,
        split.settings,
        components=split.components,
        largest_component=split.largest_component,
        without_answer=split.without_answer,
        notes=(*split.notes, f"{len(added)} synthetic queries are in train, beside the fractions."),
    )


def with_queries(dataset: RetrievalDataset, made: RetrievalDataset) -> RetrievalDataset:
    """Return the dataset with further queries for its memories."""
    judgements = {
        query_id: grades for query_id, grades in made.judgements.items() if grades.keys() <= dataset.memories.keys()
    }
    queries = {query_id: made.queries[query_id] for query_id in judgements}
    return replace(dataset, queries={**queries, **dataset.queries}, judgements={**judgements, **dataset.judgements})


def copy_synthetic(source: Path, target: Path) -> None:
    """Copy the synthetic queries with their report and the answers of the language model."""
    for file in source.parent.glob(f"{source.stem}.*"):
        shutil.copy2(file, target.parent / file.name)


def _held_out(dataset: RetrievalDataset, split: Split) -> set[str]:
    """Answer ids of memories that are relevant to dev or test queries, or in one group with them."""
    found = {answer for part in sorted(_HELD_OUT) for answer in split.answers[part]}
    field = split.settings.group_field
    if field is not None:
        groups = {
            group
            for part in sorted(_HELD_OUT)
            for query_id in split.part(part)
            for group in group_values(dataset, query_id, field)
        }
        found |= {
            dataset.answer_ids[memory.id]
            for memory in dataset.memories.values()
            if not groups.isdisjoint(labels_of(memory.metadata.get(field)))
        }
    return found
