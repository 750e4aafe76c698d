"""Several processes on this machine where neither mpirun nor srun nor torchrun starts them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from aiida_rm.engine.processes import cores
from aiida_rm.engine.training.distributed import Place, find_place

#: Seconds for the others to end by themselves, and to end when told.
_PATIENCE = 60.0
_LAST_PATIENCE = 10.0


def start_others(size: int, settings: Path) -> tuple[Place, list[subprocess.Popen[bytes]]]:
    """Start all processes of a training but the first, which is this one.

    The processors are shared evenly unless OMP_NUM_THREADS is set.

    Args:
        size: processes in all.
        settings: the settings file of the task ``train``.

    Returns:
        The place of this process, and the others for :func:`end_others`.
    """
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores() // size)))
    meeting = {"WORLD_SIZE": str(size), "MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-m", "aiida_rm.engine", "train", str(settings)]
    environments = [
        {**os.environ, **meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(size)
    ]
    place = find_place(environments[0], settings.resolve().parent)
    others = [
        subprocess.Popen(command, env=own)  # noqa: S603 - this very program
        for own in environments[1:]
    ]
    return place, others


def end_others(others: Iterable[subprocess.Popen[bytes]]) -> None:
    """Wait for the processes that were started; they end when this one does, or are ended."""
    for process in others:
        for end, seconds in ((process.terminate, _PATIENCE), (process.kill, _LAST_PATIENCE)):
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                end()
        process.wait()


def free_port() -> int:
    """A port at which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])
