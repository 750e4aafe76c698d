"""Where the structures of a node came from, as an extra: it never changes the node's hash."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

from aiida.common.log import AIIDA_LOGGER

from aiida_rm.engine.readers import Dataset

LOGGER = AIIDA_LOGGER.getChild("rm.dataset")

SOURCE_EXTRA = "rm_source"
#: Problems that are kept and logged one by one; the rest is counted.
MAX_PROBLEMS = 50


def describe_source(path: str | os.PathLike[str], dataset: Dataset) -> dict[str, Any]:
    """The source of a dataset, as :func:`source_of`; its problems are logged as warnings."""
    problems = [str(problem) for problem in dataset.problems]
    for problem in problems[:MAX_PROBLEMS]:
        LOGGER.warning("left out: %s", problem)
    if len(problems) > MAX_PROBLEMS:
        LOGGER.warning("left out: %d more entries of '%s'", len(problems) - MAX_PROBLEMS, path)
    return source_of(path, dataset)


def source_of(path: str | os.PathLike[str], dataset: Dataset) -> dict[str, Any]:
    """The source of a dataset.

    Returns:
        ``file``: the name, without its folder; ``sha256`` of a file (None for a folder);
        ``n_read``, ``n_left_out``: numbers of structures; ``problems``: the first
        :data:`MAX_PROBLEMS`, a line each.
    """
    source = Path(path)
    problems = [str(problem) for problem in dataset.problems]
    return {
        "file": source.resolve().name,
        "sha256": _checksum(source) if source.is_file() else None,
        "n_read": len(dataset.frames),
        "n_left_out": len(problems),
        "problems": problems[:MAX_PROBLEMS],
    }


def _checksum(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
