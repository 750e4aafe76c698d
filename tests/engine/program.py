"""A folder for the program as a job finds it, what it leaves there, and a tiny training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from aiida_rm.engine import files

#: Settings of a training that takes a second.
TRAIN: dict[str, Any] = {
    "epochs": 3,
    "cutoff": 3.2,
    "channels": 3,
    "radial": 4,
    "l_max": 1,
    "hidden": [6],
    "threads": 1,
}


def prepare(folder: Path, task: str, settings: dict[str, Any], **run: Any) -> Path:
    """Write the settings file; ``run`` is what the job says of itself, such as its walltime."""
    folder.mkdir(exist_ok=True)
    content = {"schema": 1, "task": task, "settings": settings, "run": run}
    (folder / files.SETTINGS).write_text(json.dumps(content))
    return folder / files.SETTINGS


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / files.RESULTS).read_text()))


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / files.METRICS).read_text().splitlines()]
