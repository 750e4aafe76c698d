"""The values of a large JSON file one at a time, without holding the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

#: Characters read at a time.
CHUNK = 1 << 20
#: Characters of one value; a longer one is taken for a broken file.
LONGEST = 1 << 26
#: A table with one of these keys is a structure, or holds one.
STRUCTURE_KEYS = ("sites", "structure", "molecule", "numbers", "cif")
#: What ASE writes beside its rows.
_OF_ASE = ("ids", "nextid")


def json_values(stream: TextIO) -> Iterator[tuple[str, Any]]:
    """Key and value of each entry of a JSON file.

    The file is a list of entries, a table of them (whose keys are given; empty otherwise), one
    entry, or several of these one after the other.

    Raises:
        ValueError: it is no JSON from some point on.
        RecursionError: it is nested too deeply.
    """
    text = _Text(stream)
    while first := text.peek():
        if first == "[":
            yield from (("", value) for value in _items(text))
        elif first == "{":
            yield from _entries(text)
        else:
            raise ValueError(f"expected a list or table, not {repr(text.value())[:40]}")


def is_structure(value: Any) -> bool:
    """Whether a value may be read as a structure."""
    return isinstance(value, Mapping) and any(key in value for key in STRUCTURE_KEYS)


def _items(text: _Text) -> Iterator[Any]:
    text.take("[")
    if text.peek() == "]":
        text.take("]")
        return
    while True:
        yield text.value()
        if text.peek() == "]":
            text.take("]")
            return
        text.take(",")


def _entries(text: _Text) -> Iterator[tuple[str, Any]]:
    """A table of entries, or an entry, which shows only at its end."""
    whole: dict[str, Any] = {}
    for key, value in _pairs(text):
        if is_structure(value) and key not in STRUCTURE_KEYS:
            yield key, value
        else:
            whole[key] = value
    if is_structure(whole):
        yield "", whole
    else:
        yield from ((key, value) for key, value in whole.items() if key not in _OF_ASE)


def _pairs(text: _Text) -> Iterator[tuple[str, Any]]:
    text.take("{")
    if text.peek() == "}":
        text.take("}")
        return
    while True:
        if text.peek() != '"':
            raise ValueError(f"expected a key in quotes, not {text.peek() or 'the end'}")
        key = text.value()
        text.take(":")
        yield key, text.value()
        if text.peek() == "}":
            text.take("}")
            return
        text.take(",")


class _Text:
    """A window on a stream that moves along as values are taken."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._window = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def peek(self) -> str:
        """The next character that is no space, or nothing at the end."""
        while True:
            while self._at < len(self._window):
                if not self._window[self._at].isspace():
                    return self._window[self._at]
                self._at += 1
            if self._ended:
                return ""
            self._more(CHUNK)

    def take(self, character: str) -> None:
        """Go past this character, which must come next."""
        found = self.peek()
        if found != character:
            raise ValueError(f"expected '{character}', not {found or 'the end'}")
        self._at += 1

    def value(self) -> Any:
        """The next value, whole."""
        if not self.peek():
            raise ValueError("the file ends too early")
        while True:
            held = len(self._window) - self._at
            try:
                value, end = self._decoder.raw_decode(self._window, self._at)
            except ValueError as error:
                if self._ended or held > LONGEST:
                    reason = "the file ends too early or" if self._ended else "an entry"
                    raise ValueError(f"{reason} is no JSON ({error})") from error
            else:
                # A number at the end of the window may go on.
                if end < len(self._window) or self._ended:
                    self._at = end
                    return value
            self._more(max(CHUNK, held))

    def _more(self, size: int) -> None:
        chunk = self._stream.read(size)
        self._ended = not chunk
        self._window = self._window[self._at :] + chunk
        self._at = 0
