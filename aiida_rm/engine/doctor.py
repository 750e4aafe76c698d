"""The task `doctor`: what the engine finds on the machine of a job."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from aiida_rm.engine.processes import cores

#: What some tasks need, and what the rest can do without; looked up, not imported.
LIBRARIES = (
    "torch-geometric",
    "numpy",
    "safetensors",
    "ase",
    "pymatgen",
    "rdkit",
    "smact",
    "posebusters",
    "matminer",
    "pyxtal",
    "tblite",
)


def examine(folder: Path) -> dict[str, Any]:
    """What is here.

    Args:
        folder: that of the job.

    Returns:
        ``gpus``: one table each with `name`, `memory_gb` and `problem` (None, or why it does not
        compute); ``cuda_build``: the CUDA version torch was built for, or None; ``processors``
        that the job may use; ``threads`` of torch; ``libraries``: versions, None where absent;
        ``free_gb`` on the disk of the folder.
    """
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return {
        "gpus": [_gpu(index) for index in range(seen)],
        "cuda_build": torch.version.cuda or getattr(torch.version, "hip", None),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "processors": cores(),
        "threads": torch.get_num_threads(),
        "libraries": {name: _version(name) for name in LIBRARIES},
        "free_gb": round(shutil.disk_usage(folder).free / 1e9, 3),
    }


def _gpu(index: int) -> dict[str, Any]:
    """Seeing a GPU is not yet computing on it: the driver may be too old for torch."""
    problem = None
    try:
        ones = torch.ones(8, 8, device=f"cuda:{index}")
        if float((ones @ ones).sum()) != 512.0:
            problem = "it computes wrongly"
    except RuntimeError as error:
        problem = str(error).splitlines()[0]
    memory = torch.cuda.get_device_properties(index).total_memory
    return {
        "name": torch.cuda.get_device_name(index),
        "memory_gb": round(memory / 1e9, 1),
        "problem": problem,
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
