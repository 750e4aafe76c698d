"""AiiDA's own structures into Frames, and back.

ASE and pymatgen are known to :mod:`aiida_rm.engine.converters`, whose functions stand here as
well; files are read by :mod:`aiida_rm.engine.readers`, and become nodes by
``FramesData.from_file``. These are plain functions: for the provenance, make nodes with the
calcfunctions of :mod:`aiida_rm.calculations.functions`.

Frames know elements, not kinds. Where a StructureData has kinds that are more than elements
(``Fe1`` and ``Fe2``, or an isotope's mass), the atom labels ``kind`` and ``mass`` hold them, and
:func:`to_structure` brings them back.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from aiida.common import constants
from aiida.orm import CifData, Group, Node, StructureData, TrajectoryData

from aiida_rm.data.plain import plain_text
from aiida_rm.engine.converters import from_ase, from_pymatgen, to_ase, to_pymatgen, write
from aiida_rm.engine.elements import NUMBERS, SYMBOLS
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.readers import read_dataset

__all__ = (
    "from_ase",
    "from_cif",
    "from_group",
    "from_pymatgen",
    "from_structures",
    "from_trajectory",
    "read_dataset",
    "structures_of_group",
    "to_ase",
    "to_frames",
    "to_pymatgen",
    "to_structure",
    "to_trajectory",
    "write",
)

#: A kind that is named after its element, such as ``Fe``, ``Fe1`` or ``Fe_up``.
_KIND = re.compile(r"([A-Z][a-z]?)(?![a-z])\w*\Z")
#: Standard masses of the elements that AiiDA's StructureData knows.
_MASSES = {
    str(entry["symbol"]): cast("float", entry["mass"]) for entry in constants.elements.values()
}


def from_structures(structures: Sequence[StructureData]) -> Frames:
    """Frames of StructureData nodes, in order.

    The structure label ``name`` is a node's label, or the formula where it has none.

    Raises:
        FramesError: a site is shared, partly empty, or no element.
    """
    numbers, positions, kinds, masses, names = [], [], [], [], []
    for index, structure in enumerate(structures):
        if not isinstance(structure, StructureData):
            raise FramesError(f"item {index} is a {type(structure).__name__}, no StructureData")
        by_kind = {kind.name: _element_of_kind(kind, structure) for kind in structure.kinds}
        weights = {kind.name: float(kind.mass) for kind in structure.kinds}
        sites = structure.sites
        numbers.append([NUMBERS[by_kind[site.kind_name]] for site in sites])
        positions.append(np.array([site.position for site in sites], float).reshape(-1, 3))
        kinds += [site.kind_name for site in sites]
        masses += [weights[site.kind_name] for site in sites]
        names.append(structure.label)
    frames = Frames.build(
        numbers,
        positions,
        cells=np.array([structure.cell for structure in structures], float).reshape(-1, 3, 3),
        pbc=np.array([structure.pbc for structure in structures], bool).reshape(-1, 3),
    )
    symbols = [SYMBOLS[number] for number in frames.numbers]
    atom: dict[str, Any] = {}
    if kinds != symbols:
        atom["kind"] = np.array(kinds)
    if not np.allclose(masses, [_MASSES[symbol] for symbol in symbols], rtol=1e-9, atol=0):
        atom["mass"] = np.array(masses)
    labels = [name or formula for name, formula in zip(names, frames.formulas(), strict=True)]
    return frames.with_labels(structure={"name": np.array(labels, dtype=str)}, atom=atom)


def to_structure(frames: Frames, index: int) -> StructureData:
    """One structure as an unstored StructureData, labelled with its ``name`` if it has one.

    Raises:
        FramesError: it holds an element that StructureData does not know.
    """
    part = frames[index]
    cell, pbc = np.asarray(part.cells[0]).tolist(), [bool(flag) for flag in part.pbc[0]]
    structure = StructureData(cell=cell, pbc=pbc)
    kinds, masses = part.atom.get("kind"), part.atom.get("mass")
    for atom, (number, position) in enumerate(zip(part.numbers, part.positions, strict=True)):
        symbol = SYMBOLS[number]
        if symbol not in _MASSES:
            raise FramesError(f"StructureData knows no element {symbol} (structure {index})")
        extra: dict[str, Any] = {}
        if kinds is not None:
            extra["name"] = plain_text(str(kinds[atom]))
        if masses is not None:
            extra["mass"] = float(masses[atom])
        structure.append_atom(symbols=symbol, position=position.tolist(), **extra)
    if "name" in part.structure:
        structure.label = plain_text(str(part.structure["name"][0]))[:255]
    return structure


def from_trajectory(trajectory: TrajectoryData) -> Frames:
    """Frames of all steps of a TrajectoryData.

    Structure label ``step``, and ``time`` (ps) where known; atom labels ``velocity`` where known,
    and ``kind`` where the symbols are more than elements.

    Raises:
        FramesError: a symbol does not begin with an element.
    """
    positions = np.asarray(trajectory.get_positions(), float)
    count, atoms = positions.shape[:2]
    symbols = list(trajectory.symbols)
    elements = [_element_of_name(symbol) for symbol in symbols]
    cells = trajectory.get_cells()
    pbc = trajectory.pbc
    if pbc is None:  # of before AiiDA 2.8, which stored none and meant crystals
        pbc = (cells is not None,) * 3
    structure: dict[str, Any] = {"step": np.asarray(trajectory.get_stepids(), np.int64)}
    times, velocities = trajectory.get_times(), trajectory.get_velocities()
    if times is not None:
        structure["time"] = np.asarray(times, float)
    atom: dict[str, Any] = {}
    if velocities is not None:
        atom["velocity"] = np.asarray(velocities, float).reshape(-1, 3)
    if elements != symbols:
        atom["kind"] = np.tile(np.array(symbols, dtype=str), count)
    return Frames(
        numbers=np.tile(np.array([NUMBERS[e] for e in elements], np.uint8), count),
        positions=positions.reshape(-1, 3),
        cells=np.zeros((count, 3, 3)) if cells is None else np.asarray(cells, float),
        pbc=np.tile(np.array(pbc, bool), (count, 1)),
        ptr=np.arange(count + 1, dtype=np.int64) * atoms,
        structure=structure,
        atom=atom,
    )


def to_trajectory(frames: Frames) -> TrajectoryData:
    """An unstored TrajectoryData, for frames that differ in positions and cells alone.

    Raises:
        FramesError: the structures differ in their atoms, their order, or their periodicity.
    """
    if len(frames) == 0:
        raise FramesError("there are no structures for a trajectory")
    count, atoms = len(frames), int(frames.counts[0])
    remedy = "a trajectory needs the same atoms in the same order throughout; select such ones"
    if np.any(frames.counts != atoms):
        raise FramesError(f"the structures have different numbers of atoms; {remedy}")
    names = frames.atom.get("kind")
    if names is None:
        names = np.array(SYMBOLS)[frames.numbers]
    table = np.asarray(names).reshape(count, atoms)
    if np.any(table != table[0]) or np.any(frames.pbc != frames.pbc[0]):
        raise FramesError(f"the structures differ in elements, order or periodicity; {remedy}")
    # No periodic direction and no volume: there is no cell to keep.
    bare = not frames.pbc.any() and not frames.cells.any()
    velocities = frames.atom.get("velocity")
    times, steps = frames.structure.get("time"), frames.structure.get("step")
    trajectory = TrajectoryData()
    trajectory.set_trajectory(
        symbols=[str(name) for name in table[0]],
        positions=np.array(frames.positions, float).reshape(count, atoms, 3),
        stepids=None if steps is None else np.array(steps, int),
        cells=None if bare else np.array(frames.cells, float),
        times=None if times is None else np.array(times, float),
        velocities=None
        if velocities is None
        else np.array(velocities, float).reshape(count, atoms, 3),
        pbc=[bool(flag) for flag in frames.pbc[0]],
    )
    return trajectory


def from_cif(cif: CifData) -> Frames:
    """Frames of all structures of a CifData, with its symmetry spelt out.

    Raises:
        FramesError: the file cannot be read, or is of a disordered crystal.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structure.cif"  # readers go by the suffix, which nodes may lack
        path.write_bytes(cif.get_content("rb"))
        return read_dataset(path, skip=False).frames


