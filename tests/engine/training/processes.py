"""Real processes that train together, as a launcher starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from aiida_rm.engine import files
from aiida_rm.engine.potential import Potential
from tests.engine import program
from tests.engine.program import prepare
from tests.engine.training.test_trainer import crystals, stable_crystals

#: In double precision, to be compared; several batches an epoch.
TRAIN = {**program.TRAIN, "dtype": "float64", "batch_atoms": 60}
#: A test that hangs fails before the engine's own patience ends; starting takes seconds, but
#: minutes where many others run.
LIMIT = 600
#: The end of the first epoch fails.
SPOILT = """
from aiida_rm.engine import errors
from aiida_rm.engine.training import trainer as training
def spoilt(*_, **__):
    raise errors.FramesError('structure 7 is of cheese')
training.Trainer._end_epoch = spoilt
"""


def folder(at: Path, **settings: Any) -> Path:
    """A training, ready to run."""
    file = prepare(at, "train", {**TRAIN, **settings})
    fresh = settings.get("draw") == "fresh"
    (stable_crystals() if fresh else crystals(60)).save(at / files.INPUT_FRAMES)
    return file


def launch(
    file: Path,
    *,
    count: int = 2,
    only: int = 1,
    command: Sequence[str] = (),
    **more: str,
) -> list[subprocess.Popen[str]]:
    """Processes as mpirun would start them; ``more`` is for the environment of one alone."""
    processes = []
    for rank in range(count):
        environment = {
            **os.environ,
            "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_SIZE": str(count),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            **{name: value for name, value in more.items() if rank == only},
        }
        engine = [sys.executable, "-m", "aiida_rm.engine", "train", str(file)]
        processes.append(
            subprocess.Popen(
                command or engine,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def meddle(at: Path, code: str) -> dict[str, str]:
    """An environment in which every Python begins with some code."""
    (at / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": f"{at}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


def finish(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses and what was said on the error streams; nobody may hang."""
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def close(first: Path, second: Path) -> bool:
    a, b = (Potential.load(at / files.OUTPUT_POTENTIAL).state_dict() for at in (first, second))
    return all(torch.allclose(a[name], b[name], rtol=1e-9, atol=1e-11) for name in a)
