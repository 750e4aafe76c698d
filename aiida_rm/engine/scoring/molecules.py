"""Molecules: whether two of them are the same, by their interatomic distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

#: Two molecules are the same when no sorted distance differs by more than this, in angstrom.
DISTANCE_TOLERANCE = 0.1


def distance_fingerprint(numbers: Array, positions: Array) -> Array:
    """The interatomic distances, sorted within each pair of elements.

    Rotations, translations, reflections and permutations of like atoms do not change it. Sorting
    keeps the largest difference from growing, so two copies of a molecule whose distances differ
    by less than the tolerance are always found equal; mirror images count as equal, and so do the
    rare different molecules with the same set of distances.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) Cartesian, in angstrom.

    Returns:
        (N (N - 1) / 2,) in angstrom, ordered by pair of elements, then by length. Comparable
        between molecules of one formula.
    """
    first, second = np.triu_indices(len(numbers), k=1)
    distances = np.linalg.norm(positions[first] - positions[second], axis=1)
    kinds = np.sort(np.stack([numbers[first], numbers[second]]).astype(int), axis=0)
    order = np.lexsort((distances, kinds[1], kinds[0]))
    return np.asarray(distances[order])


def same_molecule(one: Array, two: Array) -> bool:
    """Whether two fingerprints of one formula agree within :data:`DISTANCE_TOLERANCE`."""
    return bool(np.abs(one - two).max(initial=0.0) <= DISTANCE_TOLERANCE)


def molecule_rmsd(one: Array, two: Array) -> float:
    """Root mean square difference of two fingerprints, in angstrom (0 for single atoms)."""
    return float(np.sqrt(np.mean((one - two) ** 2))) if len(one) else 0.0
