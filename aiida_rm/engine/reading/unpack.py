"""Compressed files and archives, unpacked one member at a time under names of our own."""

from __future__ import annotations

import gzip
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import cast

from aiida_rm.engine.errors import DiskError
from aiida_rm.engine.reading.entries import Item, problem

#: Bytes that one compressed file, or all members of an archive, may unpack to.
LARGEST = 1 << 35
#: Members of an archive.
MOST_MEMBERS = 1_000_000
_PIECE = 1 << 20

Read = Callable[[Path, str], Iterator[Item]]


def gzip_items(path: Path, file: str, read: Read) -> Iterator[Item]:
    """What ``read`` finds in the unpacked file; of one cut short, in what there is of it.

    Raises:
        DiskError: the disk is full.
    """
    with TemporaryDirectory(prefix="aiida-rm-") as folder:
        # ASE seeks, which is slow (or fails) in a compressed file.
        name = PurePosixPath(file).name
        plain = Path(folder) / name[: -len(".gz")]
        with gzip.open(path, "rb") as packed:
            trouble, usable = _copy(packed, plain, LARGEST)
        if usable:
            yield from read(plain, file)
        if trouble:
            yield problem(file, "", trouble)


def zip_items(path: Path, file: str, wanted: Callable[[str], bool], read: Read) -> Iterator[Item]:
    """What ``read`` finds in the members with a ``wanted`` name, by name.

    A member never decides where it is written; one whose name leads out of the archive, a link,
    and an encrypted one are problems.

    Raises:
        DiskError: the disk is full.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        yield problem(file, "", f"this is no zip archive: {error}")
        return
    with archive, TemporaryDirectory(prefix="aiida-rm-") as folder:
        members = sorted(archive.infolist(), key=lambda member: member.filename)
        if len(members) > MOST_MEMBERS:
            yield problem(file, "", f"it holds {len(members)} files; unpack it and read the folder")
            return
        left = LARGEST
        for member in members:
            if member.is_dir() or not wanted(member.filename):
                continue
            if refusal := _refusal(member, left):
                yield problem(member.filename, "", refusal)
                continue
            plain = Path(folder) / PurePosixPath(member.filename).name
            try:
                with archive.open(member) as packed:
                    trouble, _ = _copy(cast("zipfile.ZipExtFile", packed), plain, left)
            except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
                trouble = f"cannot be unpacked: {error}"
            if trouble:
                yield problem(member.filename, "", trouble)
            else:
                left -= member.file_size
                yield from read(plain, member.filename)
            plain.unlink(missing_ok=True)


def _refusal(member: zipfile.ZipInfo, left: int) -> str:
    name = member.filename
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if ".." in parts or name.startswith(("/", "\\")) or ":" in name or "\0" in name:
        return "its name leads out of the archive; it was not unpacked"
    if stat.S_ISLNK(member.external_attr >> 16):
        return "it is a link; it was not followed"
    if member.flag_bits & 1:
        return "it is encrypted"
    if member.file_size > left:
        return f"it unpacks to {member.file_size} bytes, more than the {left} that are left"
    return ""


def _copy(packed: gzip.GzipFile | zipfile.ZipExtFile, target: Path, most: int) -> tuple[str, bool]:
    """What went wrong, and whether what was written can be used all the same.

    That is so of a file cut short, and not of one whose content was changed.
    """
    written = 0
    with target.open("wb") as plain:
        while True:
            try:
                # Not `read`, which at an early end gives nothing of its last piece.
                piece = packed.read1(_PIECE)
            except EOFError as error:
                return f"cannot be unpacked to its end: {error}", written > 0
            except (zlib.error, gzip.BadGzipFile, zipfile.BadZipFile) as error:
                return f"cannot be unpacked: {error}", False
            if not piece:
                return ("", True) if written else ("it is empty", False)
            written += len(piece)
            if written > most:
                return f"it unpacks to more than {most} bytes; unpack it by hand", False
            try:
                plain.write(piece)
            except OSError as error:
                raise DiskError(
                    f"'{target.name}' could not be unpacked ({error}); free some disk space, or "
                    "set TMPDIR to a folder on a larger disk"
                ) from error
