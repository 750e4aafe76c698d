"""Starts made of given structures: as they are, mutated, or with other species on their sites."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import NUMBERS
from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search.composition import Compositions, species_of
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]


def row_of(index: int, given: Frames) -> int:
    """The given structure that start ``index`` is made of: they take turns."""
    return index % len(given)


def structure_of(given: Frames, row: int) -> tuple[Array, Array, Array]:
    """Species (n,), positions (n, 3) and cell (3, 3) of a given structure."""
    atoms = slice(given.ptr[row], given.ptr[row + 1])
    return (
        np.array(given.numbers[atoms], np.int64),
        np.array(given.positions[atoms]),
        np.array(given.cells[row]),
    )


def mutate(
    rng: np.random.Generator,
    species: Array,
    positions: Array,
    cell: Array,
    s: GenerateSettings,
    *,
    periodic: bool,
) -> tuple[Array, Array, Array]:
    """Strain a periodic cell, displace the atoms, and swap unlike ones."""
    species = species.copy()
    if periodic:
        strain = np.eye(3) + s.strain * rng.uniform(-1, 1, (3, 3))
        positions, cell = positions @ strain, cell @ strain
    positions = positions + s.displacement * rng.normal(size=positions.shape)
    for _ in range(s.swaps if len(np.unique(species)) > 1 else 0):
        first = rng.integers(len(species))
        second = rng.choice(np.flatnonzero(species != species[first]))
        species[[first, second]] = species[[second, first]]
    return species, positions, cell


def decorate(rng: np.random.Generator, species: Array, compositions: Compositions) -> Array:
    """(n,) new species for the sites.

    By formula, like sites stay alike where its numbers of atoms are those of the structure, or
    else all sites are dealt at random. By elements, each element of the structure is replaced by
    another one, so that like sites stay alike.

    Raises:
        SearchError: no formula fits the number of sites, or there are too few elements.
    """
    old, which = np.unique(species, return_inverse=True)
    if not compositions.formulas:
        if len(compositions.shares) < len(old):
            raise SearchError(
                f"{len(old)} different elements are needed to decorate, but only "
                f"{', '.join(compositions.shares)} are allowed; allow more, or give 'formulas'"
            )
        symbols = compositions.draw_distinct(rng, len(old))
        return np.array([NUMBERS[symbol] for symbol in symbols])[which]
    fitting = fitting_formulas(compositions, len(species))
    if not fitting:
        raise SearchError(
            f"no formula has a number of atoms that divides the {len(species)} sites of a given "
            "structure; give others"
        )
    weights = np.array([compositions.formulas[name] for name in fitting])
    unit = species_of(fitting[rng.choice(len(fitting), p=weights / weights.sum())])
    drawn = np.tile(unit, len(species) // len(unit))
    new, counts = np.unique(drawn, return_counts=True)
    if sorted(counts) != sorted(np.bincount(which)):
        return np.asarray(rng.permutation(drawn))
    # Elements of equal numbers of atoms may take each other's place.
    by_count = rng.permutation(len(new))
    by_count = by_count[np.argsort(counts[by_count], kind="stable")]
    places = np.zeros(len(old), np.int64)
    places[np.argsort(np.bincount(which), kind="stable")] = new[by_count]
    return places[which]


def fitting_formulas(compositions: Compositions, sites: int) -> list[str]:
    """The formulas that fill so many sites, once or several times."""
    return [name for name in compositions.formulas if sites % len(species_of(name)) == 0]
