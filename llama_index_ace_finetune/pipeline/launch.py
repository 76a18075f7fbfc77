"""Start the processes of a training by torchrun's launcher."""

from __future__ import annotations

import logging
import signal
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llama_index_ace_finetune.errors import TrainingError

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure


def launch_ranks(arguments: Sequence[str], *, processes: int) -> int:
    """Run `ace-finetune` with `arguments` in several processes of this machine, and return the exit code.

    They are those of `torchrun --nproc-per-node`, but OMP_NUM_THREADS stays unset, so that they share the cores.

    Raises:
        TrainingError: if one of them is killed; the others are ended.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Its messages repeat, with the process numbers, what the processes print or what is raised here.
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="ace-finetune-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "llama_index_ace_finetune", *arguments)
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from error
            raise SystemExit(128 + error.sigval) from error
        except ChildFailedError as error:
            return _exit_code(error.failures)
    return 0


def _exit_code(failures: Mapping[int, ProcessFailure]) -> int:
    """Return the largest exit code of the ranks, which have printed why; raise TrainingError where one was killed."""
    for rank, failure in sorted(failures.items()):
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # which the launcher sends to the others
            raise TrainingError(
                f"Rank {rank} of the training was killed by signal {-failure.exitcode} (signal 9 is often a lack of "
                "memory); repeat the command with --resume."
            )
    return max([failure.exitcode for failure in failures.values() if failure.exitcode > 0], default=2)
