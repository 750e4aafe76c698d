"""What a potential knows of its training set, read from its header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import NUMBERS, RADII, SYMBOLS
from aiida_rm.engine.errors import PotentialError

Array = NDArray[Any]
#: So many stable structures make a spread of volumes; fewer have none worth the name.
ENOUGH = 20
#: Nearest distances over the sum of covalent radii, where nothing was learnt.
_RATIO = 1.0


@dataclass(frozen=True)
class Knowledge:
    """What :func:`training.statistics.describe_training_set` wrote; older files hold less.

    Attributes:
        n_structures: stable structures; 0 if unknown.
        shares: mean share of each element.
        volumes: cubic angstrom an atom of each element; empty for molecules.
        volume_spread: half the range of the middle 68 % of log(volume / fit), which is the standard
            deviation of a normal distribution; None if unknown.
        distances: angstrom, of pairs of atomic numbers, the smaller one first.
        distance_ratio: typical distance over the sum of the covalent radii.
        formulas: how many structures have each (the most frequent ones).
        n_atoms: how many structures have so many atoms.
        n_elements: how many structures have so many elements.
        boxes: cubic angstrom of a molecule's box that an atom of each element adds to.
        box_spread: the same of log(box / fit).
        box_shape: its edges over the cube root of its volume.
        energies: square angstrom; E~ per atom of the stable structures, at every percent from the
            lowest to the highest; empty if unknown.
        latent: latent distances of stable structures from the others, the same.
        environments: how many atoms of each element it remembers.
    """

    n_structures: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    volumes: Mapping[str, float] = field(default_factory=dict)
    volume_spread: float | None = None
    distances: Mapping[tuple[int, int], float] = field(default_factory=dict)
    distance_ratio: float = _RATIO
    formulas: Mapping[str, int] = field(default_factory=dict)
    n_atoms: Mapping[int, int] = field(default_factory=dict)
    n_elements: Mapping[int, int] = field(default_factory=dict)
    boxes: Mapping[str, float] = field(default_factory=dict)
    box_spread: float | None = None
    box_shape: tuple[float, ...] = ()
    energies: tuple[float, ...] = ()
    latent: tuple[float, ...] = ()
    environments: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def from_notes(cls, notes: Mapping[str, Any]) -> Knowledge:
        """Of the notes of a potential, or of its whole header.

        Raises:
            PotentialError: an entry is not what it should be.
        """
        try:
            return cls(
                n_structures=int(notes.get("n_structures", 0)),
                shares=_positive(notes.get("composition", {})),
                volumes=_positive(notes.get("elemental_volumes", {})),
                volume_spread=_number(notes, "volume_spread"),
                distances={
                    _pair(name): value
                    for name, value in _positive(notes.get("pair_distances", {})).items()
                },
                distance_ratio=float(notes.get("distance_ratio", _RATIO)),
                formulas=dict(sorted(_counts(notes.get("formulas", {})).items())),
                n_atoms=_by_number(notes.get("n_atoms", {})),
                n_elements=_by_number(notes.get("n_elements", {})),
                boxes=_positive(notes.get("elemental_boxes", {})),
                box_spread=_number(notes, "box_spread"),
                box_shape=tuple(float(edge) for edge in notes.get("box_shape", ())),
                energies=_ascending(notes, "energy_percentiles"),
                latent=_ascending(notes, "latent_percentiles"),
                environments=_counts(notes.get("environments", {})),
            )
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise PotentialError(
                f"what the potential says of its training set cannot be read: {error}"
            ) from error

    def pair_distances(self, kinds: Array) -> Array:
        """(K, K) learnt distances of K elements, given by atomic number, in angstrom.

        Pairs that were never seen get the sum of their covalent radii times the typical ratio.
        """
        radii = np.array([RADII[z] for z in kinds])
        table = self.distance_ratio * (radii[:, None] + radii)
        for i, a in enumerate(kinds):
            for j, b in enumerate(kinds):
                key = (int(min(a, b)), int(max(a, b)))
                table[i, j] = self.distances.get(key, table[i, j])
        return np.asarray(table)

    def volume(self, species: Array) -> float:
        """Volume of a crystal of these atoms by the regression, in cubic angstrom."""
        return float(sum(self.volumes[SYMBOLS[z]] for z in species))

    def energy_percentile(self, energies: Array) -> Array:
        """(S,) how many percent of the training set are lower, from E~ per atom (S,); NaN: unknown.

        Below the lowest 0, above the highest 100.
        """
        return _percents(energies, self.energies)

    def latent_percentile(self, distances: Array) -> Array:
        """The same from latent distances (S,): how many percent are nearer to the others."""
        return _percents(distances, self.latent)

    def box(self, species: Array) -> Array:
        """(3,) edges of the typical box of a molecule of these atoms, in angstrom."""
        volume = sum(self.boxes[SYMBOLS[z]] for z in species)
        return np.asarray(np.array(self.box_shape) * np.cbrt(volume))


def _number(notes: Mapping[str, Any], name: str) -> float | None:
    return None if notes.get(name) is None else float(notes[name])


def _ascending(notes: Mapping[str, Any], name: str) -> tuple[float, ...]:
    found = tuple(float(value) for value in notes.get(name, ()))
    if len(found) == 1 or not np.isfinite(found).all() or (np.diff(found) < 0).any():
        raise ValueError(f"'{name}' do not ascend: {found[:3]}...")
    return found


def _percents(values: Array, percentiles: tuple[float, ...]) -> Array:
    """(S,) where values (S,) are among the percentiles; NaN without them, or of NaN."""
    if not percentiles:
        return np.full(len(values), np.nan)
    # Equal values would leave it open which percent they mean.
    known, first = np.unique(np.array(percentiles), return_index=True)
    percents = first * (100 / (len(percentiles) - 1))
    return np.where(values > known[-1], 100.0, np.interp(values, known, percents))


def _counts(values: Mapping[str, Any]) -> dict[str, int]:
    return {str(name): int(value) for name, value in values.items() if int(value) > 0}


def _by_number(values: Mapping[str, Any]) -> dict[int, int]:
    return dict(sorted((int(name), value) for name, value in _counts(values).items()))


def _positive(values: Mapping[str, Any]) -> dict[str, float]:
    # Sorted: what is drawn must not depend on the order in a file.
    table = {str(name): float(value) for name, value in sorted(values.items())}
    for name, value in table.items():
        if not value > 0 or value == float("inf"):
            raise ValueError(f"'{name}' is {value}")
    return table


def _pair(name: str) -> tuple[int, int]:
    first, second = sorted(NUMBERS[symbol] for symbol in name.split())
    return first, second
