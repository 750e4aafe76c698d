"""What the engine asks of its process and of others: memory, cores, a pool that does not fork."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager

from aiida_rm.engine.errors import OutOfMemoryError


def cores() -> int:
    """Cores that this job may use; a scheduler often grants fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def peak_memory_mb() -> float:
    """Most memory that this process ever held, in MB."""
    # In kB, but on macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


def hold_memory() -> None:
    """Let the allocator keep what was freed, instead of asking the system for it at every step.

    Fresh pages cost a relaxation an eighth of its time (docs/benchmarks.md). Only the C library of
    GNU knows this; others stay as they are.
    """
    # Of malloc.h: M_MMAP_THRESHOLD (the largest it takes) and M_TRIM_THRESHOLD.
    wanted = ((-3, 32 * 2**20), (-1, 2**30))
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    for option, value in wanted:
        mallopt(option, value)


@contextmanager
def process_pool(processes: int, remedy: str) -> Iterator[ProcessPoolExecutor]:
    """A pool that is shut down, whatever happens inside.

    Args:
        processes: how many, at least 1.
        remedy: what to do when one of them dies, for the message.

    Raises:
        OutOfMemoryError: one of them died.
    """
    # Not forked: threads of numerical libraries do not survive a fork.
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(processes, mp_context=context) as pool:
            try:
                yield pool
            except BaseException:
                # Whatever went wrong, do not wait for work that nobody will read.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    except BrokenProcessPool as error:
        raise OutOfMemoryError(
            f"one of {processes} processes died, most likely for lack of memory; {remedy}"
        ) from error
