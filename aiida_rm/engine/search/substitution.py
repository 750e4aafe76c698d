"""Crystals of given formulas on the sites of known crystals, the most similar ones first.

Many compounds crystallise as others do whose elements are like theirs: the oldest guess of a
structure, and a good one.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import MAX_NUMBER, NUMBERS
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search.composition import species_of
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]

#: Elements near each other here often take each other's sites: the modified Pettifor scale, found
#: from what replaces what in known crystals (Glawe et al., New J. Phys. 18, 093011, 2016).
_TABLE: Final = (
    "He Ne Ar Kr Xe Rn Fr Cs Rb K Na Li Ra Ba Sr Ca Eu Yb Lu Tm Y Er Ho Dy Tb Gd Sm Pm Nd Pr Ce La "
    "Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Sc Zr Hf Ti Ta Nb V Cr Mo W Re Tc Os Ru Ir Rh Pt "
    "Pd Au Ag Cu Ni Co Fe Mn Mg Zn Cd Hg Be Al Ga In Tl Pb Sn Ge Si B C N P As Sb Bi Po Te Se S O "
    "At I Br Cl F H"
)
_SCALE: Final = _TABLE.split()
#: Place of each atomic number on it; the elements beyond Lr, which are not there, have that of Lr.
_PLACES = np.full(MAX_NUMBER + 1, _SCALE.index("Lr"))
_PLACES[[NUMBERS[symbol] for symbol in _SCALE]] = np.arange(len(_SCALE))


class Substitutions:
    """Which given structures are like those of each formula.

    A structure serves a formula that has its numbers of atoms, element by element. Elements of
    equal numbers take each other's place in the order of the scale, which is the nearest pairing.
    """

    def __init__(self, given: Frames, settings: GenerateSettings) -> None:
        """Prepare.

        Args:
            given: known crystals, of any elements.
            settings: with ``formulas``, ``substitution_spread`` and ``seed``.
        """
        self.given, self.settings = given, settings
        self._ranked: dict[str, list[tuple[int, float]]] = {}
        self._known: dict[tuple[int, ...], list[tuple[int, Array]]] = defaultdict(list)
        sizes = {len(species_of(formula)) for formula in settings.formulas}
        for row in np.flatnonzero(np.isin(given.counts, list(sizes))):
            pattern, kinds = _pattern(self._species(int(row)))
            self._known[pattern].append((int(row), kinds))

    def ranked(self, formula: str) -> list[tuple[int, float]]:
        """Rows of the given structures that serve a formula, with their distances, in order.

        The distance is the mean number of places on the scale between the element of an atom and
        that which it replaces. Equal ones follow their rows; ``substitution_spread`` mixes all.
        """
        if formula not in self._ranked:
            pattern, kinds = _pattern(species_of(formula))
            known = self._known.get(pattern, [])
            steps = np.array([np.abs(_PLACES[kinds] - _PLACES[theirs]) for _, theirs in known])
            # Whole numbers until the division, so that rounding orders no equal ones.
            distances = (steps.reshape(-1, len(kinds)) * pattern).sum(axis=1) / sum(pattern)
            s, number = self.settings, self.settings.formulas.index(formula)
            rng = np.random.default_rng(np.random.SeedSequence([s.seed, number]))
            keys = distances + s.substitution_spread * rng.gumbel(size=len(known))
            order = np.argsort(keys, kind="stable")
            self._ranked[formula] = [(known[i][0], float(distances[i])) for i in order]
        return self._ranked[formula]

    def species(self, formula: str, row: int) -> Array:
        """(n,) atomic numbers of a formula on the sites of a given structure that serves it."""
        old = self._species(row)
        _, kinds = _pattern(old)
        _, new = _pattern(species_of(formula))
        table = np.zeros(MAX_NUMBER + 1, np.int64)
        table[kinds] = new
        return table[old]

    def _species(self, row: int) -> Array:
        return np.asarray(self.given.numbers[self.given.ptr[row] : self.given.ptr[row + 1]])


def _pattern(species: Array) -> tuple[tuple[int, ...], Array]:
    """Numbers of atoms of each element, ascending, and the elements, by the scale where equal."""
    kinds, counts = np.unique(species, return_counts=True)
    order = np.lexsort((_PLACES[kinds], counts))
    return tuple(int(count) for count in counts[order]), kinds[order]
