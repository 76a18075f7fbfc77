"""run_shards: apply the same work to every shard, in this process or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar, get_args

from llama_index_ace_finetune.errors import AceFinetuneError, quoted

EngineName = Literal["local", "ray"]
Task = TypeVar("Task", contravariant=True)
Result = TypeVar("Result", covariant=True)


class Work(Protocol[Task, Result]):
    """What a worker does; a dataclass that can be sent to another process."""

    def start(self) -> Callable[[Task], Result]:
        """Prepare the worker, such as by loading a model, and return the function to call for each task."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Where shards are worked on.

    Attributes:
        engine: "local", a loop in this process, or "ray", workers on a Ray cluster.
        ray_address: of a running cluster, as HOST:PORT, or "auto" for the one of this machine; by default Ray is
            started on this machine for this call.
        workers: number of Ray workers; by default one per GPU of the cluster, or per CPU core without any.
    """

    engine: EngineName = "local"
    ray_address: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.engine not in get_args(EngineName):
            raise AceFinetuneError(f"The engine is {quoted(self.engine)}; it must be local or ray.")
        if self.engine == "local" and (self.ray_address or self.workers):
            raise AceFinetuneError("An address or a number of workers was given without Ray; set the engine to ray.")
        if self.workers is not None and self.workers < 1:
            raise AceFinetuneError(f"The number of workers is {self.workers}; it must be at least 1.")


def run_shards(
    work: Work[Task, Result], tasks: Sequence[Task], settings: EngineSettings, *, use_gpus: bool = True
) -> Iterator[Result]:
    """Yield the result of each task: in their order locally, as they finish on Ray.

    A task whose worker is lost is given to another one, up to five times; it may then have run more than once, so it
    has to write its output whole or not at all.

    Args:
        work: what to do.
        tasks: the arguments of the work.
        settings: of the engine.
        use_gpus: whether each Ray worker gets a GPU, if the cluster has any.

    Raises:
        AceFinetuneError: if Ray is not installed or cannot be reached, a worker has another version of this package, or
            loses the same task again and again; and what the work itself raises.
    """
    if not tasks:
        return
    if settings.engine == "ray":
        from llama_index_ace_finetune.scale.ray_engine import run_on_ray

        yield from run_on_ray(work, tasks, settings, use_gpus=use_gpus)
        return
    run = work.start()
    for task in tasks:
        yield run(task)
