"""Known structures to recognise: carbon allotropes, each from its space group and parameters.

Cell parameters are in angstrom and degrees, coordinates in the standard settings of the
International Tables (origin choice 1). Recognition scales volumes away, so what counts is the
shape. ``source`` is the work that a structure is known from; the numbers here are rounded or
idealised, and all that is claimed of them is what the tests hold every entry to: its space group,
its coordination and its bond lengths.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames

Array = NDArray[Any]
Site = tuple[float, float, float]


@dataclass(frozen=True)
class Prototype:
    """A crystal of carbon.

    Attributes:
        name: what it is called.
        group: symbol of the space group.
        number: its international number.
        cell: a, b, c, alpha, beta, gamma.
        sites: fractional coordinates of the inequivalent atoms.
        coordination: neighbours of every atom.
        source: the work that it is known from.
    """

    name: str
    group: str
    number: int
    cell: tuple[float, float, float, float, float, float]
    sites: tuple[Site, ...]
    coordination: int
    source: str


def _cubic(a: float) -> tuple[float, float, float, float, float, float]:
    return (a, a, a, 90.0, 90.0, 90.0)


def _hexagonal(a: float, c: float) -> tuple[float, float, float, float, float, float]:
    return (a, a, c, 90.0, 90.0, 120.0)


_THIRD: Final = 1.0 / 3.0
_THIRDS: Final = 2.0 / 3.0
#: Bond lengths of diamond over silicon: clathrates of silicon become clathrates of carbon.
_CARBON_OVER_SILICON: Final = 1.545 / 2.352

CARBON: Final[tuple[Prototype, ...]] = (
    Prototype(
        "diamond",
        "Fd-3m",
        227,
        _cubic(3.567),
        ((0.0, 0.0, 0.0),),
        4,
        "Straumanis & Aka, J. Am. Chem. Soc. 73, 5643 (1951)",
    ),
    Prototype(
        "lonsdaleite",
        "P6_3/mmc",
        194,
        _hexagonal(2.508, 4.183),
        ((_THIRD, _THIRDS, 0.05995),),
        4,
        "Yoshiasa et al., Jpn. J. Appl. Phys. 42, 1694 (2003)",
    ),
    Prototype(
        "diamond-4H",
        "P6_3/mmc",
        194,
        _hexagonal(2.522, 8.237),
        ((0.0, 0.0, 3 / 32), (_THIRD, _THIRDS, 5 / 32)),
        4,
        "ideal stacking ABAC; Ownby, Yang & Liu, J. Am. Ceram. Soc. 75, 1876 (1992)",
    ),
    Prototype(
        "diamond-6H",
        "P6_3/mmc",
        194,
        _hexagonal(2.522, 12.356),
        ((0.0, 0.0, 9 / 48), (_THIRD, _THIRDS, 17 / 48), (_THIRD, _THIRDS, 23 / 48)),
        4,
        "ideal stacking ABCACB; Ownby, Yang & Liu, J. Am. Ceram. Soc. 75, 1876 (1992)",
    ),
    Prototype(
        "graphite",
        "P6_3/mmc",
        194,
        _hexagonal(2.464, 6.711),
        ((0.0, 0.0, 0.25), (_THIRD, _THIRDS, 0.25)),
        3,
        "stacking AB; Trucano & Chen, Nature 258, 136 (1975)",
    ),
    Prototype(
        "graphite-AA",
        "P6/mmm",
        191,
        _hexagonal(2.464, 3.55),
        ((_THIRD, _THIRDS, 0.0),),
        3,
        "layers as in graphite; spacing of Lee et al., J. Chem. Phys. 129, 234709 (2008)",
    ),
    Prototype(
        "graphite-ABC",
        "R-3m",
        166,
        _hexagonal(2.456, 10.041),
        ((0.0, 0.0, 1 / 6),),
        3,
        "rhombohedral; Lipson & Stokes, Proc. R. Soc. A 181, 101 (1942)",
    ),
    Prototype(
        "graphene",
        "P6/mmm",
        191,
        _hexagonal(2.464, 15.0),
        ((_THIRD, _THIRDS, 0.0),),
        3,
        "one layer of graphite, 15 A to its next image",
    ),
    Prototype(
        "bct-C4",
        "I4/mmm",
        139,
        (4.33184, 4.33184, 2.48692, 90.0, 90.0, 90.0),
        ((0.17916, 0.17916, 0.0),),
        4,
        "Schultz, Leung & Stechel, Phys. Rev. B 59, 733 (1999); "
        "Umemoto et al., Phys. Rev. Lett. 104, 125504 (2010)",
    ),
    Prototype(
        "M-carbon",
        "C2/m",
        12,
        (9.1921, 2.5248, 4.1487, 90.0, 82.971, 90.0),
        (
            (0.94271, 0.0, 0.87955),
            (0.44178, 0.0, 0.65365),
            (0.78568, 0.0, 0.05924),
            (0.27133, 0.0, 0.58535),
        ),
        4,
        "Li et al., Phys. Rev. Lett. 102, 175506 (2009); AFLOW prototype A_mC16_12_4i",
    ),
    Prototype(
        "Z-carbon",
        "Cmmm",
        65,
        (8.674, 4.217, 2.487, 90.0, 90.0, 90.0),
        ((0.0890, 0.3150, 0.0), (0.1667, 0.1850, 0.5)),
        4,
        "also Cco-C8, oC16; Zhao et al., Phys. Rev. Lett. 107, 215502 (2011); "
        "Amsler et al., Phys. Rev. Lett. 108, 065501 (2012)",
    ),
    Prototype(
        "BC8",
        "Ia-3",
        206,
        _cubic(4.443),
        ((0.0937, 0.0937, 0.0937),),
        4,
        "Biswas et al., Phys. Rev. B 30, 3210 (1984)",
    ),
    Prototype(
        "supercubane",
        "Im-3m",
        229,
        _cubic(4.863),
        ((0.1624, 0.1624, 0.1624),),
        4,
        "Johnston & Hoffmann, J. Am. Chem. Soc. 111, 810 (1989)",
    ),
    Prototype(
        "sodalite",
        "Im-3m",
        229,
        _cubic(4.384),
        ((0.25, 0.0, 0.5),),
        4,
        "net sod, fixed by symmetry, at a bond of 1.55 A; "
        "Hoffmann et al., Angew. Chem. Int. Ed. 55, 10962 (2016)",
    ),
    Prototype(
        "hP3",
        "P6_222",
        180,
        _hexagonal(2.605, 2.801),
        ((0.5, 0.0, 0.0),),
        4,
        "net of quartz; Zhu et al., Phys. Rev. B 83, 193410 (2011)",
    ),
    Prototype(
        "hP6",
        "P6_3/mmc",
        194,
        _hexagonal(4.40445, 2.50566),
        ((0.44799, 0.89598, 0.25),),
        4,
        "rings of three; Schultz, Leung & Stechel, Phys. Rev. B 59, 733 (1999)",
    ),
    Prototype(
        "T-carbon",
        "Fd-3m",
        227,
        _cubic(7.52),
        ((0.0706, 0.0706, 0.0706),),
        4,
        "Sheng et al., Phys. Rev. Lett. 106, 155703 (2011)",
    ),
    Prototype(
        "K4",
        "I4_132",
        214,
        _cubic(4.082),
        ((0.125, 0.125, 0.125),),
        3,
        "Itoh et al., Phys. Rev. Lett. 102, 055703 (2009)",
    ),
    Prototype(
        "clathrate-I",
        "Pm-3n",
        223,
        _cubic(10.355 * _CARBON_OVER_SILICON),
        ((0.25, 0.5, 0.0), (0.1837, 0.1837, 0.1837), (0.0, 0.1172, 0.3077)),
        4,
        "silicon's, scaled; Adams et al., Phys. Rev. B 49, 8048 (1994)",
    ),
    Prototype(
        "clathrate-II",
        "Fd-3m",
        227,
        _cubic(14.626 * _CARBON_OVER_SILICON),
        ((0.0, 0.0, 0.0), (0.3428, 0.3428, 0.3428), (0.3075, 0.3075, 0.4961)),
        4,
        "silicon's, scaled; Gryko et al., Phys. Rev. B 62, R7707 (2000)",
    ),
)


def carbon_allotropes() -> Frames:
    """The structures of :data:`CARBON` as primitive cells, with the label ``name``.

    Polymorphs of other elements and compounds can be recognised in the same way: any Frames with
    a label ``name`` will do.
    """
    import spglib

    cells, positions = [], []
    for entry in CARBON:
        with warnings.catch_warnings():
            # spglib announces, on every call, that it will raise instead of returning None.
            warnings.simplefilter("ignore")
            sites = _orbits(entry)
            cell, fractional, _ = spglib.find_primitive(
                (_lattice(entry.cell), sites, [6] * len(sites)), 1e-4
            )
        cells.append(cell)
        positions.append(fractional @ cell)
    return Frames.build(
        [[6] * len(part) for part in positions],
        positions,
        cells=np.array(cells),
        structure={"name": [entry.name for entry in CARBON]},
    )


def _lattice(cell: tuple[float, float, float, float, float, float]) -> Array:
    """(3, 3) a along x, b in the xy plane."""
    a, b, c = cell[:3]
    cos_alpha, cos_beta, cos_gamma = np.cos(np.radians(cell[3:]))
    sin_gamma = np.sqrt(1 - cos_gamma**2)
    y = (cos_alpha - cos_beta * cos_gamma) / sin_gamma
    z = np.sqrt(1 - cos_beta**2 - y**2)
    return np.array([[a, 0, 0], [b * cos_gamma, b * sin_gamma, 0], [c * cos_beta, c * y, c * z]])


def _orbits(entry: Prototype) -> Array:
    """(N, 3) fractional coordinates of all atoms in the conventional cell."""
    import spglib

    # The first setting of each group is the standard one, with origin choice 1.
    hall = next(
        number
        for number in range(1, 531)
        if spglib.get_spacegroup_type(number).number == entry.number
    )
    symmetry = spglib.get_symmetry_from_database(hall)
    atoms: list[Array] = []
    for site in entry.sites:
        for image in symmetry["rotations"] @ np.array(site) + symmetry["translations"]:
            gaps = np.array(atoms).reshape(-1, 3) - image
            if not np.any(np.abs(gaps - np.round(gaps)).max(axis=1) < 1e-3):
                atoms.append(image % 1.0)
    return np.array(atoms)
