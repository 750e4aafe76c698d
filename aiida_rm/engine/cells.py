"""Geometry of periodic cells, for one structure at a time (numpy)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def shortest_distance(positions: Array, cell: Array, pbc: Array, limit: float = np.inf) -> float:
    """Shortest distance between atoms, in angstrom, an atom's own images included.

    Args:
        positions: (n, 3), anywhere, also outside the cell.
        cell: (3, 3) rows are lattice vectors.
        pbc: (3,) bool, periodic directions.
        limit: distances from here on need not be told apart; a small one is quicker.

    Returns:
        The distance, or infinity for a lone atom without images (or nothing below ``limit``).
    """
    shifts = np.zeros((1, 3))
    if np.any(pbc):
        # An upper bound of the answer: the shortest periodic lattice vector.
        reach = min(limit, float(np.linalg.norm(cell[pbc], axis=1).min()) * (1 + 1e-9))
        frame = complete_cell(cell, pbc)
        heights = 1.0 / np.linalg.norm(np.linalg.inv(frame), axis=0)
        fractional = positions @ np.linalg.inv(frame)
        fractional[:, pbc] -= np.floor(fractional[:, pbc])
        positions = fractional @ frame
        reaches = np.where(pbc, np.ceil(reach / heights) + 1, 0).astype(int)
        grid = np.stack(np.meshgrid(*[np.arange(-r, r + 1) for r in reaches], indexing="ij"), -1)
        shifts = grid.reshape(-1, 3) @ frame
    best = np.inf
    for shift in shifts:
        gaps = positions[None, :, :] + shift - positions[:, None, :]
        distances = np.sqrt((gaps**2).sum(axis=-1))
        if not shift.any():
            np.fill_diagonal(distances, np.inf)
        best = min(best, float(distances.min(initial=np.inf)))
    return best


def complete_cell(cell: Array, pbc: Array) -> Array:
    """(3, 3) the cell with its non-periodic directions replaced by unit vectors normal to it."""
    full = np.array(cell, float)
    full[~np.asarray(pbc)] = 0.0
    if np.all(pbc):
        return full
    # Singular values fall, so the last directions are those that no periodic vector spans.
    spare_axes = np.flatnonzero(~np.asarray(pbc))
    directions = np.linalg.svd(full)[2]
    for axis, direction in zip(spare_axes, directions[3 - len(spare_axes) :], strict=True):
        full[axis] = direction
    return full


def near_squares(
    first: Array, second: Array, cell: Array, shifts: Array, *, periodic: bool = True
) -> Array:
    """(n, m) squared distances of fractional coordinates (n, 3) and (m, 3), nearest images.

    Exact up to the distance that ``shifts`` were made for.
    """
    return gap_squares(first[:, None] - second[None], cell, shifts, periodic=periodic)


def gap_squares(gaps: Array, cell: Array, shifts: Array, *, periodic: bool = True) -> Array:
    """(...) squared lengths of fractional gaps (..., 3), as :func:`near_squares`."""
    if periodic:
        gaps = gaps - np.round(gaps)
    if len(shifts) == 1:
        return np.asarray(((gaps @ cell) ** 2).sum(-1))
    return np.asarray((((gaps[..., None, :] + shifts) @ cell) ** 2).sum(-1).min(-1))


def image_shifts(cell: Array, reach: float) -> Array:
    """(M, 3) lattice steps beside the rounded one that can bring an image within ``reach``."""
    # An image at a distance below reach has fractional gaps below reach / height.
    most = np.maximum(np.ceil(reach / heights(cell) - 0.5), 0).astype(int)
    steps = [np.arange(-n, n + 1) for n in most]
    return np.stack(np.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3).astype(float)


def heights(cell: Array) -> Array:
    """(3,) distances between opposite faces, in angstrom."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))
