"""Processes with the environment that torchrun gives them, without its launcher, which would end them all with one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import IO


def start_ranks(
    commands: Sequence[Sequence[str]], *, stdout: int | IO[bytes] = subprocess.PIPE
) -> list[subprocess.Popen[str]]:
    """Start `python` with the arguments of each rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    count = len(commands)
    common = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env={
                **os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_PORT": str(port),
                "TORCHELASTIC_RUN_ID": "test",
            },
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, command in enumerate(commands)
    ]  # fmt: skip
