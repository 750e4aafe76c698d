"""FramesData: a set of structures as one AiiDA node."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
from aiida.common.exceptions import ModificationNotAllowed, ValidationError
from aiida.orm import ArrayData
from aiida.orm.pydantic import OrmMetadataField
from numpy.typing import NDArray

from aiida_rm.data.source import SOURCE_EXTRA, describe_source
from aiida_rm.data.summary import MAX_FORMULAS, summarise
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.npy import parse_array
from aiida_rm.engine.readers import read_dataset

if TYPE_CHECKING:
    from aiida.orm import StructureData

#: Little-endian types of the arrays that all Frames have, so that a hash is the same anywhere.
_TYPES = {
    "numbers": "u1",
    "positions": "<f8",
    "cells": "<f8",
    "pbc": "?",
    "ptr": "<i8",
}


class InvalidFramesError(FramesError, ValueError):
    """Structures that cannot become a node; a ``ValueError``, as AiiDA's own nodes raise."""


class FramesData(ArrayData):
    """Many structures in one node, whose repository is the folder of Frames.

    The node goes to a job and comes back from it without any conversion. What one would filter
    on is in the database (see ``AttributesModel``), the bulk is in files. A node is made whole
    and never changed; the same structures and labels always have the same hash.

    >>> FramesData(frames)  # of Frames in memory
    >>> FramesData.from_folder("output_frames")  # of a folder that a job wrote
    >>> FramesData.from_file("mp_20.csv", processes=4)  # of a file, folder or archive
    """

    class AttributesModel(ArrayData.AttributesModel):
        """What can be queried, for example ``FramesData.fields.n_structures > 10``."""

        n_structures: int = OrmMetadataField(description="Number of structures")
        n_atoms: int = OrmMetadataField(description="Number of atoms of all structures together")
        elements: list[str] = OrmMetadataField(description="Symbols, by atomic number")
        formulas: dict[str, int] = OrmMetadataField(
            description=f"The {MAX_FORMULAS} most common Hill formulas and how often they occur"
        )
        formulas_other: int = OrmMetadataField(
            description="Number of structures whose formula is not listed"
        )
        pbc_kind: str = OrmMetadataField(
            description="molecule, crystal, partial (slabs and wires), or mixed"
        )
        structure_labels: list[str] = OrmMetadataField(
            description="Names of the arrays with one row a structure"
        )
        atom_labels: list[str] = OrmMetadataField(
            description="Names of the arrays with one row an atom"
        )
        n_atoms_min: int = OrmMetadataField(description="Atoms of the smallest structure")
        n_atoms_max: int = OrmMetadataField(description="Atoms of the largest structure")
        volume_per_atom_min: float | None = OrmMetadataField(
            None, description="Smallest volume per atom of a crystal, in cubic angstrom"
        )
        volume_per_atom_max: float | None = OrmMetadataField(
            None, description="Largest volume per atom of a crystal, in cubic angstrom"
        )
        schema_version: int = OrmMetadataField(description="Version of the format")

    def __init__(self, frames: Frames | None = None, **kwargs: Any) -> None:
        """Make a node of Frames.

        Args:
            frames: the structures, with any labels.
            kwargs: of every AiiDA node, such as ``label`` and ``description``.

        Raises:
            TypeError: ``frames`` is something else.
            InvalidFramesError: no structures, NaN, a missing cell and the like.
        """
        if not isinstance(frames, Frames):
            raise TypeError(
                f"FramesData needs Frames, not {type(frames).__name__}; make them with a function "
                "of aiida_rm.data.converters (nodes, ASE, pymatgen), or read files with "
                "FramesData.from_file and a job's folder with FramesData.from_folder"
            )
        try:
            frames.check()
            canonical = _canonical(frames)
        except FramesError as error:
            raise InvalidFramesError(str(error)) from error
        super().__init__(**kwargs)
        for name, array in canonical.to_arrays().items():
            super().set_array(name, array)
        self.base.attributes.set_many(summarise(canonical))

    def initialize(self) -> None:
        """Called by AiiDA on a new and on a loaded node."""
        super().initialize()
        self._frames: Frames | None = None

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], **kwargs: Any) -> FramesData:
        """Make a node of a folder that ``Frames.save`` or a job wrote.

        Raises:
            InvalidFramesError: a file is missing, truncated, foreign, holds Python objects, or
                a structure is unphysical.
        """
        try:
            frames = Frames.load(path)
        except FramesError as error:
            raise InvalidFramesError(str(error)) from error
        return cls(frames, **kwargs)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, processes: int = 1, skip: bool = True, **kwargs: Any
    ) -> FramesData:
        """Make a node of a dataset: a file, folder or zip archive of structures.

        Entries that cannot be used are left out, logged as warnings, and listed with the name and
        checksum of the file in the extra ``rm_source``; see :mod:`aiida_rm.data.source`.

        Args:
            path: what :func:`aiida_rm.engine.readers.read_dataset` reads.
            processes: as there.
            skip: as there; False refuses the file for its first bad entry.
            kwargs: of every AiiDA node, such as ``label`` and ``description``.

        Raises:
            InvalidFramesError: nothing there can be used.
        """
        try:
            dataset = read_dataset(path, processes=processes, skip=skip)
        except FramesError as error:
            raise InvalidFramesError(str(error)) from error
        node = cls(dataset.frames, **kwargs)
        node.base.extras.set(SOURCE_EXTRA, describe_source(path, dataset))
        return node

    def get_frames(self) -> Frames:
        """The structures; the arrays are read-only and kept by the node once read.

        Raises:
            InvalidFramesError: a file of the repository is not what it should be.
        """
        if self._frames is None:
            try:
                self._frames = Frames.from_arrays(self._read_all())
            except FramesError as error:
                raise InvalidFramesError(str(error)) from error
        return self._frames

    def get_array(self, name: str | None = None) -> NDArray[Any]:
        """One array, such as ``positions`` or ``structure_energy``; read-only."""
        if name is None:
            known = ", ".join(self.get_arraynames())
            raise ValueError(f"FramesData holds several arrays; name one of {known}")
        if name not in self.get_arraynames():
            known = ", ".join(self.get_arraynames())
            raise KeyError(f"no array '{name}'; there are {known}")
        return self._read(name)

    def clear_internal_cache(self) -> None:
        """Let go of the arrays that the node holds in memory."""
        super().clear_internal_cache()
        self._frames = None

    def set_array(self, name: str, array: NDArray[Any]) -> None:  # noqa: ARG002
        """Refused: attributes and arrays are made together."""
        raise ModificationNotAllowed(
            "FramesData is made whole; take get_frames().with_labels(...) and make a new node"
        )

    def delete_array(self, name: str) -> None:  # noqa: ARG002
        """Refused: attributes and arrays are made together."""
        raise ModificationNotAllowed(
            "FramesData is made whole; take get_frames() and make a new node of what should stay"
        )

    def __len__(self) -> int:
        return self.n_structures

    def __bool__(self) -> bool:
        return True  # a node is there even if its length were 0

    @property
    def n_structures(self) -> int:
        """Number of structures."""
        return int(self.base.attributes.get("n_structures"))

    @property
    def n_atoms(self) -> int:
        """Number of atoms of all structures together."""
        return int(self.base.attributes.get("n_atoms"))

    @property
    def elements(self) -> list[str]:
        """Symbols that occur, by atomic number."""
        return list(self.base.attributes.get("elements"))

    @property
    def formulas(self) -> dict[str, int]:
        """The most common formulas and how often they occur."""
        return dict(self.base.attributes.get("formulas"))

    @property
    def pbc_kind(self) -> str:
        """The periodicity: molecule, crystal, partial or mixed."""
        return str(self.base.attributes.get("pbc_kind"))

    @property
    def structure_labels(self) -> list[str]:
        """Names of the arrays with one row a structure."""
        return list(self.base.attributes.get("structure_labels"))

    @property
    def atom_labels(self) -> list[str]:
        """Names of the arrays with one row an atom."""
        return list(self.base.attributes.get("atom_labels"))

    def get_structure(self, index: int) -> StructureData:
        """One structure as an unstored StructureData, without provenance.

        To keep the link from these frames to the structure, use the calcfunction
        ``aiida_rm.calculations.functions.extract_structure`` instead.

        Raises:
            IndexError: there is no such structure.
        """
        from aiida_rm.data.converters import to_structure

        self._check_index(index)
        return to_structure(self.get_frames(), index)

    def get_ase(self, index: int) -> Any:
        """One structure as ``ase.Atoms``.

        Raises:
            IndexError: there is no such structure.
        """
        from aiida_rm.engine.converters import to_ase

        self._check_index(index)
        return to_ase(self.get_frames(), index)

    def view(self, index: int = 0) -> Any:
        """One structure for the end of a notebook's cell; see :func:`aiida_rm.views.view`."""
        from aiida_rm.views import view

        return view(self, index)

    def _repr_html_(self) -> str:
        """What a notebook shows of the node."""
        from aiida_rm.views import summary_of

        return summary_of(self)

    def local_copy_list(self, folder_name: str) -> list[tuple[str, str, str]]:
        """What puts these frames into ``folder_name`` of a job's folder.

        Returns:
            Triples of node, source and target for ``CalcInfo.local_copy_list``: the folder as
            one, for which AiiDA asks the computer far less often than file by file.
        """
        return [(self.uuid, ".", folder_name)]

    def _get_array_entries(self) -> dict[str, Any]:
        """All arrays as plain lists, for `verdi data core.array show` and JSON exports."""
        return {name: _plain(self._read(name)) for name in sorted(self.get_arraynames())}

    def _check_index(self, index: int) -> None:
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise TypeError(f"`index` must be one whole number, is {index!r}")
        if not 0 <= index < len(self):
            raise IndexError(f"structure {index} does not exist; the node holds 0..{len(self) - 1}")

    def _read_all(self) -> dict[str, NDArray[Any]]:
        """All arrays; of a stored node in one go, as AiiDA opens its container for each request."""
        names = self._arraynames_from_files()
        if not self.is_stored:
            return {name: self._read(name) for name in names}
        files = self.base.repository.metadata["o"]
        keys = {name: files[f"{name}.npy"]["k"] for name in names}
        streams = self.backend.get_repository().iter_object_streams(set(keys.values()))
        contents = {key: stream.read() for key, stream in streams}
        lost = sorted(name for name, key in keys.items() if key not in contents)
        if lost:
            raise InvalidFramesError(f"{', '.join(lost)} lost from the profile's repository")
        return {name: self._parse(name, contents[key]) for name, key in keys.items()}

    def _read(self, name: str) -> NDArray[Any]:
        return self._parse(name, self.base.repository.get_object_content(f"{name}.npy", mode="rb"))

    def _parse(self, name: str, content: bytes) -> NDArray[Any]:
        try:
            return parse_array(content, f"{name}.npy")
        except FramesError as error:
            raise InvalidFramesError(str(error)) from error

    def _validate(self) -> bool:
        """Called by AiiDA before storing."""
        super()._validate()
        try:
            wanted = summarise(self.get_frames())
        except FramesError as error:
            raise ValidationError(str(error)) from error
        found = {name: self.base.attributes.get(name, None) for name in wanted}
        wrong = [name for name, value in wanted.items() if found[name] != value]
        if wrong:
            raise ValidationError(
                f"the attributes {', '.join(wrong)} do not fit the arrays; do not set them by hand"
            )
        return True


def _plain(array: NDArray[Any]) -> Any:
    """Lists, with None for what JSON has no number for."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        items = array.astype(object)
        items[~np.isfinite(array)] = None
        return items.tolist()
    return array.tolist()


def _canonical(frames: Frames) -> Frames:
    """The same frames in types that do not depend on the machine nor on how they were made."""
    core = {
        name: np.asarray(getattr(frames, name)).astype(kind, copy=False)
        for name, kind in _TYPES.items()
    }
    return Frames(
        **core,
        structure={name: _canonical_label(frames.structure[name]) for name in frames.structure},
        atom={name: _canonical_label(frames.atom[name]) for name in frames.atom},
    )


def _canonical_label(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype.kind == "U":
        width = int(np.char.str_len(array).max(initial=1)) if array.size else 1
        return array.astype(f"<U{max(width, 1)}", copy=False)
    return array.astype(array.dtype.newbyteorder("<"), copy=False)
