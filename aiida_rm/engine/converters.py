"""Frames from and to ASE, pymatgen and files. The libraries are imported inside the functions."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.elements import MAX_NUMBER
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames, concatenate

#: What names a structure, in ``atoms.info`` or ``structure.properties``; becomes a label.
_NAMES = ("name", "id")
#: Formats that our own reader cuts into entries, so that an error can name the entry.
_XYZ_SUFFIXES = (".xyz", ".extxyz")
#: Names that ASE keeps for itself.
_ASE_ARRAYS = ("numbers", "positions")


def from_ase(atoms: Sequence[Any]) -> Frames:
    """Frames of ``ase.Atoms``: elements, positions, cells, pbc.

    The ``info`` entries ``name`` and ``id`` become structure labels when all structures have
    them; everything else (calculators, constraints, velocities) is left behind.

    Args:
        atoms: ``ase.Atoms`` objects.

    Raises:
        FramesError: one of them stands for a disordered crystal (partial occupancies of a CIF).
    """
    items = list(atoms)
    for index, item in enumerate(items):
        _refuse_partial(item, index)
    return Frames.build(
        [item.numbers for item in items],
        [item.positions for item in items],
        cells=np.array([item.cell.array for item in items], float).reshape(-1, 3, 3),
        pbc=np.array([item.pbc for item in items], bool).reshape(-1, 3),
        structure=_name_labels([item.info for item in items]),
    )


def to_ase(frames: Frames, index: int) -> Any:
    """One structure as ``ase.Atoms``.

    Scalar structure labels stand in ``info``, all atom labels in ``arrays``; the two names that
    ASE keeps for itself (``numbers``, ``positions``) get an underscore at their end.
    """
    from ase import Atoms

    part = frames[index]
    atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=part.pbc[0])
    atoms.info.update(_scalar_labels(part))
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
    items = list(structures)
    numbers, cells, pbc = [], np.zeros((len(items), 3, 3)), np.zeros((len(items), 3), bool)
    for index, item in enumerate(items):
        if not item.is_ordered:
            raise FramesError(
                f"structure {index} ({item.composition.formula}) is disordered; order it first"
            )
        numbers.append([_atomic_number(site.specie, index) for site in item])
        lattice = getattr(item, "lattice", None)
        if lattice is not None:
            cells[index], pbc[index] = lattice.matrix, lattice.pbc
    return Frames.build(
        numbers,
        [np.asarray(item.cart_coords, float) for item in items],
        cells=cells,
        pbc=pbc,
        structure=_name_labels([getattr(item, "properties", None) or {} for item in items]),
    )


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


def read(path: str | os.PathLike[str]) -> Frames:
    """Read a file of structures (extxyz, CIF, POSCAR, whatever ASE knows) or a folder of them.

    A name that ends in ``.gz`` is unpacked first. A folder is one of Frames (``.npy`` files) or
    of CIF files, whose names then become the label ``name``.

    Raises:
        FramesError: nothing there, a foreign or broken file, an entry that cannot be used. The
            message names the file, and the entry by its index.
    """
    source = Path(path)
    if source.is_dir():
        return _read_folder(source)
    if not source.is_file():
        raise FramesError(f"there is no file '{source}'")
    atoms = _read_file(source)
    if not atoms:
        raise FramesError(f"'{source.name}' holds no structures")
    try:
        frames = from_ase(atoms)
        frames.check()
    except FramesError as error:
        raise FramesError(f"'{source.name}': {error}") from error
    return frames


def write(frames: Frames, path: str | os.PathLike[str]) -> Path:
    """Write structures to a file whose format follows from its name (``.extxyz`` keeps labels).

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
    target.parent.mkdir(parents=True, exist_ok=True)
    # The name decides the format, so the temporary file keeps it, in a folder of its own.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-") as folder:
        temporary = Path(folder) / target.name
        try:
            ase.io.write(temporary, atoms if len(atoms) > 1 else atoms[0])
        except (UnknownFileTypeError, ValueError, TypeError, NotImplementedError) as error:
            raise FramesError(
                f"{len(atoms)} structures cannot be written to '{target.name}': {error}; "
                "a name that ends in .extxyz always can"
            ) from error
        temporary.replace(target)
    return target


