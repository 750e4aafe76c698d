"""Equality of structures, crystals and molecules alike: duplicates, novelty, known structures."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.crystals import (
    crystal_rmsd,
    make_matcher,
    reduced_crystal,
    same_crystal,
)
from aiida_rm.engine.scoring.fingerprint import FINGERPRINT_SIZE, REACH, fingerprint
from aiida_rm.engine.scoring.geometry import neighbor_pairs
from aiida_rm.engine.scoring.molecules import (
    distance_fingerprint,
    molecule_rmsd,
    same_molecule,
)
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: Volume per atom at which crystals are compared by their looks, in cubic angstrom.
_VOLUME = 15.0


@dataclass(frozen=True)
class Candidate:
    """A structure made ready to be compared.

    Attributes:
        index: its place in its set.
        group: only structures of one group can be equal. It is an exact filter: the composition,
            and for crystals the number of atoms of the reduced cell, without which the matcher
            itself returns False at once.
        body: a reduced pymatgen ``Structure``, or the distances of a molecule.
        smiles: of a molecule, where its bonds were perceived.
        look: of a crystal, the fingerprint at one and the same volume per atom.
    """

    index: int
    group: str
    body: Any
    smiles: str = ""
    look: Array | None = None

    @property
    def is_molecule(self) -> bool:
        """Whether the body is a molecule's distances."""
        return isinstance(self.body, np.ndarray)


def prepare(frames: Frames, index: int, smiles: str = "") -> Candidate:
    """Make structure ``index`` ready to be compared; ``smiles`` is that of a molecule."""
    if not frames.pbc[index].any():
        atoms = slice(int(frames.ptr[index]), int(frames.ptr[index + 1]))
        body = distance_fingerprint(frames.numbers[atoms], np.asarray(frames.positions[atoms]))
        return Candidate(index, f"molecule {frames.formula(index)}", body, smiles)
    crystal = reduced_crystal(frames, index)
    group = f"crystal {crystal.composition.reduced_formula} {len(crystal)}"
    return Candidate(index, group, crystal, look=_look(crystal))


def _look(crystal: Any) -> Array:
    """(FINGERPRINT_SIZE,) of a crystal scaled as the matcher does: to one volume per atom."""
    scale = (_VOLUME * len(crystal) / crystal.volume) ** (1 / 3)
    positions, cell = crystal.cart_coords * scale, crystal.lattice.matrix * scale
    pairs = neighbor_pairs(positions, cell, np.ones(3, bool), REACH)
    if pairs is None:
        return np.zeros(FINGERPRINT_SIZE, np.float32)
    numbers = np.array(crystal.atomic_numbers)
    return fingerprint(numbers, pairs.centers, pairs.neighbors, pairs.distances)


class Rivals:
    """Candidates of one group, of which another one is compared with the nearest.

    Equal structures look alike: their fingerprints are among the nearest, so that in large groups
    few need to be matched (docs/validation.md has what that misses).
    """

    def __init__(self, others: Sequence[Candidate], settings: ScoreSettings) -> None:
        self._others = others
        self._looks: Array | None = None
        self._count = settings.nearest
        if self._count and len(others) > self._count and others[0].look is not None:
            self._looks = np.stack([np.asarray(other.look) for other in others])
            self._squares = np.sum(self._looks**2, axis=1)

    def of(self, candidate: Candidate) -> Sequence[Candidate]:
        """Those to compare with: the nearest first, or all in their order where they are few."""
        if self._looks is None:
            return self._others
        gaps = self._squares - 2 * (self._looks @ candidate.look)
        return [self._others[place] for place in np.argsort(gaps, kind="stable")[: self._count]]


def grouped(candidates: Iterable[Candidate]) -> dict[str, list[Candidate]]:
    """Candidates by their group, in order."""
    groups: dict[str, list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        groups[candidate.group].append(candidate)
    return dict(groups)


def tolerances(settings: ScoreSettings, *, loose: bool) -> tuple[float, float, float]:
    """Those of lengths, sites and angles."""
    if loose:
        return settings.loose_ltol, settings.loose_stol, settings.loose_angle_tol
    return settings.ltol, settings.stol, settings.angle_tol


class Judge:
    """Says whether two candidates of one group are equal, and how closely.

    Crystals are within 'ltol', 'stol' and 'angle_tol', every atom of them (pymatgen's ``fit``). The
    loose judge takes the knobs ``loose_...`` and asks, as the field's scripts do, whether the root
    mean square is within (``get_rms_dist``): one atom may be further off.
    """

    def __init__(self, settings: ScoreSettings, *, loose: bool = False) -> None:
        self._loose = loose
        self._matcher = make_matcher(*tolerances(settings, loose=loose))

    def same(self, one: Candidate, two: Candidate) -> bool:
        """Whether they are equal within the tolerances.

        Molecules are by their SMILES; where one of them has none, by their distances.
        """
        if one.group != two.group:
            return False
        if one.smiles and two.smiles:
            return one.smiles == two.smiles
        if one.is_molecule:
            return same_molecule(one.body, two.body)
        return same_crystal(self._matcher, one.body, two.body)

    def closeness(self, one: Candidate, two: Candidate) -> float | None:
        """The rmsd of equal ones, NaN where there is none; None of others."""
        if self._loose and not one.is_molecule:
            rmsd = self.rmsd(one, two)
            return rmsd if np.isfinite(rmsd) else None
        return self.rmsd(one, two) if self.same(one, two) else None

    def rmsd(self, one: Candidate, two: Candidate) -> float:
        """Crystals: over (volume / atoms)^(1/3); molecules: of the distances, in angstrom."""
        if one.is_molecule:
            return molecule_rmsd(one.body, two.body)
        return crystal_rmsd(self._matcher, one.body, two.body)


def find_duplicates(candidates: Sequence[Candidate], settings: ScoreSettings) -> dict[int, int]:
    """For each candidate of a group, the first one that it equals (itself when there is none).

    Args:
        candidates: of one group, in order of preference; only the first of equal ones, the
            representatives, are compared with.
        settings: the tolerances.

    Returns:
        {index: index of its representative}.
    """
    judge = Judge(settings)
    representatives: list[Candidate] = []
    owners: dict[int, int] = {}
    for candidate in candidates:
        owner = next((other for other in representatives if judge.same(other, candidate)), None)
        if owner is None:
            representatives.append(candidate)
        owners[candidate.index] = candidate.index if owner is None else owner.index
    return owners


def first_match(candidate: Candidate, others: Sequence[Candidate], judge: Judge) -> int:
    """Index of the first of ``others`` that it equals; -1 for none."""
    return next((other.index for other in others if judge.same(other, candidate)), -1)


def recognise(
    candidate: Candidate, known: Mapping[str, Sequence[Candidate]], judge: Judge
) -> list[tuple[int, float]]:
    """The known structures that it equals, the nearest first.

    Returns:
        [(index among the known, rmsd)]; those without an rmsd (NaN) are last, equally near ones in
        their order.
    """
    others = known.get(candidate.group, ())
    measured = [(other.index, judge.closeness(other, candidate)) for other in others]
    found = [(index, rmsd) for index, rmsd in measured if rmsd is not None]
    return sorted(found, key=lambda item: item[1] if np.isfinite(item[1]) else np.inf)
