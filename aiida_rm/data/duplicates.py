"""Structures that are in a set twice, to the letter."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames

#: Coordinates are rounded to this, in angstrom.
_GRID = 1e-4


def first_copies(frames: Frames) -> NDArray[np.int64]:
    """For each structure the first one with the same atoms, positions and cell; (S,).

    The atoms must stand in the same order, and coordinates agree to about 1e-4 angstrom. The same
    crystal in another cell is no copy: ``rm.score`` finds those.
    """
    seen: dict[bytes, int] = {}
    firsts = np.empty(len(frames), np.int64)
    positions = np.round(np.asarray(frames.positions) / _GRID).astype(np.int64)
    cells = np.where(frames.pbc[:, :, None], frames.cells, 0.0)
    cells = np.round(cells / _GRID).astype(np.int64)
    for index in range(len(frames)):
        atoms = slice(int(frames.ptr[index]), int(frames.ptr[index + 1]))
        parts = (frames.numbers[atoms], frames.pbc[index], cells[index], positions[atoms])
        key = b"".join(np.ascontiguousarray(part).tobytes() for part in parts)
        firsts[index] = seen.setdefault(key, index)
    return firsts
