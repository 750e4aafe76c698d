"""Misfortune for a search, as a penalty: what stops the engine in the middle, once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from aiida_rm.engine.neighbors import Graph

PENALTY = "tests.disturbance:disturb"
_calls = 0


def disturb(graph: Graph, after: int, flag: str, how: str) -> torch.Tensor:
    """Nothing, but for one call.

    Args:
        graph: any structures.
        after: so many calls pass.
        flag: a file that says that it has happened; once is enough.
        how: ``killed``, told to stop by a ``signal``, or the ``walltime`` is over.
    """
    global _calls  # noqa: PLW0603 - one run of the engine is one process
    _calls += 1
    if _calls > after and not Path(flag).exists():
        Path(flag).touch()
        if how == "walltime":
            now = time.monotonic
            time.monotonic = lambda: now() + 1e6
        else:
            os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGTERM)
    return torch.zeros(graph.n_structures)
