"""Files that a job might bring back: real ones with something changed, small or absurd."""

from __future__ import annotations

import contextlib
import json
import os
import struct
from copy import deepcopy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from aiida_rm.engine.checksum import seal

Draw = Any

NUMBERS: list[Any] = [
    0, -1, 1, 7, 0.5, -1e9, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63),
    10**400, 1e308, float("inf"), float("-inf"), float("nan"),
]  # fmt: skip
TEXTS = [
    "", "C", "Xx", "NaN", "\0", "a\0b", "\ud800", "\n", "../../outside.npy", "/etc/passwd",
    "$(touch pwned)", "`touch pwned`", "; touch pwned", "'\"", "{0}", "{message}", "%s",
    "__class__", "-rf", "a" * 20_000, "file:///etc/passwd", "os.system:touch",
]  # fmt: skip
DEEP: Any = json.loads("[" * 500 + "]" * 500)
VALUES = [*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], DEEP, ["C"] * 3000, {"a": {"b": DEEP}}]
NESTS = [b"[" * 100_000, b'{"a":' * 100_000, b'{"a":1}' + b"]" * 10]
_WORDS = [struct.pack("<Q", n) for n in (0, 1, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)]


def pick(draw: Draw, choices: Any) -> Any:
    """One of them; quicker than ``sampled_from`` with large values, whose texts it never prints."""
    options = list(choices)
    return options[draw(st.integers(0, len(options) - 1))]


def changed_bytes(draw: Draw, content: bytes) -> bytes:
    """The same with one to three bytes or stretches changed, added or lost."""
    for _ in range(draw(st.integers(1, 3))):
        size = len(content)
        # Headers are where it hurts.
        place = draw(st.integers(0, min(size, pick(draw, (16, 512, max(size, 1))))))
        length = draw(st.integers(0, 64))
        how = draw(st.integers(0, 6))
        if how == 0:
            new = bytes([draw(st.integers(0, 255))])
            content = content[:place] + new + content[place + 1 :]
        elif how == 1:
            content = content[:place]
        elif how == 2:
            content = content[:place] + content[place + length :]
        elif how == 3:
            content = content[:place] + draw(st.binary(max_size=32)) + content[place:]
        elif how == 4:
            content = content[:place] + pick(draw, _WORDS) + content[place + 8 :]
        elif how == 5:
            content = content[:place] + content[place : place + length] * 3 + content[place:]
        else:
            content = content + b"\0" * draw(st.integers(1, 64))
    return content


def any_bytes(draw: Draw, real: bytes) -> bytes:
    """Bytes that have nothing to do with the real ones, or all."""
    pickled = b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x02os\x94\x8c\x06system\x94\x93\x94\x8c\x04true"
    odd = [b"", b"\0" * 64, pickled + b"\x94\x85\x94R\x94.", b"PK\x03\x04" + real, *NESTS, real]
    return pick(draw, odd) if draw(st.booleans()) else draw(st.binary(max_size=200))


def changed_json(draw: Draw, document: Any) -> Any:
    """The document with one to three of its values replaced, renamed, removed or added."""
    document = deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(document))
        if not places:
            return pick(draw, VALUES)
        holder, key = pick(draw, places)
        how = draw(st.integers(0, 4))
        if how <= 2:
            holder[key] = deepcopy(pick(draw, VALUES))
        elif how == 3 or isinstance(holder, list):
            del holder[key]
        else:
            holder[pick(draw, TEXTS)] = holder.pop(key)
    return document


def _places(document: Any) -> Any:
    keys = document if isinstance(document, dict) else range(len(document))
    for key in keys:
        yield document, key
        if isinstance(document[key], dict | list):
            yield from _places(document[key])


def json_bytes(draw: Draw, document: Any) -> bytes:
    """A changed document as text; now and then the text is changed as well, or is another."""
    how = draw(st.integers(0, 9))
    if how == 0:
        return any_bytes(draw, json.dumps(document).encode())
    if how <= 2:
        return changed_bytes(draw, json.dumps(document).encode())
    return json.dumps(changed_json(draw, document)).encode()


