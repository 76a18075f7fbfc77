"""Batches of several tasks, each of one task, in proportions that a temperature sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from sentence_transformers.base.sampler import SetEpochMixin
from torch.utils.data import BatchSampler

from llama_index_ace_finetune.training.data.clustered_batches import ClusteredBatches


def sampling_probabilities(sizes: Sequence[int], temperature: float) -> NDArray[np.float64]:
    """Return the probability of each task, float64 [t]: n_i^(1/T) over the sum of all.

    T = 1 samples in proportion to the sizes; the larger T is, the more equal are the tasks.

    Source: temperature-scaled mixing (Raffel et al. 2020, arXiv:1910.10683, section 3.5.2).

    Args:
        sizes: number of training queries of each task, above 0.
        temperature: T, above 0.
    """
    logs = np.log(np.asarray(sizes, np.float64)) / temperature
    powers = np.exp(logs - logs.max())
    return np.asarray(powers / powers.sum(), np.float64)


def batches_per_epoch(sizes: Sequence[int], main: int, temperature: float) -> list[int]:
    """Return how many batches of each task an epoch has: `main` of the first, in proportion of the others, at least 1.

    Args:
        sizes: number of training queries of each task.
        main: number of batches that the first task fills.
        temperature: see `sampling_probabilities`.
    """
    probabilities = sampling_probabilities(sizes, temperature)
    counts: list[int] = np.maximum(np.rint(main * probabilities / probabilities[0]).astype(np.int64), 1).tolist()
    return counts


class TaskBatches(SetEpochMixin, BatchSampler):
    """Yield batches of the main task and of others, mixed at random, each batch of one task.

    An epoch holds each query of the main task, the first, once; and of each other task as many batches as its
    probability asks for, at least one. A task resumes in the next epoch where it stopped in the last one, and starts
    again, in another order, when each of its queries was used. All that depends on seed and epoch only.

    Args:
        tasks: the batches of each task, numbered from 0; they come out numbered on from one task to the next.
        sizes: number of queries of each task.
        temperature: see `sampling_probabilities`.
        seed: of the order.
    """

    def __init__(
        self, tasks: Sequence[ClusteredBatches], sizes: Sequence[int], *, temperature: float, seed: int
    ) -> None:
        self._tasks, self._seed = tasks, seed
        self._offsets = np.concatenate([[0], np.cumsum(sizes)])
        self.counts = batches_per_epoch(sizes, len(tasks[0]), temperature)
        self.epoch = 0

    def __len__(self) -> int:
        """Batches of an epoch."""
        return sum(self.counts)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the numbers of the queries of each batch of the current epoch."""
        random = np.random.default_rng((self._seed, self.epoch, len(self._tasks)))
        order = random.permutation(np.repeat(np.arange(len(self._tasks)), self.counts))
        batches = [self._batches(task, self.epoch * count, count) for task, count in enumerate(self.counts)]
        for task in order.tolist():
            offset = int(self._offsets[task])
            yield [offset + number for number in next(batches[task])]

    def measured(self, size: int) -> list[tuple[float, list[int]]]:
        """Return the fraction of each task's batches, and a batch of at most `size` spread over its queries."""
        ends = self._offsets[1:]
        return [
            (count / len(self), list(range(int(start), int(end), max(1, int(end - start) // size)))[:size])
            for count, start, end in zip(self.counts, self._offsets[:-1], ends, strict=True)
        ]

    def _batches(self, task: int, start: int, count: int) -> Iterator[list[int]]:
        """Yield `count` batches of a task from number `start` of its endless sequence of passes."""
        batches = self._tasks[task]
        first, place = divmod(start, len(batches))
        passes = (self._pass(batches, number) for number in range(first, (start + count - 1) // len(batches) + 1))
        return islice(chain.from_iterable(passes), place, place + count)

    @staticmethod
    def _pass(batches: ClusteredBatches, number: int) -> list[list[int]]:
        batches.set_epoch(number)
        return list(batches)
