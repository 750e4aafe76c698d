"""POSCARs, also several in a file, and XDATCARs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import TextIO

from aiida_rm.engine.reading.blocks import item_of_text, open_text
from aiida_rm.engine.reading.entries import Item, problem

#: How each step of an XDATCAR begins.
_STEP = "Direct configuration="
#: What may stand between the numbers after the atoms: velocities, charge densities.
_KNOWN_TAIL = re.compile(r"(lattice|direct|cartesian|[dck]$|augmentation)", re.IGNORECASE)
#: Lines that tell where the next structure begins: its first ones, up to names or numbers.
_HEAD = 6
#: Lines that surely hold the numbers of atoms and all that comes before the atoms.
_ENOUGH = 9


def poscar_items(path: Path, file: str) -> Iterator[Item]:
    """The structures of a POSCAR, or of several one after the other, or of an XDATCAR."""
    with open_text(path) as stream:
        for index, text in enumerate(_poscar_texts(stream)):
            where = f"entry {index} (line {text.line})"
            size, count = text.size
            if not count:
                yield problem(file, where, "it has no line with its numbers of atoms")
            elif len(text.rows) < size:  # ASE makes room for all the atoms that are announced.
                yield problem(file, where, f"it ends before the last of {count} atoms")
            else:
                yield item_of_text(path, "".join(text.rows[:size]), "vasp", file, where)
            if text.strange:
                number, row = text.strange
                trouble = f"this follows the atoms of a structure: {row.strip()[:40]!r}"
                yield problem(file, f"line {number}", trouble)


@dataclass
class _Text:
    """One structure as it is read.

    Attributes:
        line: where it begins.
        rows: its lines, of which few after its atoms.
        strange: number and text of the first line after the atoms that does not belong there.
    """

    line: int
    rows: list[str] = field(default_factory=list)
    strange: tuple[int, str] | None = None
    _size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """How many lines it has up to its last atom, and how many atoms; zeros if unknown."""
        if self._size is None:
            self._size = _size(self.rows)
        return self._size

    def add(self, row: str, number: int) -> None:
        """Add the line of this number."""
        self.rows.append(row)
        if len(self.rows) <= _ENOUGH:
            return
        size, _ = self.size
        if not size:
            del self.rows[_ENOUGH:-_HEAD]
        elif len(self.rows) > size + _HEAD:
            self._pass_over(size, number - _HEAD)

    def without(self, count: int, number: int) -> _Text:
        """This one up to its last atom, less its last ``count`` lines; the last is ``number``."""
        if count:
            del self.rows[-count:]
        last = number - count
        while 0 < self.size[0] < len(self.rows):
            self._pass_over(self.size[0], last + 1 - len(self.rows) + self.size[0])
        return self

    def _pass_over(self, index: int, number: int) -> None:
        row = self.rows.pop(index)
        words = row.split()
        known = not words or _is_number(words[0]) or _KNOWN_TAIL.match(row.strip())
        if not known and not self.strange:
            self.strange = (number, row)


def _poscar_texts(stream: TextIO) -> Iterator[_Text]:
    """Each structure; the steps of an XDATCAR share the last head before them."""
    text = _Text(1)
    head: list[str] = []
    number = 0
    for number, row in enumerate(stream, start=1):
        text.add(row, number)
        rows = text.rows
        if len(rows) > _HEAD and _is_head(rows[-_HEAD:]):
            following = rows[-_HEAD:]
            yield text.without(_HEAD, number)
            text, head = _Text(number + 1 - _HEAD, following), []
        elif row.startswith(_STEP):
            if len(rows) <= 8:
                head = rows[:-1]
            elif head:
                yield text.without(1, number)
                text = _Text(number, [*head, row])
    if any(map(str.strip, text.rows)):
        yield text.without(0, number)


def _size(rows: list[str]) -> tuple[int, int]:
    """As the property of a text."""
    # Older files lack the names of the elements.
    named = not all(map(_is_whole, "".join(rows[5:6]).split()[:1]))
    counts = "".join(rows[5 + named : 6 + named]).split()
    count = sum(abs(int(word)) for word in takewhile(_is_whole, counts))
    mode = 6 + named
    selective = "".join(rows[mode : mode + 1]).strip().lower().startswith("s")
    return (mode + 1 + selective + count, count) if count else (0, 0)


def _is_head(rows: list[str]) -> bool:
    """Whether a structure begins with these: a title, the scale, the cell, names or numbers."""
    scale = rows[1].partition("!")[0].split()
    if len(scale) != 1 or not _is_number(scale[0]):
        return False
    if rows[0].strip().lower().startswith("lattice velocities"):
        return False
    for row in rows[2:5]:
        words = row.split()[:3]
        if len(words) != 3 or not all(map(_is_number, words)):
            return False
    words = rows[5].partition("!")[0].split()
    return bool(words) and (all(map(_is_whole, words)) or all(word[0].isalpha() for word in words))


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_whole(word: str) -> bool:
    try:
        int(word)
    except ValueError:
        return False
    return True
