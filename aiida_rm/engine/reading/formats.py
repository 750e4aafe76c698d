"""The entries of one plain file, by its name: xyz, csv, ASE's databases, CIF, and others."""

from __future__ import annotations

import csv
import io
import re
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.reading.blocks import gen_items, mol_items, res_items
from aiida_rm.engine.reading.entries import CifText, Entry, Item, problem
from aiida_rm.engine.reading.json_files import json_items, json_lines_items
from aiida_rm.engine.reading.vasp import poscar_items
from aiida_rm.engine.records import make_record, names_in, record_of_ase

#: Columns of a table that hold CIFs; the first that is there counts.
CIF_COLUMNS = ("cif", "cif.conv")
#: Characters of one field of a table.
_LONGEST_FIELD = 1 << 26
#: Where the text of what names a structure begins, in the comment of an extxyz.
_NAME_TEXT = re.compile(r"\b((name|id|material_id|entry_id)\s*=\s*[\"'{\[]?)")

Reader = Callable[[Path, str], Iterator[Item]]


def xyz_items(path: Path, file: str) -> Iterator[Item]:
    """The frames of an (ext)xyz file; after a broken one, reading goes on at the next."""
    import ase.io

    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for index, (line, text, trouble) in enumerate(_xyz_texts(stream)):
            where = f"entry {index} (line {line})"
            if trouble:
                yield problem(file, where, trouble)
                continue
            try:
                parser = _comment_parser(text)
                atoms = ase.io.read(io.StringIO(text), format="extxyz", properties_parser=parser)
                yield Entry(file, where, record_of_ase(atoms))
            except Exception as error:  # noqa: BLE001 - whatever a foreign text makes ASE do
                yield problem(file, where, _ragged(text, line) or error)


def _ragged(text: str, line: int) -> str:
    """Which line of the atoms has other columns than the first of them, if one has."""
    columns = [len(row.split()) for row in text.splitlines()[2:]]
    for number, count in enumerate(columns, start=line + 2):
        if count != columns[0]:
            return f"line {number} has {count} columns, the first atom has {columns[0]}"
    return ""


def _comment_parser(text: str) -> Callable[[str], dict[str, Any]]:
    """ASE's own of the comment of a frame, with two differences.

    It believes no more columns than an atom has: ASE makes room for all that are announced. And
    what names a structure stays the text that it is: ASE makes 7 of ``id=007``.
    """
    from ase.io.extxyz import key_val_str_to_dict

    atoms = text.split("\n", 3)[2:3]

    def parse(comment: str) -> dict[str, Any]:
        # What has a NUL in it is to ASE no number, list or truth value.
        marked = _NAME_TEXT.sub("\\1\0", comment.replace("\0", ""))
        found: dict[str, Any] = key_val_str_to_dict(marked)
        for key, value in found.items():
            if isinstance(value, str):
                found[key] = value.replace("\0", "")
        announced = str(found.get("Properties", "")).split(":")[2::3]
        columns = sum(max(int(count), 0) for count in announced)
        there = len(atoms[0].split()) if atoms else 0
        if columns > there:
            raise FramesError(f"'Properties' has {columns} columns, its first atom {there}")
        return found

    return parse


def _xyz_texts(stream: TextIO) -> Iterator[tuple[int, str, str]]:
    """First line, text, and what is wrong, of each frame."""
    numbered = enumerate(stream, start=1)
    line, head = next(numbered, (0, ""))
    while head:
        if not head.strip():
            line, head = next(numbered, (line, ""))
        elif not _is_count(head):
            shown = head.strip()[:40]
            yield line, "", f"it should begin with a number of atoms, not {shown!r}"
            while head and not _is_count(head):
                line, head = next(numbered, (line, ""))
        else:
            start, rows = line, [head]
            line, head = next(numbered, (line, ""))
            rows.append(head)  # the comment, which may be anything
            line, head = next(numbered, (line, ""))
            # A number alone is no atom: there the next frame begins.
            while len(rows) < int(rows[0]) + 2 and head and not _is_count(head):
                rows.append(head)
                line, head = next(numbered, (line, ""))
            short = len(rows) < int(rows[0]) + 2
            yield start, "".join(rows), "it ends before its last atom" if short else ""


def _is_count(line: str) -> bool:
    text = line.strip()
    return text.isascii() and text.isdigit() and len(text) < 10


