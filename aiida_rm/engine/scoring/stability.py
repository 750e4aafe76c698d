"""Stable atoms and stable molecules, as EDM counts them: bond orders by distance alone.

Definition: Hoogeboom, Satorras, Vignac and Welling, arXiv:2203.17003 (2022), and the tables of its
appendix; where the paper leaves something open, the rules of the program that goes with it hold
(github.com/ehoogeboom/e3_diffusion_for_molecules, qm9/bond_analyze.py). Two atoms are bonded when
they are nearer than the typical length of a single bond plus 10 pm; the bond is double below the
typical length of a double bond plus 5 pm, and triple below that of a triple bond plus 3 pm. An atom
is stable when its bond orders sum up to a valence of its element, a molecule when all its atoms
are.

What follows from it, and is left as it is: the only valence of sulfur is 4, so thiols, thioethers
and thiophenes are unstable; so are carbon monoxide, nitro groups, and aromatic rings whose bonds
are all alike, as in benzene.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import MAX_NUMBER, NUMBERS

Array = NDArray[Any]

#: Typical lengths in pm of single, double and triple bonds; a pair stands under one of its two.
_SINGLE: Final = {
    "H": "H 74 B 119 C 109 N 101 O 96 F 92 Si 148 P 144 S 134 Cl 127 As 152 Br 141 I 161",
    "B": "Cl 175",
    "C": "C 154 N 147 O 143 F 135 Si 185 P 184 S 182 Cl 177 Br 194 I 214",
    "N": "N 145 O 140 F 136 P 177 S 168 Cl 175 Br 214 I 222",
    "O": "O 148 F 142 Si 163 P 163 S 151 Cl 164 Br 172 I 194",
    "F": "F 142 Si 160 P 156 S 158 Cl 166 Br 178 I 187",
    "Si": "Si 233 S 200 Cl 202 Br 215 I 243",
    "P": "P 221 S 210 Cl 203 Br 222",
    "S": "S 204 Cl 207 Br 225 I 234",
    "Cl": "Cl 199 Br 214",
    "Br": "Br 228",
    "I": "I 266",
}
_DOUBLE: Final = {
    "C": "C 134 N 129 O 120 S 160",
    "N": "N 125 O 121",
    "O": "O 121 P 150",
    "P": "S 186",
}
_TRIPLE: Final = {"C": "C 120 N 116 O 113", "N": "N 110"}
#: Added to the lengths of single, double and triple bonds, in pm.
_MARGINS: Final = (10.0, 5.0, 3.0)

#: Sums of bond orders of a stable atom.
VALENCES: Final[dict[str, tuple[int, ...]]] = {
    "H": (1,), "B": (3,), "C": (4,), "N": (3,), "O": (2,), "F": (1,), "Al": (3,), "Si": (4,),
    "P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,), "Hg": (1, 2),
    "Bi": (3, 5),
}  # fmt: skip


def _limits() -> Array:
    """(3, elements, elements) below which distance a bond has order 1, 2, 3; in pm, 0 for never."""
    limits = np.zeros((3, MAX_NUMBER + 1, MAX_NUMBER + 1))
    for order, table in enumerate((_SINGLE, _DOUBLE, _TRIPLE)):
        for one, row in table.items():
            words = row.split()
            for two, length in zip(words[::2], words[1::2], strict=True):
                pair = NUMBERS[one], NUMBERS[two]
                limits[order][pair] = limits[order][pair[::-1]] = float(length) + _MARGINS[order]
    return limits


_LIMITS: Final = _limits()


def bond_orders(numbers: Array, positions: Array) -> Array:
    """The bond order of every pair of atoms.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in angstrom.

    Returns:
        (N, N) of 0 to 3; symmetric, with a diagonal of 0. Pairs without an entry in the tables, and
        atoms without finite positions, have no bond.
    """
    elements = np.asarray(numbers, int)
    points = np.asarray(positions, float)
    with np.errstate(invalid="ignore", over="ignore"):
        gaps = points[:, None] - points[None]
        distances = 100.0 * np.sqrt((gaps**2).sum(axis=-1))
    near = distances < _LIMITS[:, elements[:, None], elements[None]]
    # A double bond must be a single one too, and a triple bond a double one.
    orders = np.logical_and.accumulate(near, axis=0).sum(axis=0)
    np.fill_diagonal(orders, 0)
    return np.asarray(orders)


def stable_atoms(numbers: Array, positions: Array) -> NDArray[np.bool_]:
    """Which atoms of a molecule are stable; a molecule is when all of them are.

    Args:
        numbers: (N,) atomic numbers; elements without a valence in :data:`VALENCES` never are.
        positions: (N, 3) in angstrom.

    Returns:
        (N,) bool.
    """
    sums = bond_orders(numbers, positions).sum(axis=1)
    stable = np.zeros(len(sums), bool)
    for symbol, valences in VALENCES.items():
        stable |= (np.asarray(numbers) == NUMBERS[symbol]) & np.isin(sums, valences)
    return stable
