"""Frames: many structures in flat arrays, and their folder of ``.npy`` files.

The one currency of the project: datasets, perturbed sets, random starts and generated batches
are all Frames. A folder of Frames holds ``numbers.npy``, ``positions.npy``, ``cells.npy``,
``pbc.npy``, ``ptr.npy`` and one file a label, ``structure_NAME.npy`` or ``atom_NAME.npy``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aiida_rm.engine.cells import complete_cell, may_overlap, shortest_distance
from aiida_rm.engine.elements import MAX_NUMBER, SYMBOLS, hill_formula
from aiida_rm.engine.errors import DiskError, FramesError
from aiida_rm.engine.npy import read_array

Array = NDArray[Any]

STRUCTURE_PREFIX = "structure_"
ATOM_PREFIX = "atom_"
_CORE = ("numbers", "positions", "cells", "pbc", "ptr")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
#: Kinds of array a label may have: bool, signed, unsigned, float, unicode. Never objects.
_KINDS = "biufU"


@dataclass(frozen=True, eq=False)
class Frames:
    """A flat ragged batch of S structures with A atoms in all.

    Attributes:
        numbers: (A,) uint8, atomic numbers.
        positions: (A, 3) float64, Cartesian, in angstrom.
        cells: (S, 3, 3) float64, rows are lattice vectors, in angstrom; zeros without a cell.
        pbc: (S, 3) bool, periodic directions.
        ptr: (S + 1,) int64; structure i owns atoms ``ptr[i]:ptr[i + 1]``.
        structure: labels with first dimension S.
        atom: labels with first dimension A.
    """

    numbers: Array
    positions: Array
    cells: Array
    pbc: Array
    ptr: Array
    structure: dict[str, Array] = field(default_factory=dict)
    atom: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_shapes(self)

    @classmethod
    def build(
        cls,
        numbers: Sequence[ArrayLike],
        positions: Sequence[ArrayLike],
        cells: ArrayLike | None = None,
        pbc: ArrayLike | None = None,
        structure: Mapping[str, ArrayLike] | None = None,
        atom: Mapping[str, ArrayLike] | None = None,
    ) -> Frames:
        """Make Frames of one array of numbers and one of positions for each structure.

        Without ``cells`` they are molecules; with cells and without ``pbc``, crystals.
        """
        count = len(numbers)
        if count != len(positions):
            raise FramesError(f"{count} sets of numbers but {len(positions)} sets of positions")
        sizes = [np.size(part) for part in numbers]
        all_numbers: Array = (
            np.concatenate([np.asarray(part).ravel() for part in numbers])
            if count
            else np.zeros(0, np.uint8)
        )
        if np.any(np.asarray(all_numbers) < 0) or np.any(np.asarray(all_numbers) > MAX_NUMBER):
            raise FramesError(f"atomic numbers must lie in 1..{MAX_NUMBER}")
        all_positions = (
            np.concatenate([np.asarray(part, float).reshape(-1, 3) for part in positions])
            if count
            else np.zeros((0, 3))
        )
        cell_array = np.zeros((count, 3, 3)) if cells is None else np.asarray(cells, float)
        if pbc is None:
            periodic = np.full((count, 3), cells is not None)
        else:
            periodic = np.array(np.broadcast_to(np.asarray(pbc, bool), (count, 3)))
        return cls(
            numbers=np.asarray(all_numbers, np.uint8),
            positions=all_positions,
            cells=cell_array.reshape(count, 3, 3),
            pbc=periodic,
            ptr=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
            structure={name: np.asarray(value) for name, value in (structure or {}).items()},
            atom={name: np.asarray(value) for name, value in (atom or {}).items()},
        )

    def __len__(self) -> int:
        return len(self.ptr) - 1

    @property
    def n_atoms(self) -> int:
        """Atoms in all structures together."""
        return len(self.numbers)

    @property
    def counts(self) -> Array:
        """(S,) atoms of each structure."""
        return np.diff(self.ptr)

    @property
    def batch(self) -> Array:
        """(A,) the structure that each atom belongs to."""
        return np.repeat(np.arange(len(self)), self.counts)

    @property
    def volumes(self) -> Array:
        """(S,) cell volumes in cubic angstrom; NaN where not periodic in all directions."""
        volumes = np.abs(np.linalg.det(self.cells))
        return np.where(self.pbc.all(axis=1), volumes, np.nan)

    @property
    def elements(self) -> tuple[str, ...]:
        """Symbols that occur, by atomic number."""
        return tuple(SYMBOLS[number] for number in np.unique(self.numbers))

    def formula(self, index: int) -> str:
        """Formula of one structure, in Hill order."""
        numbers = self.numbers[self.ptr[index] : self.ptr[index + 1]]
        return hill_formula(Counter(SYMBOLS[number] for number in numbers))

    def formulas(self) -> list[str]:
        """Formula of every structure, in Hill order."""
        return [self.formula(index) for index in range(len(self))]

    def select(self, indices: ArrayLike) -> Frames:
        """The structures at ``indices`` (integers, or a boolean mask), in that order."""
        chosen = np.asarray(indices)
        if chosen.dtype == bool:
            if chosen.shape != (len(self),):
                raise FramesError(f"a mask of shape {chosen.shape} for {len(self)} structures")
            chosen = np.flatnonzero(chosen)
        if len(chosen.ravel()) and chosen.dtype.kind not in "iu":
            raise FramesError(f"indices must be whole numbers, not {chosen.dtype}")
        chosen = chosen.astype(np.int64).reshape(-1)
        if len(chosen) and (chosen.min() < 0 or chosen.max() >= len(self)):
            raise FramesError(
                f"structure {chosen.min() if chosen.min() < 0 else chosen.max()} does not exist; "
                f"the set holds 0..{len(self) - 1}"
            )
        ptr = np.concatenate([[0], np.cumsum(self.counts[chosen])]).astype(np.int64)
        atoms = self.atoms_of(chosen)
        return Frames(
            numbers=np.array(self.numbers[atoms]),
            positions=np.array(self.positions[atoms]),
            cells=np.array(self.cells[chosen]),
            pbc=np.array(self.pbc[chosen]),
            ptr=ptr,
            structure={name: np.array(value[chosen]) for name, value in self.structure.items()},
            atom={name: np.array(value[atoms]) for name, value in self.atom.items()},
        )

    def atoms_of(self, indices: Array) -> Array:
        """Places of the atoms of the structures at ``indices`` (N,), one after the other."""
        sizes = self.counts[indices]
        first = self.ptr[indices] - (np.cumsum(sizes) - sizes)
        return np.asarray(np.repeat(first, sizes) + np.arange(sizes.sum()))

    def __getitem__(self, index: int) -> Frames:
        return self.select([index])

    def with_labels(
        self,
        structure: Mapping[str, ArrayLike] | None = None,
        atom: Mapping[str, ArrayLike] | None = None,
    ) -> Frames:
        """A copy with these labels added or replaced."""
        return Frames(
            self.numbers,
            self.positions,
            self.cells,
            self.pbc,
            self.ptr,
            {**self.structure, **{k: np.asarray(v) for k, v in (structure or {}).items()}},
            {**self.atom, **{k: np.asarray(v) for k, v in (atom or {}).items()}},
        )

    def without_labels(self) -> Frames:
        """The bare structures."""
        return Frames(self.numbers, self.positions, self.cells, self.pbc, self.ptr)

    def check(self, *, min_distance: float = 0.0) -> None:
        """Refuse what no task can use.

        Args:
            min_distance: refuse atoms nearer than this, in angstrom (0: do not look).

        Raises:
            FramesError: no structures, empty ones, NaN, unknown elements, flat or missing
                cells, overlapping atoms. The message names the structure.
        """
        if len(self) == 0:
            raise FramesError("there are no structures; give at least one")
        if np.any(self.counts == 0):
            raise FramesError(f"structure {np.flatnonzero(self.counts == 0)[0]} has no atoms")
        if np.any(self.numbers == 0) or np.any(self.numbers > MAX_NUMBER):
            bad = np.flatnonzero((self.numbers == 0) | (self.numbers > MAX_NUMBER))[0]
            raise FramesError(
                f"structure {self._owner(bad)} holds atomic number {self.numbers[bad]}; "
                f"known are 1..{MAX_NUMBER}"
            )
        finite = np.isfinite(self.positions).all(axis=1)
        if not finite.all():
            raise FramesError(
                f"structure {self._owner(np.flatnonzero(~finite)[0])} has a position that is not "
                "a finite number"
            )
        if not np.isfinite(self.cells).all():
            bad = np.flatnonzero(~np.isfinite(self.cells).all(axis=(1, 2)))[0]
            raise FramesError(f"structure {bad} has a cell that is not finite")
        # Only the periodic directions need a lattice vector.
        cells = np.array(self.cells)
        for index in np.flatnonzero(self.pbc.any(axis=1) & ~self.pbc.all(axis=1)):
            cells[index] = complete_cell(cells[index], self.pbc[index])
        lengths = np.linalg.norm(cells, axis=2)
        flat = (np.abs(np.linalg.det(cells)) < 1e-4 * np.prod(lengths, axis=1)) | np.any(
            lengths < 1e-3, axis=1
        )
        bad_cell = np.flatnonzero(self.pbc.any(axis=1) & flat)
        if len(bad_cell):
            raise FramesError(
                f"structure {bad_cell[0]} is periodic but its cell is missing or flat; give it "
                "three independent lattice vectors, or switch pbc off for a molecule"
            )
        for near, distance in self.overlaps(min_distance) if min_distance > 0 else ():
            raise FramesError(
                f"structure {near} ({self.formula(near)}) has two atoms {distance:.3f} A "
                f"apart, nearer than {min_distance:g} A; remove or mend it"
            )

    def minimum_distance(self, index: int, limit: float = np.inf) -> float:
        """Shortest distance in one structure, in angstrom; see :func:`cells.shortest_distance`."""
        atoms = slice(self.ptr[index], self.ptr[index + 1])
        cell, pbc = np.asarray(self.cells[index]), np.asarray(self.pbc[index])
        return shortest_distance(np.asarray(self.positions[atoms]), cell, pbc, limit)

    def _owner(self, atom: int) -> int:
        return int(np.searchsorted(self.ptr, atom, side="right") - 1)

    def overlaps(self, limit: float) -> Iterator[tuple[int, float]]:
        """Structures with two atoms nearer than ``limit``, and how near these are, in angstrom."""
        for index in may_overlap(self.positions, self.cells, self.pbc, self.ptr, limit):
            distance = self.minimum_distance(index, limit)
            if distance < limit:
                yield int(index), distance

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the folder of ``.npy`` files; it appears under its name only when whole.

        Raises:
            DiskError: it cannot be written; what was written of it is removed.
        """
        target = Path(folder)
        temporary = target.with_name(target.name + ".tmp")
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, array in self.to_arrays().items():
                np.save(temporary / f"{name}.npy", array, allow_pickle=False)
            if target.exists():
                shutil.rmtree(target)
            temporary.replace(target)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise DiskError(
                f"'{target.name}' could not be written ({error}); free some disk space and rerun"
            ) from error
        return target

    @classmethod
    def load(cls, folder: str | os.PathLike[str], *, mmap: bool = True) -> Frames:
        """Read a folder that :meth:`save` wrote; with ``mmap``, arrays stay on disk until used.

        Raises:
            FramesError: a file is missing, truncated, foreign, or of the wrong shape.
        """
        path = Path(folder)
        if not path.is_dir():
            raise FramesError(f"'{path.name}' is not a folder of frames (`Frames.save` writes one)")
        arrays: dict[str, Array] = {}
        for file in sorted(path.glob("*.npy")):
            arrays[file.stem] = read_array(file, mmap)
        return cls.from_arrays(arrays)

    def to_arrays(self) -> dict[str, Array]:
        """All arrays under the names that their files have."""
        return {
            **{name: np.ascontiguousarray(getattr(self, name)) for name in _CORE},
            **{
                f"{STRUCTURE_PREFIX}{k}": np.ascontiguousarray(v) for k, v in self.structure.items()
            },
            **{f"{ATOM_PREFIX}{k}": np.ascontiguousarray(v) for k, v in self.atom.items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> Frames:
        """The inverse of :meth:`to_arrays`.

        Raises:
            FramesError: an array is missing, unknown, or of the wrong shape.
        """
        missing = [name for name in _CORE if name not in arrays]
        if missing:
            raise FramesError(f"the frames lack {', '.join(name + '.npy' for name in missing)}")
        structure, atom = {}, {}
        for name, array in arrays.items():
            if name in _CORE:
                continue
            if name.startswith(STRUCTURE_PREFIX):
                structure[name[len(STRUCTURE_PREFIX) :]] = array
            elif name.startswith(ATOM_PREFIX):
                atom[name[len(ATOM_PREFIX) :]] = array
            else:
                raise FramesError(
                    f"'{name}.npy' is no array of frames; labels are called "
                    f"{STRUCTURE_PREFIX}NAME or {ATOM_PREFIX}NAME"
                )
        return cls(**{name: arrays[name] for name in _CORE}, structure=structure, atom=atom)


def concatenate(parts: Sequence[Frames]) -> Frames:
    """Join sets of structures in order; only labels that all parts share are kept.

    Raises:
        FramesError: no parts, or a shared label whose shape differs beyond the first axis.
    """
    if not parts:
        raise FramesError("nothing to join")
    offsets = np.cumsum([0] + [part.n_atoms for part in parts])
    ptr = [np.asarray(part.ptr[1:]) + offset for part, offset in zip(parts, offsets, strict=False)]
    return Frames(
        numbers=np.concatenate([part.numbers for part in parts]),
        positions=np.concatenate([part.positions for part in parts]),
        cells=np.concatenate([part.cells for part in parts]),
        pbc=np.concatenate([part.pbc for part in parts]),
        ptr=np.concatenate([[0], *ptr]).astype(np.int64),
        structure=_join_labels([part.structure for part in parts]),
        atom=_join_labels([part.atom for part in parts]),
    )


def _join_labels(parts: Sequence[dict[str, Array]]) -> dict[str, Array]:
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    joined = {}
    for name in shared:
        try:
            joined[name] = np.concatenate([part[name] for part in parts])
        except ValueError as error:
            raise FramesError(f"the label '{name}' differs in shape between the parts") from error
    return joined


def _check_shapes(frames: Frames) -> None:
    for name in _CORE:
        if not isinstance(getattr(frames, name), np.ndarray):
            raise FramesError(f"'{name}' is not an array")
    ptr = frames.ptr
    if ptr.ndim != 1 or len(ptr) < 1 or ptr.dtype.kind not in "iu":
        raise FramesError(f"ptr must be (S + 1,) integers, is {ptr.shape} {ptr.dtype}")
    structures, atoms = len(ptr) - 1, frames.numbers.size
    if ptr[0] != 0 or ptr[-1] != atoms or np.any(np.diff(ptr.astype(np.int64)) < 0):
        raise FramesError(f"ptr must rise from 0 to the number of atoms, {atoms}")
    wanted: dict[str, tuple[tuple[int, ...], str]] = {
        "numbers": ((atoms,), "u"),
        "positions": ((atoms, 3), "f"),
        "cells": ((structures, 3, 3), "f"),
        "pbc": ((structures, 3), "b"),
    }
    for name, (shape, kind) in wanted.items():
        array = getattr(frames, name)
        if array.shape != shape or array.dtype.kind != kind:
            raise FramesError(f"{name} must be {shape}, is {array.shape} {array.dtype}")
    for labels, length in ((frames.structure, structures), (frames.atom, atoms)):
        for name, array in labels.items():
            if not _LABEL.match(name):
                raise FramesError(f"'{name}' is no name for a label; use letters, digits and _")
            if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
                raise FramesError(f"the label '{name}' must be an array of numbers or text")
            if array.ndim == 0 or len(array) != length:
                raise FramesError(f"the label '{name}' must have {length} rows, has {array.shape}")
