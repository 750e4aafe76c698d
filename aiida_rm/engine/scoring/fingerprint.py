"""Repeats found by their energy and a fingerprint, before any structure is matched.

Of a search on one potential, most equal structures came to the same minimum: their E~ agrees, and
so do all their distances. Finding those costs nothing next to matching cells and sites.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import MAX_NUMBER

Array = NDArray[Any]

#: Reach of the fingerprint and spacing of its points, in angstrom. Stackings and superlattices
#: of one kind of neighbourhood differ beyond 5 A, which E~ does not even see.
REACH, _SPACING = 7.0, 0.125
_POINTS = np.arange(0.5, REACH, _SPACING)
#: A number of each element, between 0.5 and 1.5; neighbours in the table differ much.
_WEIGHTS = 0.5 + (np.arange(MAX_NUMBER + 1) * 0.618034) % 1
FINGERPRINT_SIZE = 3 * len(_POINTS)
#: Energies per atom of repeats differ by less (with E~: square angstrom) ...
_ENERGY = 1e-4
#: ... and their fingerprints by less than this share.
_SHARE = 0.02


def fingerprint(numbers: Array, centers: Array, neighbors: Array, distances: Array) -> Array:
    """How many pairs of which elements are how far apart, smoothed; as float32.

    Supercells, turned and permuted structures have the same one.

    Args:
        numbers: (N,) atomic numbers.
        centers: (P,) first atoms of the ordered pairs.
        neighbors: (P,) second ones.
        distances: (P,) in angstrom; those beyond :data:`REACH` do not count.

    Returns:
        (3 * points,): all pairs, those of unlike atoms, and all weighted by both elements.
    """
    near = distances < REACH
    distances = distances[near]
    one, two = numbers[centers[near]].astype(int), numbers[neighbors[near]].astype(int)
    # Gaussians of two spacings' width, which fade out in the last angstrom.
    fade = 0.5 - 0.5 * np.cos(np.pi * np.minimum(1, REACH - distances))
    fade = fade / max(len(numbers), 1)
    bumps = np.exp(-0.5 * ((distances[:, None] - _POINTS) / (2 * _SPACING)) ** 2)
    weights = np.stack([fade, fade * (one != two), fade * _WEIGHTS[one] * _WEIGHTS[two]])
    return np.asarray((weights @ bumps).reshape(-1), np.float32)


def find_repeats(energies: Array, fingerprints: Array) -> Array:
    """For each structure the first one, in order, that it repeats; itself where there is none.

    Args:
        energies: (N,) per atom; what is NaN repeats nothing.
        fingerprints: (N, D) of structures of one composition and size.

    Returns:
        (N,) places.
    """
    sizes = np.linalg.norm(fingerprints, axis=1)
    keys, width = energies, np.full(len(energies), _ENERGY)
    finite = np.isfinite(energies)
    if finite.any() and np.ptp(energies[finite]) <= _ENERGY:
        # Energies do not tell them apart: fingerprints as near as that are as large, too.
        keys, width = np.where(finite, sizes, np.nan), _SHARE * sizes
    order = np.argsort(keys, kind="stable")
    sorted_keys = keys[order]
    first = np.searchsorted(sorted_keys, keys - width)
    last = np.searchsorted(sorted_keys, keys + width, side="right")
    owners = np.arange(len(energies))
    for place in np.flatnonzero(finite):
        rivals = order[first[place] : last[place]]
        rivals = rivals[(rivals < place) & (owners[rivals] == rivals)]
        gaps = np.linalg.norm(fingerprints[rivals] - fingerprints[place], axis=1)
        equal = rivals[gaps <= _SHARE * sizes[place]]
        if len(equal):
            owners[place] = equal.min()
    return owners
