"""Chemical symbols and radii, so that the engine needs neither ase nor pymatgen for them."""

from __future__ import annotations

import re
from typing import Final

_TABLE: Final = (
    "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se "
    "Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy "
    "Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf "
    "Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og"
)
#: Symbols by atomic number; 0 is no element.
SYMBOLS: Final[tuple[str, ...]] = tuple(_TABLE.split())
MAX_NUMBER: Final = len(SYMBOLS) - 1
NUMBERS: Final[dict[str, int]] = {
    symbol: number for number, symbol in enumerate(SYMBOLS) if number > 0
}

_RADII: Final = (
    "0 32 46 133 102 85 75 71 63 64 67 155 139 126 116 111 103 99 96 196 171 148 136 134 122 "
    "119 116 111 110 112 118 124 121 121 116 114 117 210 185 163 154 147 138 128 125 125 120 "
    "128 136 142 140 140 136 133 131 232 196 180 163 176 174 173 172 168 169 168 167 166 165 "
    "164 170 162 152 146 137 131 129 122 123 124 133 144 144 151 145 147 142 223 201 186 175 "
    "169 170 171 172 166 166 168 168 165 167 173 176 161 157 149 143 141 134 129 128 121 122 "
    "136 143 162 175 165 157"
)
#: Single-bond covalent radii of Z = 1 to 118 in angstrom; place 0 is no element
#: (Pyykko and Atsumi, Chem. Eur. J. 15, 186, 2009).
RADII: Final[tuple[float, ...]] = tuple(float(text) / 100 for text in _RADII.split())

_TOKEN = re.compile(r"([A-Z][a-z]?)([0-9]*)")


def parse_formula(formula: str) -> dict[str, int]:
    """Count the atoms of a plain formula such as ``C5H6O``; no brackets.

    Raises:
        ValueError: it is empty, has an unknown symbol or a number that begins with 0, or cannot be
            read to its end.
    """
    counts: dict[str, int] = {}
    position = 0
    for match in _TOKEN.finditer(formula):
        if match.start() != position:
            break
        symbol, digits = match.groups()
        if symbol not in NUMBERS:
            raise ValueError(f"'{symbol}' in the formula '{formula}' is not an element")
        if digits.startswith("0"):
            raise ValueError(
                f"'{formula}' is not a formula: a number cannot begin with 0; is the letter O "
                f"meant ('{formula[: match.start(2)]}O{formula[match.start(2) + 1 :]}')?"
            )
        counts[symbol] = counts.get(symbol, 0) + int(digits or 1)
        position = match.end()
    if not counts or position != len(formula):
        raise ValueError(
            f"'{formula}' is not a formula; write it like 'C4' or 'C5H6O', without brackets"
        )
    return counts


def hill_formula(counts: dict[str, int]) -> str:
    """The formula in Hill order: C, H, then alphabetical (all alphabetical without C)."""
    symbols = sorted(counts)
    if "C" in counts:
        head = ["C"] + (["H"] if "H" in counts else [])
        symbols = head + [symbol for symbol in symbols if symbol not in head]
    return "".join(f"{s}{counts[s] if counts[s] != 1 else ''}" for s in symbols)