def csv_items(path: Path, file: str) -> Iterator[Item]:
    """A table with a column of CIFs; ``id`` or ``material_id`` become the label ``id``."""
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as stream:
        rows = csv.DictReader(stream)
        line = 1
        try:
            column = _cif_column(rows.fieldnames or ())
            line = rows.line_num + 1
            for row in rows:
                text = row[column] or ""
                if text.strip():
                    yield CifText(file, f"line {line}", text, names_in(row))
                else:
                    yield problem(file, f"line {line}", f"its column '{column}' is empty")
                line = rows.line_num + 1
        except (csv.Error, FramesError) as error:
            yield problem(file, f"line {line}", error)


def _cif_column(columns: Sequence[str]) -> str:
    for name in CIF_COLUMNS:
        if name in columns:
            return name
    raise FramesError(
        f"no column is called {' or '.join(CIF_COLUMNS)}; there are {', '.join(columns) or 'none'}"
    )


def cif_items(path: Path, file: str) -> Iterator[Item]:
    """A CIF of one or several data blocks."""
    yield CifText(file, "", path.read_text(encoding="utf-8-sig", errors="replace"), {})


def database_items(path: Path, file: str) -> Iterator[Item]:
    """The rows of ASE's SQLite database, by id."""
    from ase.db import connect

    try:
        # ASE's own selection fetches all rows at once.
        connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)
        try:
            ids = [row[0] for row in connection.execute("SELECT id FROM systems ORDER BY id")]
        finally:
            connection.close()
        database = connect(path, type="db", use_lock_file=False)
        with database:
            for number in ids:
                yield _row_item(database, number, file)
    except (sqlite3.Error, OSError) as error:
        yield problem(file, "", f"this is no SQLite database of ASE: {error}")


def _row_item(database: Any, number: int, file: str) -> Item:
    where = f"row {number}"
    try:
        row = next(database.select(id=number, include_data=False))
        names = names_in(row.key_value_pairs)
        record = make_record(row.numbers, row.positions, row.cell, row.pbc, names)
        return Entry(file, where, record)
    except Exception as error:  # noqa: BLE001 - whatever a damaged row makes ASE do
        return problem(file, where, error)


def ase_items(path: Path, file: str) -> Iterator[Item]:
    """Whatever else ASE reads; after a broken entry there is no next."""
    import ase.io

    index = 0
    try:
        for atoms in ase.io.iread(path, ":", do_not_split_by_at_sign=True):
            yield _ase_item(atoms, file, index)
            index += 1
    except Exception as error:  # noqa: BLE001 - whatever a foreign file makes ASE do
        reason = f"{error}" or type(error).__name__
        yield problem(file, f"entry {index}", f"cannot be read: {reason}")


def _ase_item(atoms: Any, file: str, index: int) -> Item:
    where = f"entry {index}"
    try:
        return Entry(file, where, record_of_ase(atoms))
    except FramesError as error:
        return problem(file, where, error)


#: Readers of whole sets of structures, whose files name nothing.
_SETS: dict[str, Reader] = {
    ".csv": csv_items,
    ".json": json_items,
    ".jsonl": json_lines_items,
    ".ndjson": json_lines_items,
    ".db": database_items,
}
#: Readers of files of one or a few structures, which may be called after their file.
_SINGLES: dict[str, Reader] = {
    ".xyz": xyz_items,
    ".extxyz": xyz_items,
    ".cif": cif_items,
    ".res": res_items,
    ".gen": gen_items,
    **dict.fromkeys((".mol", ".sdf"), mol_items),
    **dict.fromkeys((".vasp", ".poscar"), poscar_items),
    **dict.fromkeys((".xsf", ".pdb"), ase_items),
}
_POSCARS = ("poscar", "contcar")
#: Of a folder of VASP these are not read, unless asked for by name.
_XDATCAR = "xdatcar"


def is_known(name: str) -> bool:
    """Whether a file of a folder is read, by its name (without ``.gz``)."""
    lower = name.lower()
    return Path(lower).suffix in {**_SETS, **_SINGLES} or lower.startswith(_POSCARS)


def stem_of(name: str) -> str:
    """The name of a file without what tells its kind; that of ``POSCAR.1`` is whole."""
    path = PurePosixPath(name)
    known = path.suffix.lower() in {**_SETS, **_SINGLES}
    return path.with_suffix("").as_posix() if known else path.as_posix()


def is_set(name: str) -> bool:
    """Whether a file holds a whole set, whose structures are not called after it."""
    return Path(name.lower()).suffix in _SETS


def reader_of(name: str) -> Reader:
    """The reader for a file of this name (without ``.gz``)."""
    lower = name.lower()
    reader = {**_SETS, **_SINGLES}.get(Path(lower).suffix)
    if reader is None and lower.startswith((*_POSCARS, _XDATCAR)):
        return poscar_items
    return reader or ase_items
