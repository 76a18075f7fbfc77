"""Ranks: the processes of one training, as torchrun starts them. It knows the process group, and nothing of models."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from llama_index_ace_finetune.errors import TrainingError, first_line

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed import ProcessGroup

STEP_SECONDS: Final = 600.0
"""A rank that does not answer within a step for so long is lost."""
_NEXT_ORDER = timedelta(days=7)  # rank 0 evaluates and indexes meanwhile; where it ends, the connection is closed
_HIDDEN: Final = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def launched_rank() -> int | None:
    """Return the rank that torchrun gave to this process; None where it did not start it."""
    return int(os.environ["RANK"]) if "TORCHELASTIC_RUN_ID" in os.environ and "RANK" in os.environ else None


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """The processes of a training, seen from one of them; without arguments, a process by itself.

    Every method but the properties is called by all ranks, or between rank 0 and another one.

    Attributes:
        rank: of this process; rank 0 decides, evaluates and writes.
        size: number of processes.
        device: torch device of this process; None to choose freely.
        threads: CPU threads of this process while all ranks compute; None leaves them as they are.
    """

    rank: int = 0
    size: int = 1
    device: str | None = None
    threads: int | None = None
    _patient: ProcessGroup | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def others(self) -> range:
        """The ranks other than 0."""
        return range(1, self.size)

    def agree(self, facts: Mapping[str, str]) -> None:
        """Raise TrainingError on every rank where one has other values than rank 0, by the names of `facts`."""
        if self.size == 1:
            return
        import torch.distributed as dist

        found: list[Any] = [None] * self.size
        with _lost_ranks():
            dist.all_gather_object(found, dict(facts))
        for rank, theirs in enumerate(found):
            for name, value in found[0].items():
                if theirs.get(name) != value:
                    raise TrainingError(
                        f"Rank {rank} of this training has another {name} than rank 0; start all processes with the "
                        "same package, settings and training data."
                    )

    def scatter(self, values: Sequence[Any] | None = None) -> Any:
        """Give `values[r]` of rank 0 to rank r and return this rank's; others wait for it, as long as it takes."""
        import torch
        import torch.distributed as dist

        found: list[Any] = [None]
        with _lost_ranks():
            # In two parts, so that a rank that hangs cannot block rank 0 for longer than a step.
            dist.broadcast(torch.zeros(1), src=0, group=self._patient)
            dist.scatter_object_list(found, list(values) if values is not None else None, src=0)
        return found[0]

    def broadcast(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors with those of rank 0."""
        import torch.distributed as dist

        with _lost_ranks():
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def sum_on_main(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite the tensors of rank 0 with the sums over all ranks."""
        import torch.distributed as dist

        with _lost_ranks():
            for tensor in tensors:
                dist.reduce(tensor, dst=0)

    def send(self, tensor: Tensor, *, to: int) -> None:
        """Send a tensor to a rank, which calls `receive`."""
        import torch.distributed as dist

        with _lost_ranks():
            dist.send(tensor.contiguous(), dst=to)

    def receive(self, into: Tensor, *, source: int) -> Tensor:
        """Return `into`, overwritten with what a rank has sent."""
        import torch.distributed as dist

        with _lost_ranks():
            dist.recv(into, src=source)
        return into


ONE: Final = Ranks()


@contextmanager
def join_ranks(*, device: str | None = None, seconds: float = STEP_SECONDS) -> Iterator[Ranks]:
    """Give the processes that torchrun started with this one; `ONE` where it started none, or only this.

    They talk by gloo on CPUs and by NCCL on GPUs, where each has GPU number LOCAL_RANK. Meanwhile the variables of
    torchrun are hidden, since rank 0 trains like a single process: the trainer would otherwise divide the batches
    itself.

    Args:
        device: of the training; None for the best one.
        seconds: after which a rank that does not answer is lost.

    Raises:
        TrainingError: if this process cannot have a device of its own; within the context, if another process ends or
            does not answer.
    """
    if launched_rank() is None or os.environ.get("WORLD_SIZE", "1") == "1":
        yield ONE
        return
    import torch
    import torch.distributed as dist

    local, on_this_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    chosen = _device(device, local)
    threads = None
    if chosen == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, torch.get_num_threads() // on_this_machine)
    with _lost_ranks():
        dist.init_process_group("gloo" if chosen == "cpu" else "cpu:gloo,cuda:nccl", timeout=timedelta(seconds=seconds))
        patient = dist.new_group(backend="gloo", timeout=_NEXT_ORDER)
    hidden = {name: os.environ.pop(name) for name in _HIDDEN}
    # The trainer would warn that it does not use the process group.
    logging.getLogger("transformers.training_args").addFilter(_is_of_no_group)
    try:
        with _termination_is_an_error():
            yield Ranks(
                rank=dist.get_rank(), size=dist.get_world_size(), device=chosen, threads=threads, _patient=patient
            )
    finally:
        logging.getLogger("transformers.training_args").removeFilter(_is_of_no_group)
        os.environ.update(hidden)
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _device(device: str | None, local: int) -> str:
    import torch

    if device == "cpu" or (device is None and not torch.cuda.is_available() and not torch.backends.mps.is_available()):
        return "cpu"
    if device not in (None, "cuda") or not torch.cuda.is_available():
        raise TrainingError(
            f"A training by several processes runs on CPUs or on CUDA GPUs, and the device is {device or 'mps'!r}; set "
            "device to cpu or cuda."
        )
    if local >= torch.cuda.device_count():
        raise TrainingError(
            f"This machine has {torch.cuda.device_count()} GPUs, and more processes were started; start one per GPU, "
            "or set device to cpu."
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def _is_of_no_group(record: logging.LogRecord) -> bool:
    return "process group is initialized" not in record.getMessage()


@contextmanager
def _lost_ranks() -> Iterator[None]:
    """Turn an error of the connection into one sentence."""
    try:
        yield
    except RuntimeError as error:  # gloo and NCCL raise subclasses of it
        _ignore_termination()
        raise TrainingError(
            f"Another process of this training has ended, or does not answer ({_reason(error)}); see what it "
            "printed, and repeat the command with --resume."
        ) from error


def _reason(error: RuntimeError) -> str:
    """Return the first sentence of an error of gloo or NCCL, without the place in their source."""
    return first_line(error).split("] ", 1)[-1].split(". ", 1)[0]


@contextmanager
def _termination_is_an_error() -> Iterator[None]:
    """Raise TrainingError on SIGTERM, which torchrun sends to all processes when one of them ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> NoReturn:
        _ignore_termination()
        raise TrainingError(
            "This process of the training was terminated, as torchrun does when another one ends; see what that one "
            "printed, and repeat the command with --resume."
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, before)


def _ignore_termination() -> None:
    """Ignore the next SIGTERM, which torchrun sends: this process is about to end with a sentence. A second ends it."""

    def end_at_the_next(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end_at_the_next)
