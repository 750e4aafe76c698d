"""What comes out of a file: an entry, a problem in its place, or a CIF still to be parsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from aiida_rm.engine.records import Record

#: Characters of a reason; a library may quote a whole file.
_LONGEST_REASON = 240


@dataclass(frozen=True)
class Problem:
    """An entry that was left out.

    Attributes:
        file: name of the file, relative to the folder or archive that was read.
        where: the entry within it, such as ``entry 3 (line 17)``; empty for the whole file.
        reason: one line.
    """

    file: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{_place(self.file, self.where)}: {self.reason}"


@dataclass(frozen=True)
class Entry:
    """A structure and its place, both as in :class:`Problem`."""

    file: str
    where: str
    record: Record

    @property
    def place(self) -> str:
        """For people."""
        return _place(self.file, self.where)


@dataclass(frozen=True)
class CifText:
    """A CIF that waits for a process to parse it.

    Attributes:
        file: as in :class:`Problem`.
        where: as in :class:`Problem`.
        text: the whole CIF, of one or several data blocks.
        names: ``name`` and ``id`` of its structure, where known.
        stem: what its structures are called if they have no name; empty: nothing.
    """

    file: str
    where: str
    text: str
    names: Mapping[str, str]
    stem: str = ""


Item: TypeAlias = Entry | Problem | CifText


def _place(file: str, where: str) -> str:
    return f"'{file}', {where}" if where else f"'{file}'"


def problem(file: str, where: str, error: Exception | str) -> Problem:
    """A problem with its reason on one line."""
    if isinstance(error, KeyError):
        reason = f"{error} is missing or unknown"
    elif isinstance(error, MemoryError):
        reason = "it does not fit into memory"
    else:
        reason = " ".join(str(error).split()) or type(error).__name__
    if len(reason) > _LONGEST_REASON:
        reason = reason[:_LONGEST_REASON] + "..."
    return Problem(file, where, reason)


def named(items: Iterable[Item], stem: str) -> Iterator[Item]:
    """Entries of one file, called after it unless they have names of their own.

    A lone entry is called ``stem``, several ``stem-0``, ``stem-1`` and so on.
    """
    first: Item | None = None
    for index, item in enumerate(items):
        if index == 0:
            first = item
            continue
        if first is not None:
            yield _called(first, f"{stem}-0")
            first = None
        yield _called(item, f"{stem}-{index}")
    if first is not None:
        yield _called(first, stem)


def _called(item: Item, name: str) -> Item:
    if isinstance(item, CifText):
        return replace(item, stem=name)
    if isinstance(item, Problem) or "name" in item.record.names:
        return item
    return replace(item, record=replace(item.record, names={**item.record.names, "name": name}))
