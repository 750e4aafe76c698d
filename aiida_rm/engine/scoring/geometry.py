"""Distances, coordination numbers and radial distributions that see periodic self-images."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.elements import MAX_NUMBER, RADII
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.fingerprint import FINGERPRINT_SIZE, REACH, fingerprint

Array = NDArray[Any]

#: Distances computed at once; bounds the memory (some tens of MB).
_BLOCK = 500_000
#: A cell that needs more images than this to fill the radius is degenerate.
_MAX_IMAGES = 200_000
_RADII = np.array(RADII)


@dataclass(frozen=True)
class Pairs:
    """Ordered pairs (i, j, image) of one structure that are nearer than a radius.

    Attributes:
        centers: (P,) index of atom i within the structure.
        neighbors: (P,) that of atom j.
        distances: (P,) in angstrom. Each pair stands twice, as (i, j) and (j, i); so does a pair
            of an atom with its own image, because both images count.
    """

    centers: Array
    neighbors: Array
    distances: Array


@dataclass(frozen=True)
class Geometry:
    """What the geometry of one structure says; see :func:`measure`."""

    finite: bool
    min_distance: float
    min_radii_ratio: float
    volume_per_atom: float
    coordination: Array
    rdf: Array
    fingerprint: Array


def measure(
    frames: Frames, index: int, *, bond_length: float, rdf_max: float, rdf_bins: int
) -> Geometry:
    """Distances, coordination and radial distribution of one structure.

    Args:
        frames: the set.
        index: which structure.
        bond_length: neighbours are nearer than this, in angstrom.
        rdf_max: radial distribution up to this distance, in angstrom.
        rdf_bins: number of its bins.

    Returns:
        ``finite`` is False, and the rest NaN and zeros, for a structure that has no geometry: no
        atoms, unknown elements, numbers that are not finite, a periodic cell without volume.
        ``min_distance`` is infinite for a lone atom without images; ``min_radii_ratio``, the least
        distance over the sum of the covalent radii of its two atoms
        (:data:`~aiida_rm.engine.elements.RADII`), where none is within 7 A; ``volume_per_atom`` is
        NaN and ``rdf`` zero where not periodic in all directions. The ``fingerprint`` is that of
        :func:`scoring.fingerprint.fingerprint`.
    """
    start, end = int(frames.ptr[index]), int(frames.ptr[index + 1])
    count = end - start
    nothing = Geometry(
        False,
        np.nan,
        np.nan,
        np.nan,
        np.zeros(count, int),
        np.zeros(rdf_bins),
        np.zeros(FINGERPRINT_SIZE),
    )
    numbers = frames.numbers[start:end]
    cell, pbc = np.asarray(frames.cells[index]), np.asarray(frames.pbc[index])
    if count == 0 or np.any(numbers == 0) or np.any(numbers > MAX_NUMBER):
        return nothing
    if not (np.isfinite(frames.positions[start:end]).all() and np.isfinite(cell).all()):
        return nothing
    radius = max(bond_length, rdf_max, REACH)
    pairs = neighbor_pairs(frames.positions[start:end], cell, pbc, radius)
    if pairs is None:
        return nothing
    nearest = float(pairs.distances.min(initial=np.inf))
    if np.isinf(nearest):
        nearest = frames.minimum_distance(index)
    sums = _RADII[numbers[pairs.centers]] + _RADII[numbers[pairs.neighbors]]
    bonds = pairs.centers[pairs.distances < bond_length]
    volume = abs(float(np.linalg.det(cell))) if pbc.all() else np.nan
    return Geometry(
        finite=True,
        min_distance=nearest,
        min_radii_ratio=float((pairs.distances / sums).min(initial=np.inf)),
        volume_per_atom=volume / count,
        coordination=np.bincount(bonds, minlength=count),
        rdf=radial_distribution(pairs.distances, count, volume, rdf_max, rdf_bins),
        fingerprint=fingerprint(numbers, pairs.centers, pairs.neighbors, pairs.distances),
    )


def neighbor_pairs(positions: Array, cell: Array, pbc: Array, radius: float) -> Pairs | None:
    """All ordered pairs of atoms and periodic images nearer than ``radius``.

    Args:
        positions: (N, 3) Cartesian, in angstrom; anywhere, not only inside the cell.
        cell: (3, 3) rows are lattice vectors, in angstrom.
        pbc: (3,) bool, periodic directions.
        radius: in angstrom, exclusive.

    Returns:
        The pairs, or None where the periodic cell is degenerate: lattice vectors that are missing
        or linearly dependent, or so flat that more than 200,000 images lie within the radius.
    """
    points = np.asarray(positions, float)
    shifts = np.zeros((1, 3))
    if np.any(pbc):
        frame = complete_cell(cell, pbc)
        lengths = np.linalg.norm(frame, axis=1)
        if lengths.min() < 1e-6 or abs(np.linalg.det(frame)) < 1e-9 * np.prod(lengths):
            return None
        inverse = np.linalg.inv(frame)
        heights = 1.0 / np.linalg.norm(inverse, axis=0)
        # Within [0, 1) the fractional coordinates of two atoms differ by less than one.
        fractional = points @ inverse
        fractional[:, pbc] -= np.floor(fractional[:, pbc])
        points = fractional @ frame
        reach = np.where(pbc, np.floor(radius / heights) + 1, 0)
        if np.prod(2 * reach + 1) > _MAX_IMAGES:
            return None
        ranges = [np.arange(-r, r + 1) for r in reach.astype(int)]
        shifts = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 3) @ frame
        # No image of the cell counts that lies further off than the radius and the cell's extent.
        extent = 2.0 * np.linalg.norm(points - points.mean(axis=0), axis=1).max(initial=0.0)
        shifts = shifts[np.linalg.norm(shifts, axis=1) < radius + extent + 1e-9]
    return _pairs_of(points, shifts, radius)


def _pairs_of(points: Array, shifts: Array, radius: float) -> Pairs:
    count = len(points)
    rows = min(count, max(1, _BLOCK // count))
    step = max(1, _BLOCK // (rows * count))
    centers, neighbors, distances = [], [], []
    for first, begin in itertools.product(range(0, len(shifts), step), range(0, count, rows)):
        gaps = points[None, :, :] - points[begin : begin + rows, None, :]
        block = shifts[first : first + step]
        squares = ((gaps[None] + block[:, None, None, :]) ** 2).sum(axis=-1)
        near = squares < radius**2
        itself = np.arange(len(gaps))
        for own in np.flatnonzero(~block.any(axis=1)):
            near[own, itself, begin + itself] = False
        _, one, other = np.nonzero(near)
        centers.append(begin + one)
        neighbors.append(other)
        distances.append(np.sqrt(squares[near]))
    return Pairs(np.concatenate(centers), np.concatenate(neighbors), np.concatenate(distances))


def radial_distribution(
    distances: Array, n_atoms: int, volume: float, rdf_max: float, rdf_bins: int
) -> Array:
    """The radial distribution function g(r) of a crystal.

    ``g`` is the number of ordered pairs in a spherical shell over that of an ideal gas of the same
    density, ``N * 4/3 pi (r1^3 - r0^3) * N / V``; it tends to 1 far away.

    Args:
        distances: (P,) of ordered pairs, own images included, in angstrom.
        n_atoms: N, atoms in the cell.
        volume: V of the cell, in cubic angstrom; NaN for what is not a crystal.
        rdf_max: end of the last bin, in angstrom.
        rdf_bins: number of bins, all equally wide.

    Returns:
        (rdf_bins,) float64; zeros for what is not a crystal.
    """
    if not np.isfinite(volume) or volume <= 0:
        return np.zeros(rdf_bins)
    counts, edges = np.histogram(
        distances[distances < rdf_max], bins=rdf_bins, range=(0.0, rdf_max)
    )
    shells = 4.0 / 3.0 * np.pi * np.diff(edges**3)
    return np.asarray(counts / (shells * n_atoms**2 / volume))
