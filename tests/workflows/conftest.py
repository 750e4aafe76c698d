"""The real engine as a code, and tiny settings for it."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
from aiida import orm

#: One thread and double precision: the same numbers whatever ran before.
TINY: dict[str, dict[str, Any]] = {
    "perturb": {"samples": 6, "displacement_levels": [1, 2], "strain_levels": 2, "min_atoms": 4},
    "train": {
        "cutoff": 3.0,
        "channels": 2,
        "radial": 3,
        "l_max": 1,
        "hidden": [6],
        "epochs": 3,
        "batch_atoms": 16,
        "dtype": "float64",
        "device": "cpu",
        "threads": 1,
    },
    "generate": {
        "n_structures": 4,
        "n_atoms": [2],
        "device": "cpu",
        "threads": 1,
        "stages": [{"kind": "relax", "cell": "shape", "fmax": 1e-3, "max_steps": 20}],
    },
    "score": {"require_converged": False, "processes": 1},
}


def engine_path() -> str:
    """The engine's program in this environment."""
    beside = Path(sysconfig.get_path("scripts")) / "aiida-rm-engine"
    path = str(beside) if beside.is_file() else shutil.which("aiida-rm-engine")
    assert path, "the engine is not installed; run `make install`"
    return path


@pytest.fixture
def engine_code(aiida_localhost: Any, aiida_code_installed: Any) -> orm.InstalledCode:
    """The engine of this environment."""
    computer = aiida_localhost
    computer.configure(safe_interval=0, use_login_shell=False)
    computer.set_minimum_job_poll_interval(0.2)
    return aiida_code_installed(
        label="rm", filepath_executable=engine_path(), prepend_text="export OMP_NUM_THREADS=1"
    )
