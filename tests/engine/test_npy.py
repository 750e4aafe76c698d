"""Arrays of strangers: what numpy writes is read, all else refused before anything is allocated."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.npy import parse_array, read_array


def npy(array: Any, **options: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def made(text: str | bytes, data: bytes = b"\0" * 24, version: tuple[int, int] = (1, 0)) -> bytes:
    """A file with any header."""
    header = text.encode() if isinstance(text, str) else text
    length = struct.pack("<H" if version == (1, 0) else "<I", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + data


def header(shape: str = "(3,)", descr: str = "'<f8'", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


READERS = ["parse", "mmap", "load"]


def read(how: str, content: bytes, folder: Path) -> np.ndarray[Any, Any]:
    if how == "parse":
        return parse_array(content, "some.npy")
    (folder / "some.npy").write_bytes(content)
    return read_array(folder / "some.npy", mmap=how == "mmap")


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize(
    "array",
    [
        np.arange(6.0).reshape(2, 3),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4, order="F"),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">i4"),
        np.zeros((0, 3)),
        np.zeros((4, 0, 2), np.uint8),
        np.array("text"),
        np.array(7.5),
        np.array([True, False]),
        np.array(["ä", "bcd"]),
    ],
    ids=lambda array: f"{array.shape}{array.dtype}",
)
def test_what_numpy_writes(how: str, array: np.ndarray[Any, Any], tmp_path: Path) -> None:
    found = read(how, npy(array), tmp_path)
    np.testing.assert_array_equal(found, array)
    assert (found.shape, found.dtype) == (array.shape, array.dtype)


@pytest.mark.parametrize("how", READERS)
def test_other_writers(how: str, tmp_path: Path) -> None:
    """Later versions of the format, and other spaces."""
    data = np.arange(3.0).tobytes()
    for content in (
        made(header(), data, (2, 0)),
        made(header(), data, (3, 0)),
        made("{'descr':'<f8','fortran_order':False,'shape':(3,)}", data),
        made(header() + " " * 60_000 + "\n", data),
    ):
        assert read(how, content, tmp_path).tolist() == [0, 1, 2]


HOSTILE = {
    "nothing": (b"", "it is none"),
    "magic alone": (b"\x93NUMPY", "it is none"),
    "text": (b"not an array at all", "it is none"),
    "archive": (b"PK\x03\x04 zip", "it is none"),
    "pickle": (b"\x80\x04K\x01.", "it is none"),
    "version": (made(header(), version=(9, 1)), "version 9.1"),
    "no length": (b"\x93NUMPY\x01\x00", "header"),
    "ends in header": (made(header())[:40], "ends within its header"),
    "long": (made(header() + " " * 70_000, version=(2, 0)), "too long"),
    "4 GiB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + header().encode(), "too long"),
    "nested": (made("(" * 60_000), "not that of numbers or text"),
    "signs": (made("{'descr': '<f8', 'shape': " + "-" * 60_000 + "1}"), "not that of"),
    "spaces": (made("{'descr': '<f8', 'fortran_order': False, 'shape': (3" + " " * 60_000), "that"),
    "code": (made(header(shape="(__import__('os').getpid(),)")), "not that of"),
    "not ascii": (made(b"{'descr': '\xff'"), "no plain text"),
    "no shape": (made("{'descr': '<f8', 'fortran_order': False}"), "not that of"),
    "truth": (made(header(fortran="2")), "not that of"),
    "more keys": (made(header()[:-2] + "'more': 1}"), "not that of"),
    "objects": (npy(np.array([{}], object), allow_pickle=True), r"'\|O'; only numbers and text"),
    "complex": (npy(np.array([1 + 1j])), "only numbers and text"),
    "times": (npy(np.zeros(2, "M8[s]")), "only numbers and text"),
    "bytes": (npy(np.array([b"abc"])), "only numbers and text"),
    "columns": (npy(np.zeros(4, [("a", int)])), "only those are read"),
    "void": (made(header(descr="'|V8'")), "only numbers and text"),
    "three bytes": (made(header(descr="'<f3'")), "does not know"),
    "no bytes": (made(header(descr="'<U0'"), b""), "only numbers and text"),
    "endless text": (made(header(descr="'<U999999999'")), "does not know"),
    "more endless": (made(header(descr=f"'<U{'9' * 50}'")), "only numbers and text"),
    "short": (npy(np.zeros(4))[:-1], "damaged"),
    "more": (npy(np.zeros(4)) + b"x", "damaged"),
    "header alone": (made(header(), b""), "damaged"),
    "terabytes": (made(header("(1000000000000, 3)")), "damaged"),
    "overflow to 24": (made(header(f"({2**62}, {2**62}, 3)")), "damaged"),
    "wraps to zero": (made(header(f"({2**32}, {2**32})"), b""), "damaged"),
    "wraps to three": (made(header(f"({2**64 + 3},)")), "damaged"),
    "zero times much": (made(header(f"(0, {2**62}, {2**62})"), b""), "damaged"),
    "negative": (made(header("(-3,)")), "damaged"),
    "twice negative": (made(header("(-1, -3)")), "damaged"),
    "minus zero times": (made(header("(0, -3)"), b""), "damaged"),
    "many digits": (made(header(f"({'9' * 50_000},)")), "the shape in its header is none"),
    "many dimensions": (made(header("(" + "1, " * 9_000 + "3)")), "the shape in its header is"),
    "empty dimension": (made(header("(3,,)")), "the shape in its header is none"),
    "two in one": (made(header("(3 1,)")), "the shape in its header is none"),
}


@pytest.mark.parametrize("how", READERS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(
    how: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content, message = HOSTILE[name]

    def allocated(*_: Any, **__: Any) -> None:
        raise AssertionError("numpy was asked for memory")

    for function in ("empty", "fromfile", "frombuffer", "memmap", "load"):
        monkeypatch.setattr(np, function, allocated)
    with pytest.raises(FramesError, match=f"'some.npy' cannot be read as an array.*{message}"):
        read(how, content, tmp_path)


def test_only_plain_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npy")
    (tmp_path / "folder.npy").mkdir()
    np.save(tmp_path / "real.npy", np.zeros(3))
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    for name, why in (("pipe", "no plain file"), ("folder", "no plain file"), ("link", "a link")):
        with pytest.raises(FramesError, match=f"'{name}.npy' is {why}"):
            read_array(tmp_path / f"{name}.npy", mmap=True)
    with pytest.raises(FramesError, match="is no plain file"):
        read_array(tmp_path / "absent.npy", mmap=False)


def test_what_stays_on_disk_and_what_may_be_written(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", np.arange(3.0))
    mapped, loaded = (read_array(tmp_path / "some.npy", mmap=mmap) for mmap in (True, False))
    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    assert loaded.flags.writeable
    assert not parse_array(npy(np.arange(3.0)), "some.npy").flags.writeable
