"""One structure as small arrays: what readers make, and what Frames are built of.

The libraries' own objects are large; they become records one by one and are let go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_rm.engine.elements import MAX_NUMBER
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames

#: Labels that name a structure, and what the field calls them; the first that is there counts.
_NAMES = {"name": ("name",), "id": ("id", "material_id", "entry_id")}


@dataclass(frozen=True)
class Record:
    """One structure of n atoms.

    Attributes:
        numbers: (n,) atomic numbers.
        positions: (n, 3) float64, Cartesian, in angstrom.
        cell: (3, 3) float64, rows are lattice vectors, in angstrom; zeros without a cell.
        pbc: (3,) bool.
        names: ``name`` and ``id``, where it has them.
    """

    numbers: NDArray[Any]
    positions: NDArray[Any]
    cell: NDArray[Any]
    pbc: NDArray[Any]
    names: dict[str, str]


def make_record(
    numbers: ArrayLike,
    positions: ArrayLike,
    cell: ArrayLike | None,
    pbc: ArrayLike | None,
    names: Mapping[str, str],
) -> Record:
    """A record that owns its arrays, of anything like them.

    Raises:
        FramesError: the arrays do not fit each other.
    """
    atoms = np.array(numbers).reshape(-1)
    if len(atoms) and atoms.dtype.kind not in "iu":
        raise FramesError(f"its atomic numbers are {atoms.dtype}, not whole numbers")
    if len(atoms) and not 0 <= atoms.min() <= atoms.max() <= MAX_NUMBER:
        raise FramesError(f"it holds an atomic number outside 1..{MAX_NUMBER}")
    places = np.array(positions, float).reshape(-1, 3)
    if len(places) != len(atoms):
        raise FramesError(f"it has {len(atoms)} atoms but {len(places)} positions")
    return Record(
        atoms.astype(np.uint8),
        places,
        np.zeros((3, 3)) if cell is None else np.array(cell, float).reshape(3, 3),
        np.array(np.broadcast_to(False if pbc is None else np.asarray(pbc, bool), 3)),
        dict(names),
    )


def record_of_ase(atoms: Any) -> Record:
    """One ``ase.Atoms``; of its ``info``, only what names it.

    Raises:
        FramesError: it stands for a disordered crystal (partial occupancies of a CIF).
    """
    # ASE keeps the largest species of each site of a disordered CIF; that is another crystal.
    for species in (atoms.info.get("occupancy") or {}).values():
        if len(species) != 1 or not np.isclose(next(iter(species.values())), 1.0, atol=1e-3):
            raise FramesError(
                f"{atoms.get_chemical_formula()} is disordered (a site is shared: "
                f"{dict(species)}); order it first"
            )
    names = names_in(atoms.info)
    return make_record(atoms.numbers, atoms.positions, atoms.cell.array, atoms.pbc, names)


def record_of_pymatgen(structure: Any) -> Record:
    """One pymatgen ``Structure`` or ``Molecule``, without oxidation states.

    Raises:
        FramesError: it is disordered (a site shared by several species, or partly empty), or
            holds a dummy species.
    """
    if not structure.is_ordered:
        raise FramesError(f"{structure.composition.formula} is disordered; order it first")
    numbers = []
    for site in structure:
        number = getattr(site.specie, "Z", 0)
        if not isinstance(number, int) or not 1 <= number <= MAX_NUMBER:
            raise FramesError(f"it holds '{site.specie}', which is not an element")
        numbers.append(number)
    lattice = getattr(structure, "lattice", None)
    return make_record(
        numbers,
        structure.cart_coords,
        None if lattice is None else lattice.matrix,
        None if lattice is None else lattice.pbc,
        names_in(getattr(structure, "properties", None) or {}),
    )


def names_in(*tables: Mapping[str, Any]) -> dict[str, str]:
    """What names a structure in any of these tables; the first table that has it counts."""
    found: dict[str, str] = {}
    for table in tables:
        for label, keys in _NAMES.items():
            values = [table[key] for key in keys if table.get(key) is not None]
            values = [value for value in values if not isinstance(value, (dict, list))]
            if values and label not in found and str(values[0]):
                found[label] = str(values[0])
    return found


def frames_of_records(records: Sequence[Record]) -> Frames:
    """Frames of records, in order."""
    return Frames.build(
        [record.numbers for record in records],
        [record.positions for record in records],
        cells=np.array([record.cell for record in records], float).reshape(-1, 3, 3),
        pbc=np.array([record.pbc for record in records], bool).reshape(-1, 3),
        structure=name_labels([record.names for record in records]),
    )


def name_labels(tables: Sequence[Mapping[str, str]]) -> dict[str, ArrayLike]:
    """The labels ``name`` and ``id``, each if all structures have it."""
    return {
        label: np.array([table[label] for table in tables])
        for label in _NAMES
        if tables and all(label in table for table in tables)
    }