def npy_bytes(draw: Draw, content: bytes) -> bytes:
    """A changed .npy file: anywhere, or with a header of our own before the real numbers."""
    how = draw(st.integers(0, 9))
    if how == 0:
        return any_bytes(draw, content)
    if how <= 3 or len(content) < 10:  # changed before
        return changed_bytes(draw, content)
    length = struct.unpack("<H", content[8:10])[0]
    data = content[10 + length :]
    kinds = [
        "'<f8'", "'|O'", "'O'", "'<U999999999'", "'<U1'", "'|V8'", "'<M8[ns]'", "'<c16'", "'>i4'",
        "'|u1'", "'?'", "'<f2'", "[('a', '<f8')]", "__import__('os').system('true')", "'<i8'",
    ]  # fmt: skip
    shapes = [
        "()", "(1,)", "(2, 3)", "(-1,)", "(1099511627776,)", "(0, 1099511627776)", "(1,) * 9",
        "(9223372036854775807, 2)", "(18446744073709551617,)", "(4294967296, 4294967296)",
        "(1, 3, 3)", "(1e9,)", "(" + "1," * 40 + ")", f"({len(data)},)", f"({len(data) // 8},)",
    ]  # fmt: skip
    fortran = pick(draw, ("False", "True", "1"))
    text = f"{{'descr': {pick(draw, kinds)}, 'fortran_order': {fortran}, "
    header = f"{text}'shape': {pick(draw, shapes)}, }}\n".encode()
    said = pick(draw, (len(header), len(header), len(header), 0, 65535, 10 * len(header)))
    return b"\x93NUMPY" + pick(draw, (b"\1\0", b"\1\0")) + struct.pack("<H", said) + header + data


def safetensors_bytes(draw: Draw, content: bytes) -> bytes:
    """A changed safetensors file: anywhere, or in one of its two documents, packed again."""
    how = draw(st.integers(0, 11))
    if how == 0:
        return any_bytes(draw, content)
    if how <= 3:
        return changed_bytes(draw, content)
    length = struct.unpack("<Q", content[:8])[0]
    table, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    if how <= 9:
        text = json_bytes(draw, json.loads(table["__metadata__"]["header"]))
        table["__metadata__"]["header"] = text.decode("utf-8", "replace")
    else:
        table = changed_json(draw, table)
    if draw(st.integers(0, 3)):
        with contextlib.suppress(KeyError, TypeError, ValueError, RecursionError):
            # Whoever tampers can count, too.
            sealed = json.dumps(seal(_packed(table, data)))
            table["__metadata__"]["header"] = sealed
    content = _packed(table, data)
    said = pick(draw, (*[len(content) - 8 - len(data)] * 12, 0, 2**40, 2**63, len(content)))
    return struct.pack("<Q", said) + content[8:]


def _packed(table: Any, data: bytes) -> bytes:
    header = json.dumps(table).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data


def change_folder(draw: Draw, folder: Path, outside: Path) -> None:
    """Change one or two files of a folder of frames: their bytes, their names, or their kind."""
    for _ in range(draw(st.integers(1, 2))):
        files = sorted(folder.glob("*.npy"))
        if not files:
            return
        file = pick(draw, files)
        how = draw(st.integers(0, 19))
        if how <= 12 and file.is_file() and not file.is_symlink():
            file.write_bytes(npy_bytes(draw, file.read_bytes()))
        elif how == 13:
            _remove(file)
        elif how == 14:
            _remove(file)
            file.symlink_to(outside)
        elif how == 15:
            _remove(file)
            os.mkfifo(file)
        elif how == 16:
            _remove(file)
            file.mkdir()
        elif how == 17:
            names = ["structure_", "structure_$(id)", "atom_a b", "-rf", "x", "structure_é"]
            file.replace(folder / f"{pick(draw, names)}.npy")
        elif how == 18:
            link = folder / f"{pick(draw, ('structure_new', 'notes'))}.npy"
            if not link.is_symlink():
                link.symlink_to(outside)
        else:
            other = pick(draw, files)
            links = other.is_symlink() or file.is_symlink()  # and not written through
            if other.is_file() and file.is_file() and not links:
                file.write_bytes(other.read_bytes())


def _remove(path: Path) -> None:
    path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
