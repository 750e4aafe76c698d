"""Crystals: space groups (spglib) and whether two of them are the same (pymatgen)."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.frames import Frames

#: Empty space around what is not periodic in all directions, in angstrom.
_VACUUM = 15.0


def spacegroup(frames: Frames, index: int, symprec: float) -> int:
    """International number of the space group, 1..230.

    Args:
        frames: the set.
        index: which structure.
        symprec: tolerance on positions, in angstrom.

    Returns:
        0 for what is not periodic in all directions, and where spglib finds nothing.
    """
    import spglib

    part = frames[index]
    if not part.pbc.all():
        return 0
    cell = part.cells[0]
    fractional = part.positions @ np.linalg.inv(cell)
    try:
        with warnings.catch_warnings():
            # spglib announces, on every call, that it will raise instead of returning None.
            warnings.simplefilter("ignore")
            dataset = spglib.get_symmetry_dataset(
                (cell, fractional, part.numbers.astype(int)), symprec=symprec
            )
    except Exception:  # noqa: BLE001 - atoms on one spot and the like: no symmetry to speak of
        return 0
    return 0 if dataset is None else int(dataset.number)


def reduced_crystal(frames: Frames, index: int) -> Any:
    """The Niggli-reduced, primitive ``Structure`` that the matcher compares.

    Directions that are not periodic get a lattice vector with 15 A of vacuum, so that layers and
    chains can be compared as crystals. Where pymatgen cannot reduce a cell, it stays as it is.
    """
    part = with_vacuum(frames.without_labels()[index])
    structure = to_pymatgen(part, 0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # The same two steps that StructureMatcher takes, in its order: pairs at the edge of
            # the tolerances depend on the choice of cell.
            niggli = structure.get_reduced_structure(reduction_algo="niggli")
            return niggli.get_primitive_structure()
    except Exception:  # noqa: BLE001 - pymatgen fails in many ways on odd cells
        return structure


def with_vacuum(part: Frames) -> Frames:
    """One structure with partial pbc as a crystal with vacuum; others unchanged."""
    pbc = part.pbc[0]
    if pbc.all() or not pbc.any():
        return part
    cell = complete_cell(part.cells[0], pbc)
    for axis in np.flatnonzero(~pbc):
        along = part.positions @ cell[axis]
        cell[axis] *= np.ptp(along) + _VACUUM
    return Frames.build([part.numbers], [part.positions], cells=[cell], pbc=True)


def make_matcher(ltol: float, stol: float, angle_tol: float) -> Any:
    """The judge of equality: pymatgen's ``StructureMatcher`` on primitive cells.

    It scales both crystals to the same volume first, so a uniform compression makes no other
    structure of it. The *shape* of the cell still counts: in layered crystals the spacing of the
    layers does, because it changes c/a. Graphite whose layers stand much further apart than
    3.35 A (by more than ``ltol`` after scaling) is therefore not recognised as graphite.

    Args:
        ltol: fractional tolerance of lengths.
        stol: tolerance of sites, over (volume / atoms)^(1/3).
        angle_tol: tolerance of angles, in degrees.
    """
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=ltol,
        stol=stol,
        angle_tol=angle_tol,
        primitive_cell=True,
        scale=True,
        attempt_supercell=False,
    )


def same_crystal(matcher: Any, one: Any, two: Any) -> bool:
    """Whether two reduced crystals (of :func:`reduced_crystal`) are the same."""
    try:
        return bool(matcher.fit(one, two, skip_structure_reduction=True))
    except Exception:  # noqa: BLE001 - what cannot be compared is not the same
        return False


def crystal_rmsd(matcher: Any, one: Any, two: Any) -> float:
    """Root mean square displacement of two equal crystals, over (volume / atoms)^(1/3).

    Returns:
        NaN when they do not match.
    """
    try:
        found = matcher.get_rms_dist(one, two)
    except Exception:  # noqa: BLE001 - as above
        return float("nan")
    return float("nan") if found is None else float(found[0])