def structures_of_group(group: Group) -> tuple[dict[str, StructureData], list[Node]]:
    """The StructureData of a group by age (PK), and the other nodes in it.

    Returns:
        Nodes under keys that keep their order (``structure_00000`` and so on), ready for the
        calcfunction ``frames_from_structures(**nodes)``; and what was left out.
    """
    nodes = sorted(group.nodes, key=lambda node: (node.pk, node.uuid))
    chosen = [node for node in nodes if isinstance(node, StructureData)]
    others = [node for node in nodes if not isinstance(node, StructureData)]
    return {f"structure_{index:05d}": node for index, node in enumerate(chosen)}, others


def from_group(group: Group) -> tuple[Frames, list[Node]]:
    """Frames of all StructureData of a group, and the other nodes, which are left out.

    Raises:
        FramesError: the group holds no StructureData, or one cannot be used.
    """
    nodes, others = structures_of_group(group)
    if not nodes:
        raise FramesError(f"the group '{group.label}' holds no StructureData")
    return from_structures(list(nodes.values())), others


def to_frames(source: Any) -> Frames:  # noqa: PLR0911 - one line a kind of source
    """Frames of whatever holds structures.

    Args:
        source: Frames, FramesData, StructureData, TrajectoryData, CifData, a Group (whose other
            nodes are refused here), ``ase.Atoms``, pymatgen ``Structure`` or ``Molecule``, a path,
            or a list or table of such things.

    Raises:
        FramesError: it is none of these, or cannot be used.
    """
    from aiida_rm.data.frames import FramesData

    if isinstance(source, Frames):
        return source
    if isinstance(source, FramesData):
        return source.get_frames()
    if isinstance(source, StructureData):
        return from_structures([source])
    if isinstance(source, TrajectoryData):
        return from_trajectory(source)
    if isinstance(source, CifData):
        return from_cif(source)
    if isinstance(source, Group):
        return _whole_group(source)
    if isinstance(source, str) or hasattr(source, "__fspath__"):
        return read_dataset(source, skip=False).frames
    if type(source).__module__.startswith("ase."):
        return from_ase([source])
    if type(source).__module__.startswith("pymatgen."):
        return from_pymatgen([source])
    if isinstance(source, Mapping):
        return _join(source.values())
    if isinstance(source, Iterable):
        return _join(source)
    raise FramesError(f"{type(source).__name__} is nothing that Frames can be made of")


