"""Geometry of periodic cells, for one structure at a time (numpy)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Lattice vectors below this, in angstrom, are a mistake whatever the atoms.
_TINY = 0.1
#: Pairs of atoms that are looked at together.
_PAIRS = 200_000


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
        shortest = float(np.linalg.norm(cell[pbc], axis=1).min())
        if shortest < min(limit, _TINY):
            return shortest  # millions of images would be within reach
        reach = min(limit, shortest * (1 + 1e-9))
        frame = complete_cell(cell, pbc)
        shifts = image_shifts(frame, reach)
        shifts = shifts[~shifts[:, ~np.asarray(pbc)].any(axis=1)]
    else:
        frame = np.eye(3)
    fractional = positions @ np.linalg.inv(frame)
    best, count = np.inf, len(positions)
    rows = max(1, _PAIRS // max(1, count))
    for begin in range(0, count, rows):
        gaps = fractional[None] - fractional[begin : begin + rows, None]
        gaps[..., pbc] -= np.round(gaps[..., pbc])
        own = np.arange(len(gaps))
        for shift in shifts:
            squares = (((gaps + shift) @ frame) ** 2).sum(axis=-1)
            if not shift.any():
                squares[own, begin + own] = np.inf
            best = min(best, float(squares.min()))
    return float(np.sqrt(best))


def may_overlap(
    positions: Array, cells: Array, pbc: Array, ptr: Array, limit: float
) -> Iterator[int]:
    """Structures in which two atoms may be nearer than ``limit``, many looked at together.

    Every structure with such a pair is among them, in order; :func:`shortest_distance` tells.

    Args:
        positions: (A, 3) of all atoms, in angstrom.
        cells: (S, 3, 3) not flat where periodic.
        pbc: (S, 3) bool.
        ptr: (S + 1,) structure i owns atoms ``ptr[i]:ptr[i + 1]``.
        limit: in angstrom.
    """
    counts = np.diff(ptr)
    # Sums of pairs, cut where they pass a multiple of the limit: each part holds one structure
    # at least.
    pairs = np.cumsum(counts * (counts - 1) // 2)
    edges = np.unique(np.searchsorted(pairs, np.arange(0, pairs[-1] + _PAIRS, _PAIRS), "right"))
    edges = np.unique([0, *edges, len(counts)])
    for first, last in itertools.pairwise(edges):
        own = slice(first, last)
        atoms = slice(ptr[first], ptr[last])
        near = _near(positions[atoms], cells[own], pbc[own], ptr[first : last + 1], limit)
        yield from (first + np.flatnonzero(near)).tolist()


def _near(positions: Array, cells: Array, pbc: Array, ptr: Array, limit: float) -> Array:
    """(S,) whether a pair of atoms is nearer than ``limit``, or that is not so easily told."""
    periodic: Array = np.asarray(pbc.all(axis=1))
    frames = np.where(periodic[:, None, None], cells, np.eye(3))
    inverse = np.linalg.inv(frames)
    lowest = (1 / np.linalg.norm(inverse, axis=1)).min(axis=1)
    # With heights above twice the limit, the nearest image is that of the rounded fractional
    # gap, and an atom's own images are out of reach.
    near: Array = np.where(periodic, lowest <= 2 * limit, pbc.any(axis=1))
    counts = np.where(near, 0, np.diff(ptr))
    counts[counts * (counts - 1) // 2 > 10 * _PAIRS] = 0
    near |= counts < np.diff(ptr)
    # Every atom with those after it in its structure.
    structures = np.repeat(np.arange(len(cells)), np.diff(ptr))
    ends = (ptr[:-1] - ptr[0] + counts)[structures]
    partners = np.maximum(ends - np.arange(len(positions)) - 1, 0)
    one = np.repeat(np.arange(len(positions)), partners)
    other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(partners) - partners, partners)
    owner = np.repeat(structures, partners)
    fractional = np.einsum("ai,aij->aj", positions, inverse[structures])
    gaps = fractional[other] - fractional[one]
    gaps -= np.where(periodic[owner, None], np.round(gaps), 0.0)
    gaps = np.einsum("pi,pij->pj", gaps, frames[owner])
    near[owner[(gaps**2).sum(axis=1) < limit**2]] = True
    return near


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


def nearest_images(gaps: Array, cell: Array) -> tuple[Array, Array]:
    """Which lattice steps leave least of some gaps.

    Args:
        gaps: (N, 3) Cartesian, in angstrom.
        cell: (3, 3), reduced or not.

    Returns:
        (N, 3) whole numbers, and the squares (N,) of the gaps without that many lattice vectors.
    """
    basis = short_basis(cell)
    cell = basis @ cell
    steps = np.round(gaps @ np.linalg.inv(cell))
    rest = gaps - steps @ cell
    squares = (rest**2).sum(-1)
    rounded = steps.copy()
    for shift in image_shifts(cell, float(np.sqrt(squares.max(initial=0.0)))):
        others = ((rest - shift @ cell) ** 2).sum(-1)
        nearer = others < squares
        squares[nearer] = others[nearer]
        steps[nearer] = rounded[nearer] + shift
    return steps @ basis, squares


def short_basis(cell: Array) -> Array:
    """(3, 3) whole numbers, whose product with the cell spans the same lattice, less skew.

    Each vector is made as short as the other two, one at a time, can make it.
    """
    basis, vectors = np.eye(3), np.array(cell, float)
    shortened = True
    while shortened:
        shortened = False
        for one, other in itertools.permutations(range(3), 2):
            times = np.round(vectors[one] @ vectors[other] / (vectors[other] @ vectors[other]))
            shorter = vectors[one] - times * vectors[other]
            if shorter @ shorter < (1 - 1e-9) * (vectors[one] @ vectors[one]):
                vectors[one], shortened = shorter, True
                basis[one] -= times * basis[other]
    return basis


def heights(cell: Array) -> Array:
    """(3,) distances between opposite faces, in angstrom."""
    return np.asarray(1 / np.linalg.norm(np.linalg.inv(cell), axis=0))
