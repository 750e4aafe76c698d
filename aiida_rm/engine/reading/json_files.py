"""Structures in JSON: pymatgen's and ASE's, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.reading.entries import CifText, Entry, Item, problem
from aiida_rm.engine.reading.json_stream import is_structure, json_values
from aiida_rm.engine.records import Record, make_record, names_in, record_of_pymatgen


def json_items(path: Path, file: str) -> Iterator[Item]:
    """A list or table of structures, ASE's JSON database, one structure, or several of these."""
    index = 0
    try:
        with path.open(encoding="utf-8-sig", errors="replace") as stream:
            for key, value in json_values(stream):
                where = f"entry {index} ('{key}')" if key else f"entry {index}"
                yield _item(file, where, value, key)
                index += 1
    except (ValueError, RecursionError) as error:
        yield problem(file, f"entry {index}", f"cannot be read from here on: {error}")


def json_lines_items(path: Path, file: str) -> Iterator[Item]:
    """A structure a line."""
    with path.open(encoding="utf-8-sig", errors="replace") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = f"line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                yield problem(file, where, f"it is no JSON ({error})")
            else:
                yield _item(file, where, value, "")


def _item(file: str, where: str, value: Any, key: str) -> Item:
    if not is_structure(value):
        shown = sorted(value) if isinstance(value, Mapping) else value
        return problem(file, where, f"it is no structure: {repr(shown)[:80]}")
    try:
        if isinstance(value.get("cif"), str):
            return CifText(file, where, value["cif"], {**_names(key), **names_in(value)})
        record = _record(value)
        if "numbers" not in value:  # ASE's keys only count its rows
            record.names.update({**_names(key), **record.names})
        return Entry(file, where, record)
    except Exception as error:  # noqa: BLE001 - whatever a foreign table makes a library do
        return problem(file, where, error)


def _names(key: str) -> dict[str, str]:
    return {"id": key} if key else {}


def _record(table: Mapping[str, Any]) -> Record:
    if "sites" in table:
        return _of_pymatgen(table, names_in(table, table.get("properties") or {}))
    if "numbers" in table:
        values = {name: _array(table.get(name)) for name in ("numbers", "positions", "cell", "pbc")}
        return make_record(**values, names=names_in(table.get("key_value_pairs") or {}))
    inner = table.get("structure", table.get("molecule"))
    if not isinstance(inner, Mapping) or "sites" not in inner:
        raise FramesError("its structure holds no sites")
    data = table.get("data")
    return _of_pymatgen(
        inner,
        names_in(
            table, data if isinstance(data, Mapping) else {}, inner, inner.get("properties") or {}
        ),
    )


def _of_pymatgen(table: Mapping[str, Any], names: dict[str, str]) -> Record:
    from pymatgen.core import Molecule, Structure

    crystal = "lattice" in table
    coordinates = "abc" if crystal else "xyz"
    # Without properties: decoding them would import whatever modules the file names.
    sites = [
        {"species": site["species"], coordinates: site[coordinates]} for site in table["sites"]
    ]
    if crystal:
        lattice = table["lattice"]
        structure = Structure.from_dict({"lattice": lattice, "sites": sites})
    else:
        structure = Molecule.from_dict({"sites": sites})
    record = record_of_pymatgen(structure)
    record.names.update(names)
    return record


def _array(value: Any) -> Any:
    """An array as ASE writes it: (shape, type, flat values), a cell in a table of its own."""
    if isinstance(value, Mapping) and "array" in value:
        value = value["array"]
    if isinstance(value, Mapping) and "__ndarray__" in value:
        shape, _, flat = value["__ndarray__"]
        return np.array(flat).reshape(shape)
    return value