def _whole_group(group: Group) -> Frames:
    frames, others = from_group(group)
    if others:
        listed = ", ".join(f"{type(node).__name__}<{node.pk}>" for node in others[:5])
        raise FramesError(
            f"the group '{group.label}' also holds {len(others)} other nodes ({listed}); "
            "use from_group, which leaves them out, or remove them"
        )
    return frames


def _join(sources: Iterable[Any]) -> Frames:
    items = list(sources)
    if items and all(isinstance(item, StructureData) for item in items):
        return from_structures(items)  # at once, so that kinds and masses are kept for all
    return concatenate([to_frames(item) for item in items])


def _element_of_kind(kind: Any, structure: StructureData) -> str:
    where = f"StructureData<{structure.pk or structure.uuid}> ({structure.get_formula()})"
    if kind.is_alloy or kind.has_vacancies:
        raise FramesError(
            f"the kind '{kind.name}' of {where} is shared by elements or partly empty; "
            "Frames hold whole atoms: order the structure first (for example with pymatgen's "
            "OrderDisorderedStructureTransformation)"
        )
    symbol = str(kind.symbol)
    if symbol not in NUMBERS:
        raise FramesError(f"the kind '{kind.name}' of {where} is no element")
    return symbol


def _element_of_name(name: str) -> str:
    match = _KIND.match(name)
    if match is None or match.group(1) not in NUMBERS:
        raise FramesError(
            f"'{name}' of the trajectory is not named after an element (like C or Fe1); "
            "turn its steps into StructureData with custom kinds first"
        )
    return match.group(1)
