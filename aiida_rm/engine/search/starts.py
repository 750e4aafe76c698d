"""Starts, one after the other, each from its own random numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import SYMBOLS, hill_formula
from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search.composition import Compositions
from aiida_rm.engine.search.knowledge import ENOUGH, Knowledge
from aiida_rm.engine.search.placing import random_cell, scatter
from aiida_rm.engine.search.seeded import decorate, mutate, row_of, structure_of
from aiida_rm.engine.search.substitution import Substitutions
from aiida_rm.engine.search.symmetry import (
    Dealer,
    compatible_groups,
    space_group,
    symmetric_crystal,
)
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]
#: Cells that are tried before a structure is given up.
_CELL_TRIES = 60
#: With each of them, learnt distances shrink to this share: dense compositions find a place, too.
_SHRINK = 0.95
#: Special positions become rarer by this factor with each try: they hold few of many atoms.
_SPECIAL = 0.85
#: Cells that are tried with a space group before another one is drawn.
_GROUP_TRIES = 10
#: Volumes over those of the training set, where its spread is not known.
_VOLUME_SCALE = (0.9, 1.3)


@dataclass(frozen=True)
class Start:
    """One start; ``group`` is 0 where the space group is not known, ``row`` -1 without a seed.

    ``distance`` is that of a substitution.
    """

    species: Array
    positions: Array
    cell: Array
    group: int = 0
    row: int = -1
    distance: float = np.nan


def make_starts(
    indices: Sequence[int],
    settings: GenerateSettings,
    notes: Mapping[str, Any],
    given: Frames | None = None,
) -> tuple[Frames, dict[int, str]]:
    """The starts with these indices.

    Args:
        indices: which structures of the seed.
        settings: all knobs.
        notes: what the potential says of its training set (``Potential.notes``).
        given: structures to make the starts of; None: they are random.

    Returns:
        The starts with the labels ``index``, ``seed``, ``start`` (row of the given structure,
        -1 without one), ``start_spacegroup`` (that it was made with; 0 for molecules and
        given structures) and ``substitution_distance`` (:mod:`substitution`; NaN without one),
        and why there are none for the other indices.

    Raises:
        SearchError: that holds for all of them, or nothing is left to draw from.
        PotentialError: the notes cannot be read.
        SettingsError: symmetry is wanted, and pyxtal is not installed.
    """
    search = _Search(settings, Knowledge.from_notes(notes), given)
    starts: list[Start] = []
    found: list[int] = []
    impossible: dict[int, str] = {}
    for index in indices:
        try:
            starts.append(search.start(int(index)))
            found.append(int(index))
        except SearchError as error:
            impossible[int(index)] = str(error)
    if not found and impossible:
        raise SearchError(next(iter(impossible.values())))
    periodic = settings.periodic
    frames = Frames.build(
        [start.species for start in starts],
        [start.positions for start in starts],
        np.array([start.cell for start in starts]).reshape(-1, 3, 3),
        np.full((len(found), 3), periodic),
        structure={
            "index": np.asarray(found, np.int64),
            "seed": np.full(len(found), settings.seed, np.int64),
            "start": np.array([start.row for start in starts], np.int64),
            "start_spacegroup": np.array([start.group for start in starts], np.int64),
            "substitution_distance": np.array([start.distance for start in starts], np.float64),
        },
    )
    return frames, impossible


class _Search:
    def __init__(self, settings: GenerateSettings, known: Knowledge, given: Frames | None) -> None:
        self.settings = settings
        self.known = known
        self._make = self._way(given)
        self._dealers: dict[tuple[int, tuple[int, ...]], Dealer] = {}

    def _way(self, given: Frames | None) -> Callable[[np.random.Generator, int], Start]:
        """What makes a start of random numbers and an index."""
        s = self.settings
        if given is None:
            return partial(self._random, Compositions(s, self.known))
        if s.seeding == "substitute":
            return partial(self._substituted, given, Substitutions(given, s))
        if s.seeding == "decorate":
            return partial(self._decorated, given, Compositions(s, self.known))
        if s.seeding == "mutate":
            return partial(self._mutated, given)
        return partial(self._repaired, given)

    def start(self, index: int) -> Start:
        """Start ``index``; it depends on nothing that was drawn for the others.

        Raises:
            SearchError: there is none.
        """
        s = self.settings
        rng = np.random.default_rng(np.random.SeedSequence([s.seed, index]))
        try:
            start = self._make(rng, index)
        except SearchError as error:
            raise SearchError(f"start {index}: {error}") from error
        if not s.rattle:
            return start
        away = s.rattle * rng.normal(size=start.positions.shape)
        return replace(start, positions=start.positions + away)

    def _random(self, compositions: Compositions, rng: np.random.Generator, _index: int) -> Start:
        species = compositions.draw(rng)
        if not self.settings.periodic:
            return self._molecule(rng, species)
        if self.settings.symmetry and rng.random() < self.settings.symmetry:
            return self._symmetric(rng, species)
        return self._crystal(rng, species)

    def _volume(self, rng: np.random.Generator, species: Array) -> float:
        """Of a crystal, in cubic angstrom."""
        s = self.settings
        if s.volume_per_atom:
            return len(species) * _uniform(rng, s.volume_per_atom)
        return self.known.volume(species) * self._scale(rng, self.known.volume_spread)

    def _scale(self, rng: np.random.Generator, spread: float | None) -> float:
        if self.settings.volume_scale:
            return _uniform(rng, self.settings.volume_scale)
        if spread is None or self.known.n_structures < ENOUGH:
            return _uniform(rng, _VOLUME_SCALE)
        return float(np.exp(spread * rng.normal()))

    def _nearest(self, kinds: Array, attempt: int) -> Array:
        """(K, K) smallest distances at one of the attempts."""
        s = self.settings
        table = np.full((len(kinds), len(kinds)), s.min_distance)
        if not s.distance_scale:
            return table
        learnt = self.known.pair_distances(kinds) * s.distance_scale * _SHRINK**attempt
        return np.asarray(np.maximum(table, learnt))

    def _crystal(self, rng: np.random.Generator, species: Array) -> Start:
        kinds, which = np.unique(species, return_inverse=True)
        volume = self._volume(rng, species)
        for attempt in range(_CELL_TRIES):
            cell = random_cell(rng, volume, self.settings.cell_distortion)
            nearest = self._nearest(kinds, attempt)
            positions = scatter(rng, which, nearest, cell, periodic=True)
            if positions is not None:
                return Start(species, positions, cell, group=1)
        raise SearchError(
            f"{len(species)} atoms do not fit into {volume:.2f} A^3 with "
            f"{self.settings.min_distance:g} A between them; lower 'min_distance' or raise "
            f"'volume_{'per_atom' if self.settings.volume_per_atom else 'scale'}'"
        )

    def _symmetric(self, rng: np.random.Generator, species: Array) -> Start:
        kinds, amounts = np.unique(species, return_counts=True)
        counts = tuple(int(n) for n in amounts)
        groups = compatible_groups(counts, self.settings.space_groups)
        if not groups:
            raise SearchError(no_group(species, self.settings.space_groups))
        volume, number = self._volume(rng, species), 0
        for attempt in range(_CELL_TRIES):
            if attempt % _GROUP_TRIES == 0:
                number = groups[rng.integers(len(groups))]
            dealer = self._dealers.get((number, counts))
            if dealer is None:
                dealer = Dealer(space_group(number), counts)
                self._dealers[number, counts] = dealer
            nearest = self._nearest(kinds, attempt)
            made = symmetric_crystal(rng, dealer, nearest, volume, _SPECIAL**attempt)
            if made is not None:
                which, positions, cell = made
                order = np.argsort(which, kind="stable")
                return Start(kinds[which[order]], positions[order], cell, group=number)
        raise SearchError(
            f"{len(species)} atoms do not fit into {volume:.2f} A^3 with "
            f"{self.settings.min_distance:g} A between them and the symmetry that was asked for; "
            "lower 'min_distance', raise 'volume_scale' or allow other 'space_groups'"
        )

    def _molecule(self, rng: np.random.Generator, species: Array) -> Start:
        kinds, which = np.unique(species, return_inverse=True)
        edges = np.array(self.settings.box)
        if not len(edges):
            scale = self._scale(rng, self.known.box_spread)
            edges = self.known.box(species) * np.cbrt(scale)
        for attempt in range(_CELL_TRIES):
            nearest = self._nearest(kinds, attempt)
            positions = scatter(rng, which, nearest, np.diag(edges), periodic=False)
            if positions is not None:
                return Start(species, positions, np.zeros((3, 3)))
        raise SearchError(
            f"{len(species)} atoms do not fit into the box "
            f"{' x '.join(f'{edge:.3g}' for edge in edges)} A with "
            f"{self.settings.min_distance:g} A between them; lower 'min_distance' or enlarge 'box'"
        )

    def _repaired(self, given: Frames, _rng: np.random.Generator, index: int) -> Start:
        """A given structure as it is; the relaxation repairs it."""
        row = row_of(index, given)
        return Start(*structure_of(given, row), row=row)

    def _mutated(self, given: Frames, rng: np.random.Generator, index: int) -> Start:
        row = row_of(index, given)
        periodic = bool(given.pbc[row].any())
        made = mutate(rng, *structure_of(given, row), self.settings, periodic=periodic)
        return Start(*made, row=row)

    def _decorated(
        self, given: Frames, compositions: Compositions, rng: np.random.Generator, index: int
    ) -> Start:
        row = row_of(index, given)
        old, positions, cell = structure_of(given, row)
        species = decorate(rng, old, compositions)
        if self.settings.periodic:
            wanted = self._volume(rng, species)
            factor = np.cbrt(wanted / abs(np.linalg.det(cell)))
            positions, cell = positions * factor, cell * factor
        return Start(species, positions, cell, row=row)

    def _substituted(
        self, given: Frames, substitutions: Substitutions, rng: np.random.Generator, index: int
    ) -> Start:
        """Formulas take turns, each with the next of the given structures that serve it.

        Raises:
            SearchError: none is left.
        """
        s = self.settings
        turn, number = divmod(index, len(s.formulas))
        formula = s.formulas[number]
        ranked = substitutions.ranked(formula)
        if turn >= len(ranked):
            raise SearchError(
                f"only {len(ranked)} of the given structures have the numbers of atoms of "
                f"{formula}; lower 'n_structures', or give more"
            )
        row, distance = ranked[turn]
        old, positions, cell = structure_of(given, row)
        species = substitutions.species(formula, row)
        volume = abs(np.linalg.det(cell))
        if s.volume_per_atom:
            wanted = len(species) * _uniform(rng, s.volume_per_atom)
        else:
            wanted = self.known.volume(species)
            if {SYMBOLS[z] for z in old} <= set(self.known.volumes):
                # As densely packed as the given one is, by what both should take.
                wanted *= volume / self.known.volume(old)
        factor = np.cbrt(wanted / volume)
        return Start(species, positions * factor, cell * factor, row=row, distance=distance)


def _uniform(rng: np.random.Generator, ends: tuple[float, ...]) -> float:
    return float(rng.uniform(ends[0], ends[1]))


def no_group(species: Array, wanted: Sequence[int]) -> str:
    """That no space group is possible, and what to do."""
    kinds, counts = np.unique(species, return_counts=True)
    formula = hill_formula({SYMBOLS[z]: int(n) for z, n in zip(kinds, counts, strict=True)})
    among = f"none of the space groups {', '.join(map(str, wanted))}" if wanted else "no group"
    return (
        f"{among} can be had by {formula} in a primitive cell: its Wyckoff positions cannot hold "
        "these numbers of atoms; allow other 'space_groups' or numbers of atoms"
    )
