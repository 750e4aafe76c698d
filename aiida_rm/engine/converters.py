"""Frames from and to ASE and pymatgen, and to files; libraries are imported inside the functions.

Files are read by :mod:`aiida_rm.engine.readers`.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.records import (
    Record,
    frames_of_records,
    record_of_ase,
    record_of_pymatgen,
)

#: Names that ASE keeps for itself, in its memory or in extxyz: of atoms and of structures.
_ASE_ARRAYS = ("numbers", "positions", "symbols", "Z", "species", "pos", "move_mask")
_ASE_INFO = ("Lattice", "Properties", "pbc", "occupancy", "stress", "virial")


def from_ase(atoms: Sequence[Any]) -> Frames:
    """Frames of ``ase.Atoms``: elements, positions, cells, pbc.

    The ``info`` entries ``name`` and ``id`` become structure labels when all structures have
    them; everything else (calculators, constraints, velocities) is left behind.

    Args:
        atoms: ``ase.Atoms`` objects.

    Raises:
        FramesError: one of them stands for a disordered crystal (partial occupancies of a CIF).
    """
    return frames_of_records(_records(record_of_ase, atoms))


def to_ase(frames: Frames, index: int) -> Any:
    """One structure as ``ase.Atoms``.

    Scalar structure labels stand in ``info``, all atom labels in ``arrays``; names that ASE keeps
    for itself (such as ``numbers`` and ``stress``) get an underscore at their end.
    """
    from ase import Atoms

    part = frames[index]
    atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=part.pbc[0])
    for name, value in _scalar_labels(part).items():
        atoms.info[f"{name}_" if name in _ASE_INFO else name] = value
    for name, values in part.atom.items():
        atoms.set_array(f"{name}_" if name in _ASE_ARRAYS else name, np.array(values))
    return atoms


def from_pymatgen(structures: Sequence[Any]) -> Frames:
    """Frames of pymatgen ``Structure`` and ``Molecule`` objects, mixed as you like.

    Entries ``name`` and ``id`` of their ``properties`` become structure labels when all have
    them. Oxidation states are dropped.

    Raises:
        FramesError: one is disordered (a site shared by several species, or partly empty), or
            holds a dummy species.
    """
    return frames_of_records(_records(record_of_pymatgen, structures))


def to_pymatgen(frames: Frames, index: int) -> Any:
    """One structure as a pymatgen ``Structure``, or a ``Molecule`` when nothing is periodic.

    Scalar structure labels stand in ``properties``. Of a flat cell, the vectors along
    directions that are not periodic become unit vectors: pymatgen wants a cell of full rank.
    """
    from pymatgen.core import Lattice, Molecule, Structure

    part = frames[index]
    numbers = [int(number) for number in part.numbers]
    positions, pbc = np.array(part.positions), np.array(part.pbc[0])
    properties = _scalar_labels(part)
    if not pbc.any():
        return Molecule(numbers, positions, properties=properties)
    cell = np.array(part.cells[0])
    if abs(np.linalg.det(cell)) < 1e-6:
        cell = complete_cell(cell, pbc)
    lattice = Lattice(cell, pbc=tuple(bool(flag) for flag in pbc))
    return Structure(lattice, numbers, positions, coords_are_cartesian=True, properties=properties)


def write(frames: Frames, path: str | os.PathLike[str]) -> Path:
    """Write structures to a file whose format follows from its name (``.extxyz`` keeps labels).

    These are the labels with one value a structure, and those of atoms; of texts in ``.extxyz``,
    white space becomes blanks (``_`` in those of atoms), and empty ones are left out.
    The file appears under its name only when whole.

    Raises:
        FramesError: the format is unknown, or cannot hold these structures.
    """
    import ase.io
    from ase.io.formats import UnknownFileTypeError

    target = Path(path)
    atoms = [to_ase(frames, index) for index in range(len(frames))]
    if not atoms:
        raise FramesError(f"there are no structures to write to '{target.name}'")
    if {".xyz", ".extxyz"} & {suffix.lower() for suffix in target.suffixes}:
        for each in atoms:
            _fit_texts(each)
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name decides the format, so the temporary file keeps it, in a folder of its own.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / target.name
        try:
            ase.io.write(temporary, atoms if len(atoms) > 1 else atoms[0])
        except (UnknownFileTypeError, ValueError, TypeError, RuntimeError) as error:
            raise FramesError(
                f"{len(atoms)} structures cannot be written to '{target.name}': {error}; "
                "a name that ends in .extxyz always can"
            ) from error
        temporary.replace(target)
    return target


def _fit_texts(atoms: Any) -> None:
    """Make texts such that ASE reads from extxyz what it writes."""
    for name, value in list(atoms.info.items()):
        if isinstance(value, str) and not value.strip():
            del atoms.info[name]  # or the next key would be taken for its value
        elif isinstance(value, str):
            atoms.info[name] = re.sub(r"\s", " ", value).replace("\\", "\\\\")
    for name, values in atoms.arrays.items():
        if values.dtype.kind == "U":
            texts = [re.sub(r"\s", "_", text) or "_" for text in values.ravel().tolist()]
            atoms.arrays[name] = np.array(texts).reshape(values.shape)


def _records(convert: Callable[[Any], Record], items: Sequence[Any]) -> list[Record]:
    records = []
    for index, item in enumerate(items):
        try:
            records.append(convert(item))
        except FramesError as error:
            raise FramesError(f"structure {index}: {error}") from error
    return records


def _scalar_labels(part: Frames) -> dict[str, Any]:
    """Labels of a single structure that are one number or text, as plain Python values."""
    scalars: dict[str, NDArray[Any]] = {k: v for k, v in part.structure.items() if v.ndim == 1}
    return {name: values[0].item() for name, values in scalars.items()}
