"""Cells without slivers, and atoms in them that keep their distance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.cells import heights, image_shifts, near_squares

Array = NDArray[Any]
#: Smallest height of a cell over the edge of a cube of its volume: no slivers.
MIN_HEIGHT = 0.5
#: Places that are tried for an atom, block by block: most atoms find theirs in the first.
_BLOCKS = (8, 64, 400)


def random_cell(rng: np.random.Generator, volume: float, distortion: float) -> Array:
    """(3, 3) a cube, distorted at random and scaled to ``volume``; never a sliver."""
    while True:
        cell = np.eye(3) + distortion * (rng.random((3, 3)) - 0.5)
        determinant = np.linalg.det(cell)
        if determinant <= 0.1:
            continue
        cell *= (volume / determinant) ** (1 / 3)
        if not is_sliver(cell):
            return cell


def is_sliver(cell: Array) -> bool:
    """Whether a cell is flat or thin."""
    volume = abs(np.linalg.det(cell))
    if volume < 1e-9:
        return True
    return bool(heights(cell).min() < MIN_HEIGHT * volume ** (1 / 3))


def shortest_vector(cell: Array) -> float:
    """Length of the shortest lattice vector of a cell that is no sliver, in angstrom."""
    # No sliver: n vectors along one axis reach n * MIN_HEIGHT, so two suffice.
    steps = np.arange(-2, 3)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lengths = np.linalg.norm(grid @ cell, axis=1)
    return float(lengths[lengths > 0].min())


def scatter(
    rng: np.random.Generator, kinds: Array, nearest: Array, cell: Array, *, periodic: bool
) -> Array | None:
    """Random places for atoms, no two (nor images) nearer than their kinds allow.

    Args:
        rng: random numbers.
        kinds: (n,) the kind of each atom.
        nearest: (K, K) smallest distances between kinds, in angstrom.
        cell: (3, 3) the cell, or the box of a molecule, whose edges are its rows.
        periodic: whether images count.

    Returns:
        (n, 3) positions in the cell, or None if some atom found no place.
    """
    if periodic and nearest[kinds, kinds].max() > shortest_vector(cell):
        return None
    shifts = image_shifts(cell, float(nearest.max())) if periodic else np.zeros((1, 3))
    # The ones that need most room first; placed[k] is the place of atom order[k].
    order = np.argsort(-nearest[kinds, kinds], kind="stable")
    placed = np.zeros((len(kinds), 3))
    for count, atom in enumerate(order):
        limits = nearest[kinds[atom], kinds[order[:count]]] ** 2
        for block in _BLOCKS:
            trials = rng.random((block, 3))
            squares = near_squares(trials, placed[:count], cell, shifts, periodic=periodic)
            good = np.flatnonzero((squares >= limits).all(1))
            if len(good):
                placed[count] = trials[good[0]]
                break
        else:
            return None
    positions = np.zeros_like(placed)
    positions[order] = placed @ cell
    return positions
