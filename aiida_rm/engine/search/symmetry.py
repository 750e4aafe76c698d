"""Random crystals of a space group; the tables of the groups are pyxtal's (optional).

A composition is dealt to Wyckoff positions of the group so that every count comes out exactly;
the free coordinates and the cell are drawn at random. Cells are primitive: a start has the
atoms that were asked for, whatever the centring.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.cells import gap_squares, image_shifts, near_squares
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.search.placing import is_sliver, shortest_vector

Array = NDArray[Any]
#: Places that are tried for a Wyckoff position with free coordinates, block by block.
_BLOCKS = (4, 24, 160)
#: Nearer images of a point are one: it lies on a special position.
_SAME = 1e-3
#: Primitive vectors in units of the conventional ones, by centring (R: hexagonal axes, obverse).
_PRIMITIVE = {
    "P": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "A": [[1, 0, 0], [0, 0.5, -0.5], [0, 0.5, 0.5]],
    "C": [[0.5, -0.5, 0], [0.5, 0.5, 0], [0, 0, 1]],
    "I": [[-0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.5, 0.5, -0.5]],
    "F": [[0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]],
    "R": [[2 / 3, 1 / 3, 1 / 3], [-1 / 3, 1 / 3, 1 / 3], [-1 / 3, -2 / 3, 1 / 3]],
}


@dataclass(frozen=True)
class WyckoffPosition:
    """Points that the group maps on each other.

    Attributes:
        free: whether a coordinate can be chosen, so that several atoms may take the position.
        rotations, translations: (m, 3, 3), (m, 3), of a point in the conventional cell to its m
            images in the primitive one.
    """

    free: bool
    rotations: Array
    translations: Array

    @property
    def size(self) -> int:
        """Atoms in a primitive cell."""
        return len(self.translations)

    def orbits(self, points: Array) -> Array:
        """(T, m, 3) images in the primitive cell of points (T, 3) in the conventional one."""
        images = np.einsum("mij,tj->tmi", self.rotations, points) + self.translations
        return np.asarray(images - np.floor(images))


@dataclass(frozen=True)
class SpaceGroup:
    """A space group: its number, family of cells, primitive vectors and Wyckoff positions."""

    number: int
    family: str
    primitive: Array
    positions: tuple[WyckoffPosition, ...]


def require_pyxtal() -> None:
    """Refuse symmetry where pyxtal is not installed.

    Raises:
        SettingsError: with the remedy.
    """
    try:
        import pyxtal  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            "'symmetry' needs pyxtal, which is not installed here; pip install pyxtal "
            "(or aiida-rm[symmetry]), or set 'symmetry' to 0"
        ) from error


@cache
def space_group(number: int) -> SpaceGroup:
    """One of the 230, from pyxtal's tables.

    Raises:
        SettingsError: pyxtal is not installed.
    """
    require_pyxtal()
    from pyxtal.symmetry import Group

    group = Group(number)
    primitive = np.array(_PRIMITIVE[str(group.symbol)[0]])
    positions = [
        _wyckoff_position(np.array([op.affine_matrix for op in position.ops]), primitive)
        for position in group.Wyckoff_positions
    ]
    return SpaceGroup(number, str(group.lattice_type), primitive, tuple(positions))


def _wyckoff_position(matrices: Array, primitive: Array) -> WyckoffPosition:
    """Of operations (M, 4, 4) in the conventional cell, those that differ in the primitive one."""
    into = np.linalg.inv(primitive).T
    rotations, translations = into @ matrices[:, :3, :3], matrices[:, :3, 3] @ into.T
    generic = rotations @ np.array([0.1234, 0.2718, 0.4321]) + translations
    gaps = generic[:, None] - generic[None]
    same = (np.abs(gaps - np.round(gaps)) < 1e-6).all(-1)
    first = np.argmax(same, axis=1) == np.arange(len(same))
    free = bool(np.any(matrices[0, :3, :3]))
    return WyckoffPosition(free, rotations[first], translations[first])


def compatible_groups(counts: Sequence[int], among: Sequence[int] = ()) -> tuple[int, ...]:
    """Space groups beyond P1 that so many atoms of each element can have in a primitive cell."""
    return _compatible(tuple(sorted(counts)), tuple(among) or tuple(range(2, 231)))


def has_group(counts: Sequence[int], among: Sequence[int] = ()) -> bool:
    """Whether :func:`compatible_groups` finds any; quicker, as one suffices."""
    numbers = among or range(2, 231)
    return any(Dealer(space_group(number), counts).possible for number in numbers)


@cache
def _compatible(counts: tuple[int, ...], among: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(number for number in among if Dealer(space_group(number), counts).possible)


class Dealer:
    """Deals atoms to Wyckoff positions; those without free coordinates are taken once."""

    def __init__(self, group: SpaceGroup, counts: Sequence[int]) -> None:
        self.group = group
        self.counts = tuple(counts)
        fixed = [p.size for p in group.positions if not p.free]
        self.sizes = tuple(sorted(set(fixed)))
        self.stock = tuple(fixed.count(size) for size in self.sizes)
        # reach[n]: whether positions with free coordinates alone can hold n atoms.
        free = {p.size for p in group.positions if p.free}
        self.reach = [True] + [False] * max(self.counts)
        for n in range(1, len(self.reach)):
            self.reach[n] = any(size <= n and self.reach[n - size] for size in free)
        self._memory: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}

    @property
    def possible(self) -> bool:
        """Whether there is any way."""
        return self._fits(self.counts, self.stock)

    def _fits(self, counts: tuple[int, ...], stock: tuple[int, ...]) -> bool:
        """Whether all of these counts can be dealt with so many fixed positions left."""
        if not counts:
            return True
        key = (counts, stock)
        if key not in self._memory:
            self._memory[key] = any(
                self._fits(counts[1:], rest) for rest in self._takes(counts[0], stock)
            )
        return self._memory[key]

    def _takes(self, count: int, stock: tuple[int, ...], place: int = 0) -> list[tuple[int, ...]]:
        """What may be left of the stock after one element, its rest in free positions."""
        if place == len(self.sizes):
            return [stock] if self.reach[count] else []
        found = []
        for used in range(min(stock[place], count // self.sizes[place]) + 1):
            rest = (*stock[:place], stock[place] - used, *stock[place + 1 :])
            found += self._takes(count - used * self.sizes[place], rest, place + 1)
        return found

    def deal(self, rng: np.random.Generator, special: float) -> list[tuple[int, WyckoffPosition]]:
        """Element (its place in the counts) and position of every orbit, in random order.

        Each is any position that leaves a way to deal the rest; but only with probability
        ``special`` if it is not one of the largest of these.
        """
        unused = [p for p in self.group.positions if not p.free]
        free = [p for p in self.group.positions if p.free]
        stock, dealt = self.stock, []
        for element, count in enumerate(self.counts):
            later, left = self.counts[element + 1 :], count
            while left:
                options = []
                for position in [*unused, *free]:
                    rest = stock if position.free else self._without(stock, position.size)
                    if position.size <= left and self._fits((left - position.size, *later), rest):
                        options.append((position, rest))
                if rng.random() >= special:
                    most = max(position.size for position, _ in options)
                    options = [option for option in options if option[0].size == most]
                position, stock = options[rng.integers(len(options))]
                if not position.free:
                    unused = [p for p in unused if p is not position]
                dealt.append((element, position))
                left -= position.size
        return [dealt[place] for place in rng.permutation(len(dealt))]

    def _without(self, stock: tuple[int, ...], size: int) -> tuple[int, ...]:
        place = self.sizes.index(size)
        return (*stock[:place], stock[place] - 1, *stock[place + 1 :])


def symmetric_crystal(
    rng: np.random.Generator,
    dealer: Dealer,
    nearest: Array,
    volume: float,
    special: float = 1.0,
) -> tuple[Array, Array, Array] | None:
    """One try at a random crystal of a space group.

    Args:
        rng: random numbers.
        dealer: the group and the counts of the elements.
        nearest: (K, K) smallest distances between the elements, in angstrom.
        volume: of the primitive cell, in cubic angstrom.
        special: see :meth:`Dealer.deal`.

    Returns:
        Elements (n,) by their place in the counts, positions (n, 3) and the primitive cell (3, 3);
        None if the cell was a sliver or an atom found no place.
    """
    group = dealer.group
    conventional = _random_lattice(rng, group.family)
    cell = group.primitive @ conventional
    cell = cell * np.cbrt(volume / abs(np.linalg.det(cell)))
    if is_sliver(cell) or nearest.diagonal().max() > shortest_vector(cell):
        return None
    shifts = image_shifts(cell, float(nearest.max()))
    kinds, placed = np.zeros(0, int), np.zeros((0, 3))
    for element, position in dealer.deal(rng, special):
        limits = nearest[element, kinds] ** 2
        own = max(nearest[element, element], _SAME) ** 2
        for block in _BLOCKS if position.free else (1,):
            orbits = position.orbits(rng.random((block, 3)))
            # All points of an orbit are alike: what holds for the first holds for all.
            near = near_squares(orbits[:, 0], placed, cell, shifts)
            inside = gap_squares(orbits[:, :1] - orbits[:, 1:], cell, shifts)
            good = np.flatnonzero((near >= limits).all(1) & (inside >= own).all(1))
            if len(good):
                placed = np.concatenate([placed, orbits[good[0]]])
                kinds = np.concatenate([kinds, np.full(position.size, element)])
                break
        else:
            return None
    return kinds, placed @ cell, cell


def _random_lattice(rng: np.random.Generator, family: str) -> Array:
    """(3, 3) conventional vectors of a crystal family, of any volume."""
    a, b, c = np.exp(rng.uniform(-0.5, 0.5, 3))
    angles = np.radians([90.0, 90.0, 90.0])
    if family in ("cubic", "tetragonal", "hexagonal", "trigonal"):
        b = a
    if family == "cubic":
        c = a
    if family in ("hexagonal", "trigonal"):
        angles[2] = np.radians(120)
    if family == "monoclinic":
        angles[1] = np.radians(rng.uniform(90, 120))
    if family == "triclinic":
        angles = np.radians(rng.uniform(60, 120, 3))
    alpha, beta, gamma = np.cos(angles)
    x = (alpha - beta * gamma) / np.sin(angles[2])
    z = np.sqrt(max(1 - beta**2 - x**2, 0.0))
    return np.array([[a, 0, 0], [b * gamma, b * np.sin(angles[2]), 0], [c * beta, c * x, c * z]])
