"""Files of several structures, of which ASE reads one or makes one: sdf, mol, res, gen."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.reading.entries import Entry, Item, problem
from aiida_rm.engine.records import record_of_ase

#: The fourth line of a molecule: its numbers of atoms and bonds, and the version of the format.
_MOL_COUNTS = re.compile(r"[ \d]{6}.*V[23]000\s*$")
#: Lines of a molecule that are kept: V2000 has at most 999 atoms, and those come first.
_MOL_LINES = 4000
_RES_LABEL = re.compile(r"[A-Za-z]+")
#: The first line of a gen structure: its number of atoms, and whether it is periodic.
_GEN_COUNT = re.compile(r"\s*\d{1,9}\s+[CSFH]\s*$")


def open_text(path: Path) -> TextIO:
    """A text of anybody's."""
    return path.open(encoding="utf-8-sig", errors="replace")


class Text(io.StringIO):
    """The text of one structure, for ASE, which looks into the folder of some files."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self.name = str(path)


def item_of_text(path: Path, text: str, form: str, file: str, where: str, name: str = "") -> Item:
    """The one structure of a text, as ASE reads it, called ``name`` if that is not empty."""
    import ase.io

    try:
        atoms = ase.io.read(Text(text, path), format=form)
        if name:
            atoms.info["name"] = name
        return Entry(file, where, record_of_ase(atoms))
    except (FramesError, KeyError, MemoryError) as error:
        return problem(file, where, error)
    except Exception as error:  # noqa: BLE001 - whatever a foreign text makes ASE do
        reason = f"{error}" or type(error).__name__
        return problem(file, where, f"cannot be read: {reason}")


def mol_items(path: Path, file: str) -> Iterator[Item]:
    """The molecules of an sdf or mol file, called after their title lines."""
    with open_text(path) as stream:
        for index, (line, rows) in enumerate(_mol_texts(stream)):
            where = f"entry {index} (line {line})"
            if trouble := _mol_problem(rows):
                yield problem(file, where, trouble)
            else:
                title = rows[0].strip()
                yield item_of_text(path, "".join(rows), "sdf", file, where, title)


def _mol_texts(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """First line, and lines up to ``M  END``, of each molecule.

    The next one begins after ``$$$$``, or where its counts tell that it has.
    """
    rows: list[str] = []
    line, ended = 1, False
    for number, row in enumerate(stream, start=1):
        if row.startswith("$$$$"):
            if not ended and any(map(str.strip, rows)):
                yield line, rows
            rows, line, ended = [], number + 1, False
            continue
        rows.append(row)
        if _MOL_COUNTS.match(row) and (ended or len(rows) > 4):
            if not ended and any(map(str.strip, rows[:-4])):
                yield line, rows[:-4]
            rows = rows[-4:]
            line, ended = number + 1 - len(rows), False
        elif row.split() == ["M", "END"]:
            yield (number, [row]) if ended else (line, rows)
            rows, ended = [], True
        elif ended:
            del rows[:-3]  # all that may belong to the next
        elif len(rows) > _MOL_LINES:
            del rows[-4]
    if not ended and any(map(str.strip, rows)):
        yield line, rows


def _mol_problem(rows: list[str]) -> str:
    """What is wrong that ASE would pass over; or nothing."""
    if len(rows) < 4:
        return "there is no line with its numbers of atoms and bonds"
    counts = rows[3]
    if "V3000" in counts:
        return "it is of version V3000; only V2000 is read"
    ended = rows[-1].split() == ["M", "END"]
    if "V2000" in counts and not ended:
        return "it ends before its line 'M  END'"
    count = counts[:3].strip()
    if count.isdecimal() and len(rows) - 4 - ended < int(count):
        return "it ends before its last atom"
    return ""


def res_items(path: Path, file: str) -> Iterator[Item]:
    """The crystals of a file of SHELX or AIRSS, called after their titles."""
    with open_text(path) as stream:
        for index, (line, rows) in enumerate(_res_texts(stream)):
            where = f"entry {index} (line {line})"
            try:
                yield Entry(file, where, record_of_ase(_atoms_of_res(rows)))
            except Exception as error:  # noqa: BLE001 - whatever a foreign text makes ASE do
                yield problem(file, where, error)


def _res_texts(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """First line, and lines from ``TITL`` (or else ``CELL``) to ``END``, of each crystal.

    What else stands after ``END``, such as the peaks of SHELXL, is passed over.
    """
    rows: list[str] = []
    line, inside, cell = 1, True, False
    for number, row in enumerate(stream, start=1):
        word = "".join(row.split()[:1])
        if word == "TITL" or (word == "CELL" and (cell or not inside)):
            if _res_has_text(rows):
                yield line, rows
            rows, line, inside, cell = [], number, True, False
        if not inside:
            continue
        rows.append(row)
        cell = cell or word == "CELL"
        if word == "END":
            yield line, rows
            rows, inside = [], False
    if _res_has_text(rows):
        yield line, rows


def _res_has_text(rows: list[str]) -> bool:
    """Whether there is more than remarks."""
    return any(row.strip() and not row.startswith("REM") for row in rows)


def _atoms_of_res(rows: list[str]) -> Any:
    """ASE's, which passes over lines of atoms that it does not understand.

    Raises:
        FramesError: there are such lines, or some are missing.
    """
    from ase.io.res import Res

    words = [row.split() for row in rows if row.strip()]
    if words[-1][0] != "END":
        raise FramesError("it ends before its line 'END'")
    start = next((index for index, line in enumerate(words) if line[0] == "SFAC"), None)
    if start is None:
        raise FramesError("it has no line 'SFAC'")
    elements = {word.capitalize() for word in words[start][1:]}
    labels = [_RES_LABEL.match(line[0]) for line in words[start + 1 :]]
    lines = sum(label is not None and label[0].capitalize() in elements for label in labels)
    atoms = Res.from_string("".join(rows)).atoms
    if lines != len(atoms):
        raise FramesError(f"of its {lines} lines of atoms, {len(atoms)} can be read")
    title = words[0]
    if title[0] == "TITL" and len(title) > 8 and title[8].startswith("("):
        announced = title[7]
        if announced.isdecimal() and int(announced) != lines:
            raise FramesError(f"its title announces {announced} atoms, it has {lines}")
    return atoms


def gen_items(path: Path, file: str) -> Iterator[Item]:
    """The structures of a file of DFTB+, which should be one."""
    with open_text(path) as stream:
        for index, (line, rows) in enumerate(_gen_texts(stream)):
            where = f"entry {index} (line {line})"
            words = rows[0].split()
            if not _GEN_COUNT.match(rows[0]):
                shown = rows[0].strip()[:40]
                trouble = f"it should begin with its number of atoms and C, S or F, not {shown!r}"
                yield problem(file, where, trouble)
                continue
            size = 2 + int(words[0]) + (4 if words[1] in "SF" else 0)
            if len(rows) < size:
                yield problem(file, where, "it ends before its last line")
                continue
            yield item_of_text(path, "".join(rows[:size]), "gen", file, where)
            for number, row in enumerate(rows[size:], start=line + size):
                if row.strip() and not row.lstrip().startswith("#"):
                    trouble = f"this follows the last line of a structure: {row.strip()[:40]!r}"
                    yield problem(file, f"line {number}", trouble)
                    break


def _gen_texts(stream: TextIO) -> Iterator[tuple[int, list[str]]]:
    """First line, and all lines, of each structure."""
    rows: list[str] = []
    line = 1
    for number, row in enumerate(stream, start=1):
        if _GEN_COUNT.match(row) and any(map(str.strip, rows)):
            yield line, rows
            rows = []
        if not rows:
            line = number
        rows.append(row)
    if any(map(str.strip, rows)):
        yield line, rows
