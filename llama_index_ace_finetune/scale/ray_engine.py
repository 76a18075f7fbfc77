"""Ray workers: actors that prepare once and take one task at a time; a task of a lost worker is done again."""

from __future__ import annotations

import logging
import os
import platform
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from llama_index_ace_finetune import __version__
from llama_index_ace_finetune.errors import AceFinetuneError, first_line, quoted
from llama_index_ace_finetune.scale.engine import EngineSettings, Work

logger = logging.getLogger(__name__)
Task = TypeVar("Task")
Result = TypeVar("Result")

ATTEMPTS: Final = 5
"""How many workers may be lost with the same task."""
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 15.0


class Worker:
    """Runs tasks in another process, which Ray starts."""

    def __init__(self) -> None:
        self._run: Callable[[Any], Any] | None = None

    def start(self, version: str, work: Work[Any, Any], *, one_core: bool = True) -> None:
        """Prepare; raises AceFinetuneError if this package has another version here.

        With `one_core`, texts are tokenized by one thread, not by one per core of the machine: each of its cores has a
        worker. Ray limits the threads of torch itself.
        """
        if version != __version__:
            raise AceFinetuneError(
                f"The Ray worker on {platform.node()} has llama-index-ace-finetune {__version__} and not {version}; "
                "install the same version on all machines."
            )
        if one_core:
            os.environ.setdefault("RAYON_NUM_THREADS", "1")
        self._run = work.start()

    def run(self, task: Any) -> Any:
        """Return the result of a task."""
        assert self._run is not None  # `start` comes first
        return self._run(task)


def run_on_ray(
    work: Work[Task, Result], tasks: Sequence[Task], settings: EngineSettings, *, use_gpus: bool = True
) -> Iterator[Result]:
    """Yield the results of the tasks as they finish; see `run_shards`."""
    ray = _import_ray()
    with _connected(ray, settings):
        resources = ray.cluster_resources()
        gpus = int(resources.get("GPU", 0)) if use_gpus else 0
        count = settings.workers or gpus or max(1, int(resources.get("CPU", 1)))
        remote = ray.remote(num_cpus=1, num_gpus=1 if gpus else 0, max_restarts=0, max_task_retries=0)(Worker)
        pool = _Pool(ray, remote, work, one_core=not gpus)
        try:
            yield from pool.run(tasks, workers=min(count, len(tasks)))
        finally:
            pool.close()


class _Pool:
    """Actors with at most one task each. A lost actor is replaced; Ray's own restarts would keep its task waiting."""

    def __init__(self, ray: Any, remote: Any, work: Any, *, one_core: bool) -> None:
        self._ray, self._remote, self._work, self._one_core = ray, remote, ray.put(work), one_core
        self._running: dict[Any, tuple[Any, int | None]] = {}
        self._lost: Counter[int | None] = Counter()

    def run(self, tasks: Sequence[Task], *, workers: int) -> Iterator[Any]:
        waiting, unfinished = deque(range(len(tasks))), len(tasks)
        for _ in range(workers):
            self._start()
        while unfinished:
            (reference,), _ = self._ray.wait(list(self._running), num_returns=1)
            actor, number = self._running.pop(reference)
            try:
                result = self._ray.get(reference)
            except self._lost_errors as error:
                self._count_loss(number, error)
                if number is not None:
                    waiting.appendleft(number)
                self._start()
                continue
            except self._ray.exceptions.RayTaskError as error:
                raise _sentence(error) from error
            if number is None:
                self._lost[None] = 0
            else:
                unfinished -= 1
                yield result
            if waiting:
                following = waiting.popleft()
                self._running[actor.run.remote(tasks[following])] = (actor, following)
            else:
                self._ray.kill(actor)

    def close(self) -> None:
        for actor, _ in self._running.values():
            self._ray.kill(actor)

    @property
    def _lost_errors(self) -> tuple[type[Exception], ...]:
        errors = self._ray.exceptions
        return (errors.RayActorError, errors.ObjectLostError, errors.WorkerCrashedError, errors.OutOfMemoryError)

    def _start(self) -> None:
        actor = self._remote.remote()
        started = actor.start.remote(__version__, self._work, one_core=self._one_core)
        self._running[started] = (actor, None)

    def _count_loss(self, number: int | None, error: Exception) -> None:
        self._lost[number] += 1
        logger.warning("a Ray worker was lost; %s", "its shard is done again" if number is not None else "starting one")
        if self._lost[number] >= ATTEMPTS:
            doing = "starting" if number is None else "working on the same shard"
            raise AceFinetuneError(
                f"{ATTEMPTS} Ray workers were lost while {doing} ({first_line(error)[:160]}); check the memory of the "
                "machines and that all of them have this package, or take fewer workers."
            ) from error


