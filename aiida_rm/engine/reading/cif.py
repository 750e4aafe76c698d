"""CIF files and texts, parsed here or by a pool of processes, in order."""

from __future__ import annotations

import io
import re
import warnings
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain, islice
from typing import Any

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.processes import process_pool
from aiida_rm.engine.reading.entries import CifText, Entry, Item, Problem, named, problem
from aiida_rm.engine.records import record_of_pymatgen

#: CIFs that are parsed before a pool is started, which takes seconds.
ALONE = 500
#: CIFs in a piece of work.
CHUNK = 50
#: Pieces of work that wait for each process.
_AHEAD = 4

_BLOCK = re.compile(r"^(?=data_)", re.MULTILINE | re.IGNORECASE)
_SAYS_ITS_ATOMS = re.compile(
    r"^\s*_(chemical_formula_(sum|structural)|atom_site_type_symbol)\b",
    re.MULTILINE | re.IGNORECASE,
)


def resolved(items: Iterable[Item], processes: int) -> Generator[Entry | Problem, None, None]:
    """The items in order, with every CIF parsed.

    Only a bounded number of them is taken ahead of what is asked for.

    Args:
        items: anything; other things than CIFs pass through.
        processes: how many share the work; 1: none is started.

    Raises:
        OutOfMemoryError: a process died.
    """
    rest = iter(items)
    parsed = 0
    while processes == 1 or parsed < ALONE:
        item = next(rest, None)
        if item is None:
            return
        parsed += isinstance(item, CifText)
        yield from _parse_all([item])
    following = next(rest, None)
    if following is not None:
        yield from _in_pool(chain([following], rest), processes)


def _in_pool(items: Iterator[Item], processes: int) -> Iterator[Entry | Problem]:
    remedy = (
        "set 'processes' to 1, and in a script call the reader under `if __name__ == '__main__':`"
    )
    with process_pool(processes, remedy) as pool:
        waiting: deque[Future[list[Entry | Problem]]] = deque()
        while piece := list(islice(items, CHUNK)):
            waiting.append(pool.submit(_parse_all, piece))
            while len(waiting) > _AHEAD * processes:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


def _parse_all(items: list[Item]) -> list[Entry | Problem]:
    results: list[Entry | Problem] = []
    for item in items:
        if isinstance(item, CifText):
            results += parse_cif(item)
        else:
            results.append(item)
    return results


def parse_cif(cif: CifText) -> list[Entry | Problem]:
    """All structures of a CIF, with its symmetry spelt out; never fails."""
    # Block by block: pymatgen takes blocks of the same name for one, and one error for all.
    blocks = [block for block in _BLOCK.split(cif.text) if "_atom_site_" in block.lower()]
    found: list[Item] = []
    for number, block in enumerate(blocks or [cif.text]):
        where = cif.where
        if len(blocks) > 1:
            where = f"{where}, data block {number}".removeprefix(", ")
        found.append(_parse_block(cif, block, where))
    items = named(found, cif.stem) if cif.stem else found
    return [item for item in items if not isinstance(item, CifText)]


def _parse_block(cif: CifText, block: str, where: str) -> Entry | Problem:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            record = record_of_pymatgen(_structure(block))
    except Exception as error:  # noqa: BLE001 - whatever a foreign text makes a parser do
        return problem(cif.file, where, _reason(error))
    record.names.update(cif.names)
    return Entry(cif.file, where, record)


def _structure(block: str) -> Any:
    from pymatgen.io.cif import CifParser

    if not block.strip():
        raise FramesError("it holds no CIF")
    parser = CifParser(io.StringIO(block), check_cif=False)
    structures = parser.parse_structures(primitive=False, on_error="raise")
    # The parser drops atoms that it does not understand, and a text may end too early.
    if _SAYS_ITS_ATOMS.search(block) and (complaint := parser.check(structures[0])):
        raise FramesError(f"the atoms are not those of its formula ({complaint})")
    return structures[0]


def _reason(error: Exception) -> Exception | str:
    if isinstance(error, FramesError):
        return error
    said = str(error).replace("No structure parsed for section 1 in CIF.", "").strip()
    return f"this is no CIF of a crystal: {said or type(error).__name__}"
