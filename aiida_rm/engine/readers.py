"""Datasets from files, one entry at a time: the one way in.

Read are (ext)xyz, CIF, POSCAR and whatever else ASE reads; ASE databases (``.db``, ``.json``);
JSON and JSON lines of pymatgen's structures, molecules and computed entries; csv tables with a
column ``cif`` (or ``cif.conv``); each compressed (``.gz``), and folders and zip archives of these.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.processes import cores
from aiida_rm.engine.reading.cif import resolved
from aiida_rm.engine.reading.entries import Entry, Item, Problem, named, problem
from aiida_rm.engine.reading.formats import is_known, is_set, reader_of, stem_of
from aiida_rm.engine.reading.unpack import gzip_items, zip_items
from aiida_rm.engine.records import frames_of_records, name_labels

__all__ = ("Dataset", "Problem", "Progress", "read_dataset")

#: Called with the number of structures and of problems so far.
Progress = Callable[[int, int], None]
#: Structures that are checked and packed together.
CHUNK = 500
#: Problems that the message of an empty dataset quotes.
_QUOTED = 3


@dataclass(frozen=True)
class Dataset:
    """What a file held.

    Attributes:
        frames: the structures, in order, with labels ``id`` and ``name`` where all have them.
        problems: the entries that were left out, in order.
        places: where each structure stood, as in :class:`Problem`; none for a folder of Frames.
    """

    frames: Frames
    problems: tuple[Problem, ...] = ()
    places: tuple[str, ...] = ()


def read_dataset(
    path: str | os.PathLike[str],
    *,
    processes: int = 1,
    skip: bool = True,
    progress: Progress | None = None,
) -> Dataset:
    """Read a file, folder or zip archive of structures.

    Entries become small arrays as they are read, so that memory holds the arrays and not the
    objects of a library. Left out, each with its reason, are entries that cannot be parsed, with
    partial occupancies, unknown elements, positions that are not finite, or a flat cell. Partial
    periodicity is kept as it is.

    In a folder or archive, files are read by name, also those of folders within; a structure of a
    file of its own gets the file's name as its ``name``, if it has none. Files of unknown kinds
    are passed over. A folder of Frames is read as such.

    Args:
        path: the kind of a file follows from its name.
        processes: how many share the parsing of CIFs, the slow part; 0: one a core. They pay from
            thousands of CIFs on. A script that asks for several needs the usual
            ``if __name__ == "__main__":``.
        skip: leave bad entries out; otherwise the first one is an error.
        progress: called now and then, and at the end.

    Raises:
        FramesError: nothing is there, or no entry can be used (with the first problems), or,
            without ``skip``, any problem.
        DiskError: the disk is full while unpacking.
        OutOfMemoryError: a process died.
    """
    source = Path(path)
    if processes < 0:
        raise FramesError(f"'processes' must be at least 0, is {processes}")
    if (source / "positions.npy").is_file():
        frames = Frames.load(source)
        frames.check()
        return Dataset(frames)
    if not source.exists():
        raise FramesError(f"there is no file '{source}'")
    collector = _Collector(skip, progress)
    items = _folder_items(source) if source.is_dir() else _file_items(source, source.name)
    with closing(resolved(items, processes or cores())) as results:
        for item in results:
            collector.add(item)
    return collector.finish(source.name)


def _folder_items(folder: Path) -> Iterator[Item]:
    found = False
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not _is_hidden(name))
        for name in sorted(files):
            path = Path(parent) / name
            file = path.relative_to(folder).as_posix()
            if _is_wanted(file):
                found = True
                yield from _member_items(path, file)
    if not found:
        raise FramesError(
            f"the folder '{folder.name}' holds neither frames nor files of structures"
        )


def _is_wanted(file: str) -> bool:
    """Whether a file of a folder or archive is read."""
    parts = PurePosixPath(file.replace("\\", "/")).parts
    return not any(_is_hidden(part) for part in parts if part != "..") and is_known(
        _unpacked(parts[-1])
    )


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "__MACOSX"))


def _unpacked(name: str) -> str:
    return name[: -len(".gz")] if name.lower().endswith(".gz") else name


def _member_items(path: Path, file: str) -> Iterator[Item]:
    """A file of a folder or archive, whose structures are called after it."""
    items = _file_items(path, file)
    name = PurePosixPath(_unpacked(file))
    if is_set(name.name):
        return items
    if name.name.upper() in ("POSCAR", "CONTCAR") and name.parent.name:
        stem = name.parent.as_posix()
    else:
        stem = stem_of(name.as_posix())
    return named(items, stem)


def _file_items(path: Path, file: str) -> Iterator[Item]:
    lower = path.name.lower()
    try:
        if lower.endswith(".gz"):
            yield from gzip_items(path, file, _plain_items)
        elif lower.endswith(".zip"):
            yield from zip_items(path, file, _is_wanted, _member_items)
        else:
            yield from _plain_items(path, file)
    except OSError as error:
        yield problem(file, "", f"cannot be read: {error}")


def _plain_items(path: Path, file: str) -> Iterator[Item]:
    return reader_of(path.name)(path, file)


class _Collector:
    """Packs entries as they come, and keeps what was wrong with others."""

    def __init__(self, skip: bool, progress: Progress | None) -> None:
        self._skip = skip
        self._progress = progress
        self._waiting: list[Entry] = []
        self._parts: list[Frames] = []
        self._names: list[dict[str, str]] = []
        self._problems: list[Problem] = []
        self._places: list[str] = []

    def add(self, item: Entry | Problem) -> None:
        if isinstance(item, Problem):
            # In order: what came before may have a problem of its own.
            self._pack()
            self._refuse(item)
            return
        self._waiting.append(item)
        if len(self._waiting) >= CHUNK:
            self._pack()
            self._report()

    def finish(self, name: str) -> Dataset:
        self._pack()
        if not self._parts:
            quoted = [str(item) for item in self._problems[:_QUOTED]]
            more = len(self._problems) - len(quoted)
            if more:
                quoted.append(f"and {more} more problems")
            raise FramesError(
                "; ".join([f"'{name}' holds no structures that can be used", *quoted])
            )
        self._report()
        frames = concatenate(self._parts).with_labels(structure=name_labels(self._names))
        return Dataset(frames, tuple(self._problems), tuple(self._places))

    def _refuse(self, item: Problem) -> None:
        if not self._skip:
            raise FramesError(str(item))
        self._problems.append(item)

    def _pack(self) -> None:
        """Check what waits: all at once, and one by one only if something is wrong."""
        entries, self._waiting = self._waiting, []
        if not entries:
            return
        try:
            self._keep(entries)
        except FramesError:
            for entry in entries:
                try:
                    self._keep([entry])
                except FramesError as error:
                    reason = str(error).removeprefix("structure 0 ")
                    self._refuse(problem(entry.file, entry.where, reason))

    def _keep(self, entries: list[Entry]) -> None:
        records = [entry.record for entry in entries]
        frames = frames_of_records(records).without_labels()
        frames.check()
        self._parts.append(frames)
        self._names += [record.names for record in records]
        self._places += [entry.place for entry in entries]

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(len(self._names), len(self._problems))
