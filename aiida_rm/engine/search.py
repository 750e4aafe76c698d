"""Random sensible structures: composition, volume, cell and distances.

Structure i of a seed depends on the seed, i and the settings alone, so jobs can share a seed
by ranges of i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import NUMBERS, SYMBOLS, parse_formula
from aiida_rm.engine.errors import PotentialError, SearchError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]
#: Draws before a place for an atom, and cells before a structure, are given up.
_POINT_TRIES, _CELL_TRIES = 400, 60
#: Smallest height of a cell over the edge of a cube of its volume: no slivers.
_MIN_HEIGHT = 0.5


def random_starts(
    indices: Sequence[int],
    settings: GenerateSettings,
    composition: Mapping[str, float],
    elemental_volumes: Mapping[str, float],
) -> tuple[Frames, list[int]]:
    """The random starts with these indices, labelled ``index`` and ``seed``.

    Args:
        indices: which structures of the seed.
        settings: all knobs.
        composition: mean share of each element, to draw from when no formulas are given.
        elemental_volumes: cubic angstrom an atom; only crystals need them.

    Returns:
        The starts, and the indices for which none keeps the minimum distance.

    Raises:
        SearchError: that holds for all of them.
    """
    numbers, positions, cells, found = [], [], [], []
    impossible: list[int] = []
    problem: SearchError | None = None
    for index in indices:
        rng = np.random.default_rng(np.random.SeedSequence([settings.seed, index]))
        species = random_composition(rng, settings, composition)
        try:
            if settings.periodic:
                volume = sum(elemental_volumes[SYMBOLS[z]] for z in species)
                volume *= rng.uniform(settings.volume_scale[0], settings.volume_scale[1])
                cell, places = _crystal(rng, index, len(species), volume, settings)
            else:
                cell, places = np.zeros((3, 3)), _molecule(rng, index, len(species), settings)
        except SearchError as error:
            problem = error
            impossible.append(index)
            continue
        numbers.append(species)
        cells.append(cell)
        positions.append(places)
        found.append(index)
    if not found and problem is not None:
        raise problem
    starts = Frames.build(
        numbers,
        positions,
        np.stack(cells),
        np.full((len(found), 3), settings.periodic),
        structure={
            "index": np.asarray(found, np.int64),
            "seed": np.full(len(found), settings.seed, np.int64),
        },
    )
    return starts, impossible


def check_search(
    settings: GenerateSettings, elements: Sequence[str], elemental_volumes: Mapping[str, float]
) -> None:
    """Refuse what the potential cannot do; also used at submission.

    Raises:
        PotentialError: elements it never saw, or crystals from a potential without volumes.
    """
    asked = {symbol for formula in settings.formulas for symbol in parse_formula(formula)}
    unknown = sorted(asked - set(elements))
    if unknown:
        raise PotentialError(
            f"the potential never saw {', '.join(unknown)}; it was trained on "
            f"{', '.join(elements)}. Ask for those in 'formulas', or train with structures that "
            f"hold {', '.join(unknown)}"
        )
    if settings.periodic and not set(elements) <= set(elemental_volumes):
        raise PotentialError(
            "the potential was trained on molecules and knows no volumes; set 'periodic' to "
            "false, or train on crystals"
        )


def random_composition(
    rng: np.random.Generator, settings: GenerateSettings, composition: Mapping[str, float]
) -> Array:
    """(n,) atomic numbers, sorted: one of the formulas, or drawn by the elements' shares."""
    if settings.formulas:
        formula = settings.formulas[rng.integers(len(settings.formulas))]
        counts = parse_formula(formula)
        return np.sort(np.repeat([NUMBERS[s] for s in counts], list(counts.values())))
    count = settings.n_atoms[rng.integers(len(settings.n_atoms))]
    symbols = list(composition)
    shares = np.array([composition[symbol] for symbol in symbols])
    drawn = rng.choice(len(symbols), size=count, p=shares / shares.sum())
    return np.sort(np.array([NUMBERS[symbols[place]] for place in drawn]))


def random_cell(rng: np.random.Generator, volume: float, distortion: float) -> Array:
    """(3, 3) a cube, distorted at random and scaled to ``volume``; never a sliver."""
    while True:
        cell = np.eye(3) + distortion * (rng.random((3, 3)) - 0.5)
        determinant = np.linalg.det(cell)
        if determinant <= 0.1:
            continue
        cell *= (volume / determinant) ** (1 / 3)
        heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
        if heights.min() >= _MIN_HEIGHT * volume ** (1 / 3):
            return cell


def _crystal(
    rng: np.random.Generator, index: int, count: int, volume: float, settings: GenerateSettings
) -> tuple[Array, Array]:
    nearest = settings.min_distance
    for _ in range(_CELL_TRIES):
        cell = random_cell(rng, volume, settings.cell_distortion)
        reach = int(np.ceil(nearest * np.linalg.norm(np.linalg.inv(cell), axis=0).max()))
        steps = np.arange(-reach, reach + 1)
        shifts = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3) @ cell
        lengths = np.linalg.norm(shifts, axis=1)
        if np.any((lengths > 0) & (lengths < nearest)):
            continue
        points = _scatter(rng, count, nearest, cell, shifts)
        if points is not None:
            return cell, points
    raise SearchError(
        f"random start {index}: {count} atoms do not fit into {volume:.2f} A^3 with "
        f"{nearest:g} A between them; lower 'min_distance' or raise 'volume_scale'"
    )


def _molecule(
    rng: np.random.Generator, index: int, count: int, settings: GenerateSettings
) -> Array:
    box = np.diag(settings.box)
    for _ in range(_CELL_TRIES):
        points = _scatter(rng, count, settings.min_distance, box, np.zeros((1, 3)))
        if points is not None:
            return points
    raise SearchError(
        f"random start {index}: {count} atoms do not fit into the box "
        f"{' x '.join(f'{edge:g}' for edge in settings.box)} A with {settings.min_distance:g} A "
        "between them; lower 'min_distance' or enlarge 'box'"
    )


def _scatter(
    rng: np.random.Generator, count: int, nearest: float, cell: Array, shifts: Array
) -> Array | None:
    """(count, 3) points in the cell, no two (nor images) nearer than ``nearest``; or None."""
    placed = np.zeros((0, 3))
    for _ in range(count):
        trials = rng.random((_POINT_TRIES, 3)) @ cell
        if len(placed):
            images = (placed[:, None] + shifts).reshape(-1, 3)
            squares = ((trials[:, None] - images) ** 2).sum(-1).min(1)
            trials = trials[squares >= nearest**2]
        if not len(trials):
            return None
        placed = np.concatenate([placed, trials[:1]])
    return placed
