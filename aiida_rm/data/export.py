"""Structures into files of the common formats."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from aiida_rm.engine.converters import to_ase, write
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames

#: Suffix by format. What `write` of the engine makes of it follows from the suffix.
SUFFIXES = {
    "extxyz": ".extxyz",
    "xyz": ".xyz",
    "cif": ".cif",
    "poscar": ".vasp",
    "db": ".db",
    "traj": ".traj",
}
#: Formats of one structure a file.
SINGLE = ("poscar",)
#: Keys of ASE's databases for labels whose names it keeps for itself; our readers know them.
_KEYS = {"id": "material_id"}
#: Formats that can go to the screen.
TEXTS = ("extxyz", "xyz", "cif", "poscar")


def format_of(name: str) -> str:
    """The format that the name of a file asks for.

    Raises:
        FramesError: none that is known.
    """
    lower = Path(name).name.lower()
    if lower.startswith(("poscar", "contcar")):
        return "poscar"
    for form, suffix in {**SUFFIXES, "poscar ": ".poscar"}.items():
        if lower.endswith(suffix):
            return form.strip()
    known = ", ".join(SUFFIXES.values())
    raise FramesError(f"the name '{Path(name).name}' tells no format; end it in one of {known}")


def export(frames: Frames, path: str | os.PathLike[str], form: str) -> Path:
    """Write all structures into one file; it appears only when whole.

    Labels of structures go along to ``extxyz``, ``traj`` and ``db`` (as its keys and values),
    those of atoms to ``extxyz`` and ``traj``. ``xyz`` is bare: symbols and positions.

    Raises:
        FramesError: the format cannot hold them, or holds one structure a file.
    """
    target = Path(path)
    if form in SINGLE and len(frames) != 1:
        raise FramesError(
            f"the format {form} holds one structure a file, not {len(frames)}; write them into "
            "a folder, one file each (--split)"
        )
    if form == "db":
        return _write_db(frames, target)
    if form == "xyz":
        # With a cell it would be extxyz under another name.
        cells, pbc = np.zeros_like(frames.cells), np.zeros_like(frames.pbc)
        frames = Frames(frames.numbers, frames.positions, cells, pbc, frames.ptr)
    with _beside(target) as folder:
        # The suffix tells `write` the format, whatever the file will be called.
        file = write(frames, Path(folder) / f"structures{SUFFIXES[form]}")
        file.replace(target)
    return target


def export_each(
    frames: Frames,
    folder: str | os.PathLike[str],
    form: str,
    numbers: list[int],
    *,
    overwrite: bool = False,
) -> list[Path]:
    """Write each structure into a file of its own, such as ``00012_C8.cif``.

    Args:
        frames: the structures.
        folder: made where it is missing.
        form: the format.
        numbers: what each is called by.
        overwrite: write over files that are there.

    Raises:
        FramesError: one is there already, and none was written.
    """
    target = Path(folder)
    files = [
        target / f"{number:05d}_{frames.formula(index)}{SUFFIXES[form]}"
        for index, number in enumerate(numbers)
    ]
    there = [file for file in files if file.exists()]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise FramesError(f"'{there[0]}' exists{more}; name another folder, or add --overwrite")
    target.mkdir(parents=True, exist_ok=True)
    return [export(frames[index], file, form) for index, file in enumerate(files)]


def to_text(frames: Frames, form: str) -> str:
    """The content of the file.

    Raises:
        FramesError: as :func:`export`, or it is not a text.
    """
    if form not in TEXTS:
        raise FramesError(f"the format {form} is no text; name a file with --output")
    with tempfile.TemporaryDirectory() as folder:
        return export(frames, Path(folder) / f"structures{SUFFIXES[form]}", form).read_text("utf-8")


def _beside(target: Path) -> tempfile.TemporaryDirectory[str]:
    target.parent.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(dir=target.parent, prefix=".writing-")


def _write_db(frames: Frames, target: Path) -> Path:
    from ase.db import connect
    from ase.db.core import reserved_keys

    with _beside(target) as folder:
        path = Path(folder) / "structures.db"
        with connect(path, type="db", use_lock_file=False) as database:
            for index in range(len(frames)):
                atoms = to_ase(frames, index)
                pairs = {
                    _KEYS.get(name, f"{name}_") if name in reserved_keys else name: value
                    for name, value in atoms.info.items()
                    # ASE takes no empty text, nor one that reads as a number.
                    if not isinstance(value, str) or (value and not _is_number(value))
                }
                atoms.info = {}
                database.write(atoms, key_value_pairs=pairs)
        path.replace(target)
    return target


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("True", "False")
    return True
