"""Reading ``.npy`` files that somebody else may have written.

The header is checked against the size of the file before numpy sees any of it: nothing is
unpickled, and nothing is allocated that the file cannot fill. Format: numpy.lib.format.
"""

from __future__ import annotations

import io
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.errors import FramesError

Array = NDArray[Any]

#: How every .npy file begins.
_MAGIC = b"\x93NUMPY"
#: Bytes of the header's length, by version. Version 3 differs in names of columns alone.
_LENGTH_BYTES = {(1, 0): 2, (2, 0): 4, (3, 0): 4}
#: Numpy's own headers take 118 bytes; nobody's needs more than this.
_MAX_HEADER = 64 * 1024
#: What every version of numpy can hold.
_MAX_DIMENSIONS = 32
_MAX_BYTES = 2**63 - 1
#: As numpy and all others write it, of a plain array: no list of columns, nothing to evaluate.
_HEADER = re.compile(
    r"\{\s*'descr'\s*:\s*'([^']{1,64})'\s*,"
    r"\s*'fortran_order'\s*:\s*(True|False)\s*,"
    r"\s*'shape'\s*:\s*\(([-0-9,\s]*)\)\s*(?:,\s*)?\}\s*"
)
_LENGTH = re.compile(r"-?[0-9]{1,20}")
#: bool, signed, unsigned, float and text, of at least one byte; never objects.
_KIND = re.compile(r"[<>|=]?[biufU][1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Header:
    """What a file says of its array, found to agree with the file's size.

    Attributes:
        shape: of the array.
        order: "C" (rows) or "F" (columns).
        dtype: bool, integers, floats or text.
        offset: bytes before the first number.
    """

    shape: tuple[int, ...]
    order: str
    dtype: np.dtype[Any]
    offset: int

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)


def read_array(file: Path, mmap: bool) -> Array:
    """The array of a file; with ``mmap`` it stays on disk until used.

    Raises:
        FramesError: a link, no plain file, no array, of another size than its header says, or of
            anything but numbers and text.
    """
    if file.is_symlink():
        raise FramesError(f"'{file.name}' is a link; frames hold plain files")
    if not file.is_file():
        raise FramesError(f"'{file.name}' is no plain file")
    try:
        with file.open("rb") as stream:
            header = read_header(stream, os.fstat(stream.fileno()).st_size, file.name)
            if header.count == 0:
                return np.empty(header.shape, header.dtype)
            if mmap:
                return np.memmap(
                    stream, header.dtype, "r", header.offset, header.shape, order=_order(header)
                )
            stream.seek(header.offset)
            array = np.fromfile(stream, header.dtype, header.count)
            return array.reshape(header.shape, order=_order(header))
    except (OSError, ValueError, MemoryError) as error:
        raise _unreadable(file.name, str(error)) from error


def parse_array(content: bytes, name: str) -> Array:
    """The array of the content of a file; read-only, nothing is copied.

    Args:
        content: the whole file.
        name: its name, for the message.

    Raises:
        FramesError: as in :func:`read_array`.
    """
    header = read_header(io.BytesIO(content), len(content), name)
    if header.count == 0:
        return np.empty(header.shape, header.dtype)
    array = np.frombuffer(content, header.dtype, header.count, header.offset)
    return array.reshape(header.shape, order=_order(header))


def read_header(stream: BinaryIO, size: int, name: str) -> Header:
    """Read and check the header of a file.

    Args:
        stream: at the beginning of the file.
        size: bytes of the whole file.
        name: its name, for the message.

    Raises:
        FramesError: as in :func:`read_array`.
    """
    magic = stream.read(len(_MAGIC) + 2)
    if magic[: len(_MAGIC)] != _MAGIC or len(magic) != len(_MAGIC) + 2:
        raise _unreadable(name, "it is none")
    width = _LENGTH_BYTES.get((magic[-2], magic[-1]))
    if width is None:
        raise _unreadable(name, f"version {magic[-2]}.{magic[-1]} of the format is not known")
    length = int.from_bytes(stream.read(width), "little")
    offset = len(magic) + width + length
    if length > _MAX_HEADER:
        raise _unreadable(name, f"its header of {length} bytes is too long to be one")
    text = stream.read(length)
    if len(text) != length:
        raise _unreadable(name, "it ends within its header")
    descr, order, shape = _parse(text, name)
    if not _KIND.fullmatch(descr):
        raise _unreadable(name, f"it holds {descr!r}; only numbers and text are read")
    try:
        dtype = np.dtype(descr)
    except (TypeError, ValueError, OverflowError) as error:
        raise _unreadable(name, f"it holds {descr!r}, which numpy does not know") from error
    header = Header(shape, order, dtype, offset)
    # Python's integers: no product overflows. Numpy wants the others to fit beside a zero, too.
    largest = math.prod(length for length in shape if length) * dtype.itemsize
    if (
        min(shape, default=0) < 0
        or largest > _MAX_BYTES
        or header.count * dtype.itemsize != size - offset
    ):
        raise _unreadable(
            name,
            f"it is damaged: its header says {shape} of {dtype}, but {size - offset} bytes follow",
        )
    return header


def _parse(text: bytes, name: str) -> tuple[str, str, tuple[int, ...]]:
    """The three entries of a header; never evaluated."""
    try:
        plain = text.decode("ascii")
    except UnicodeDecodeError as error:
        raise _unreadable(name, "its header is no plain text") from error
    found = _HEADER.fullmatch(plain)
    if found is None:
        raise _unreadable(name, "its header is not that of numbers or text; only those are read")
    lengths = [part.strip() for part in found[3].split(",")]
    if lengths[-1] == "":  # after the last comma, or no dimension at all
        lengths.pop()
    if len(lengths) > _MAX_DIMENSIONS or not all(_LENGTH.fullmatch(part) for part in lengths):
        raise _unreadable(name, "it is damaged: the shape in its header is none")
    shape = tuple(int(part) for part in lengths)
    return found[1], "F" if found[2] == "True" else "C", shape


def _order(header: Header) -> Any:
    return header.order


def _unreadable(name: str, why: str) -> FramesError:
    return FramesError(f"'{name}' cannot be read as an array: {why}")