def _sentence(error: Any) -> Exception:
    """Return what the work raised, as the error that it is here."""
    cause = error.cause
    if isinstance(cause, AceFinetuneError):
        return cause
    if isinstance(cause, OSError) and cause.filename:
        return AceFinetuneError(
            f"A Ray worker cannot use {str(cause.filename)!r} ({cause.strerror}); give folders that all machines see "
            "under the same path."
        )
    if isinstance(cause, (ImportError, AttributeError, TypeError)):
        return AceFinetuneError(
            f"A Ray worker cannot run this package ({first_line(cause)[:160]}); install the same versions of Python, "
            "llama-index-ace-finetune and its extras on all machines."
        )
    return cause if isinstance(cause, Exception) else RuntimeError(str(error))


def _import_ray() -> Any:
    try:
        import ray
    except ImportError as error:
        raise AceFinetuneError(
            "The engine ray needs the extra scale; install it with `pip install 'llama-index-ace-finetune[scale]'`, "
            "or set the engine to local."
        ) from error
    return ray


@contextmanager
def _connected(ray: Any, settings: EngineSettings) -> Iterator[None]:
    """Connect to a cluster, or start Ray on this machine; a connection that the caller made is used and kept."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = settings.ray_address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {"address": "local", "num_cpus": settings.workers, "include_dashboard": False}
    else:
        _require_reachable(address)
        options["address"] = address
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises bare exceptions too
        if address is not None and "ersion mismatch" in str(error):
            raise AceFinetuneError(
                f"The Ray cluster at {address!r:.80} has another version of Ray or Python than this process "
                f"({' '.join(str(error).split())[:240]}); install the same versions on all machines."
            ) from error
        if address is not None:
            raise _unreachable(address, first_line(error)) from error
        raise AceFinetuneError(
            f"Ray cannot be started on this machine ({first_line(error)[:160]}); check its load, memory and disk, give "
            "--ray-address of a running cluster, or set the engine to local."
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _require_reachable(address: str) -> None:
    """Raise AceFinetuneError if nothing, or something else, answers at HOST:PORT; Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdigit():
        raise AceFinetuneError(
            f"The Ray address is {quoted(address)}; write HOST:PORT, such as 10.0.0.1:6379, or auto."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from error
    if os.environ.get("RAY_USE_TLS", "0") == "0" and not _speaks_grpc(f"{host}:{port}"):
        raise _unreachable(address, "what answers there is not Ray")


def _speaks_grpc(address: str) -> bool:
    """Whether a server answers a gRPC client in time, as Ray does; HTTP servers and databases do not."""
    import grpc  # type: ignore[import-untyped]

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=_ANSWER_SECONDS)
        except grpc.FutureTimeoutError:
            return False
    return True


def _unreachable(address: str, reason: str) -> AceFinetuneError:
    return AceFinetuneError(
        f"There is no Ray cluster at {address!r:.80} ({reason[:160]}); start one with `ray start --head`, or correct "
        "--ray-address."
    )