def _read_folder(folder: Path) -> Frames:
    if (folder / "positions.npy").is_file():
        return Frames.load(folder)
    files = sorted(
        file for file in folder.iterdir() if file.name.lower().endswith((".cif", ".cif.gz"))
    )
    if not files:
        raise FramesError(f"the folder '{folder.name}' holds neither frames nor CIF files")
    parts, names = [], []
    for file in files:
        part = read(file)
        stem = file.name[: file.name.lower().rindex(".cif")]
        parts.append(part.without_labels())
        names += [stem] if len(part) == 1 else [f"{stem}-{i}" for i in range(len(part))]
    return concatenate(parts).with_labels(structure={"name": names})


def _read_file(file: Path) -> list[Any]:
    """All entries of a file as ``ase.Atoms``, compressed or not."""
    if file.suffix.lower() != ".gz":
        return list(_entries(file, file.name))
    with tempfile.TemporaryDirectory() as folder:
        # ASE seeks, which is slow (or fails) in a compressed file.
        plain = Path(folder) / file.stem
        try:
            with gzip.open(file, "rb") as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        except (OSError, EOFError, zlib.error) as error:
            raise FramesError(f"'{file.name}' cannot be unpacked: {error}") from error
        return list(_entries(plain, file.name))


def _entries(file: Path, name: str) -> Iterator[Any]:
    import ase.io

    if file.suffix.lower() in _XYZ_SUFFIXES:
        yield from _xyz_entries(file, name)
        return
    index = 0
    try:
        for atoms in ase.io.iread(file, index=":"):
            yield atoms
            index += 1
    except Exception as error:
        raise FramesError(f"entry {index} of '{name}' cannot be read: {_words(error)}") from error


def _xyz_entries(file: Path, name: str) -> Iterator[Any]:
    """Cut an xyz file into its entries, so that a broken one can be named."""
    import ase.io

    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    position, index = 0, 0
    while position < len(lines):
        if not lines[position].strip():
            position += 1
            continue
        trouble = f"entry {index} of '{name}' (line {position + 1}) cannot be read"
        try:
            end = position + 2 + int(lines[position])
        except ValueError:
            raise FramesError(
                f"{trouble}: it should begin with a number of atoms, not "
                f"{lines[position].strip()[:40]!r}"
            ) from None
        if end > len(lines):
            raise FramesError(f"{trouble}: the file ends before its last atom")
        try:
            yield ase.io.read(io.StringIO("".join(lines[position:end])), format="extxyz")
        except Exception as error:
            raise FramesError(f"{trouble}: {_words(error)}") from error
        position, index = end, index + 1


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__


def _refuse_partial(atoms: Any, index: int) -> None:
    """ASE keeps the largest species of each site of a disordered CIF; that is another crystal."""
    for species in (atoms.info.get("occupancy") or {}).values():
        if len(species) != 1 or not np.isclose(next(iter(species.values())), 1.0, atol=1e-3):
            raise FramesError(
                f"structure {index} ({atoms.get_chemical_formula()}) is disordered "
                f"(a site is shared: {dict(species)}); order it first"
            )


def _atomic_number(specie: Any, index: int) -> int:
    number = getattr(specie, "Z", 0)
    if not isinstance(number, int) or not 1 <= number <= MAX_NUMBER:
        raise FramesError(f"structure {index} holds '{specie}', which is not an element")
    return number


def _name_labels(tables: Sequence[Any]) -> dict[str, ArrayLike]:
    labels: dict[str, ArrayLike] = {}
    for name in _NAMES:
        values = [table.get(name) for table in tables]
        if values and all(value is not None for value in values):
            labels[name] = np.array([str(value) for value in values])
    return labels


def _scalar_labels(part: Frames) -> dict[str, Any]:
    """Labels of a single structure that are one number or text, as plain Python values."""
    scalars: dict[str, NDArray[Any]] = {k: v for k, v in part.structure.items() if v.ndim == 1}
    return {name: values[0].item() for name, values in scalars.items()}
