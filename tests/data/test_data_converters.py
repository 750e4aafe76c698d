"""AiiDA's structures into Frames and back."""

from __future__ import annotations

import numpy as np
import pytest
from aiida import orm
from ase.build import bulk, molecule
from pymatgen.core import Lattice, Structure

from aiida_rm.data import converters
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames


def iron() -> orm.StructureData:
    """Two kinds of one element, periodic in two directions, a sheared cell."""
    structure = orm.StructureData(
        cell=[[2.0, 0, 0], [0.5, 3, 0], [0, 0, 9]], pbc=(True, True, False)
    )
    structure.append_atom(position=(0, 0, 0), symbols="Fe", name="Fe1")
    structure.append_atom(position=(1, 1.5, 0.25), symbols="Fe", name="Fe2")
    structure.append_atom(position=(0.1, 1.5, 2), symbols="O", name="O")
    structure.label = "iron"
    return structure


def raw(structure: orm.StructureData) -> dict:
    return {k: v for k, v in structure.base.attributes.all.items() if not k.startswith("_")}


def heavy_water() -> orm.StructureData:
    structure = orm.StructureData(cell=np.zeros((3, 3)), pbc=(False,) * 3)
    structure.append_atom(position=(0, 0, 0), symbols="O")
    structure.append_atom(position=(0, 0.7, 0.5), symbols="H", mass=2.014, name="D")
    structure.append_atom(position=(0, -0.7, 0.5), symbols="H")
    return structure


@pytest.mark.parametrize("make", [iron, heavy_water, lambda: orm.StructureData(ase=bulk("Cu"))])
def test_structure_round_trip_is_lossless(make):
    structure = make()
    frames = converters.from_structures([structure])
    back = converters.to_structure(frames, 0)
    assert raw(back) == raw(structure)


def test_kinds_survive_among_others():
    structures = [orm.StructureData(ase=bulk("Cu")), iron(), heavy_water()]
    node = FramesData(converters.from_structures(structures)).store()
    assert node.atom_labels == ["kind", "mass"]
    for index, structure in enumerate(structures):
        assert raw(node.get_structure(index)) == raw(structure)


def test_names_are_labels_or_formulas():
    copper = orm.StructureData(ase=bulk("Cu"))
    frames = converters.from_structures([iron(), copper])
    assert frames.structure["name"].tolist() == ["iron", "Cu"]
    assert "kind" in frames.atom
    assert converters.from_structures([copper]).atom == {}


def test_shared_and_empty_sites_are_refused():
    alloy = orm.StructureData(cell=np.eye(3) * 3)
    alloy.append_atom(position=(0, 0, 0), symbols=("Fe", "Ni"), weights=(0.5, 0.5))
    vacant = orm.StructureData(cell=np.eye(3) * 3)
    vacant.append_atom(position=(0, 0, 0), symbols="Fe", weights=0.9)
    for structure in (alloy, vacant):
        with pytest.raises(FramesError, match=r"shared by elements or partly empty.*order"):
            converters.from_structures([structure])
    dummy = orm.StructureData(cell=np.eye(3) * 3)
    dummy.append_atom(position=(0, 0, 0), symbols="X")
    with pytest.raises(FramesError, match="is no element"):
        converters.from_structures([dummy])
    with pytest.raises(FramesError, match="item 0 is a Int, no StructureData"):
        converters.from_structures([orm.Int(1)])


def test_elements_beyond_structuredata_are_refused():
    frames = Frames.build([[118]], [[[0, 0, 0]]])
    with pytest.raises(FramesError, match="knows no element Og"):
        converters.to_structure(frames, 0)


def test_trajectory_round_trip():
    rng = np.random.default_rng(0)
    trajectory = orm.TrajectoryData()
    trajectory.set_trajectory(
        symbols=["Fe1", "Fe2", "O"],
        positions=rng.random((4, 3, 3)),
        stepids=np.array([0, 5, 10, 20]),
        cells=rng.random((4, 3, 3)) + np.eye(3) * 5,
        times=np.linspace(0, 1, 4),
        velocities=rng.random((4, 3, 3)),
        pbc=[True, True, False],
    )
    frames = converters.from_trajectory(trajectory)
    assert frames.formulas() == ["Fe2O"] * 4
    assert frames.structure["step"].tolist() == [0, 5, 10, 20]
    node = FramesData(frames).store()
    back = converters.to_trajectory(node.get_frames()).store()
    assert back.symbols == trajectory.symbols
    assert tuple(back.pbc) == (True, True, False)
    for name in ("positions", "steps", "cells", "times", "velocities"):
        np.testing.assert_array_equal(back.get_array(name), trajectory.get_array(name))


def test_trajectory_of_molecules(molecule_frames):
    trajectory = converters.to_trajectory(molecule_frames.select([0, 0]))
    assert trajectory.get_cells() is None
    frames = converters.from_trajectory(trajectory)
    np.testing.assert_array_equal(frames.positions[:3], molecule_frames.positions[:3])
    assert not frames.pbc.any()


def test_no_trajectory_of_unlike_structures(molecule_frames):
    with pytest.raises(FramesError, match="different numbers of atoms"):
        converters.to_trajectory(molecule_frames)
    mixed = Frames.build([[6], [8]], [[[0, 0, 0]]] * 2)
    with pytest.raises(FramesError, match="differ in elements"):
        converters.to_trajectory(mixed)
    with pytest.raises(FramesError, match="no structures"):
        converters.to_trajectory(Frames.build([], []))


@pytest.mark.parametrize("symbol", ["first", "Xx1", "1C", "Carbon"])
def test_trajectory_of_unknown_symbols(symbol):
    trajectory = orm.TrajectoryData()
    trajectory.set_trajectory(symbols=[symbol], positions=np.zeros((1, 1, 3)))
    with pytest.raises(FramesError, match="not named after an element"):
        converters.from_trajectory(trajectory)


def test_group(aiida_profile_clean):
    first, second = orm.StructureData(ase=bulk("Cu")).store(), iron().store()
    other = orm.Int(1).store()
    group = orm.Group(label="some").store()
    group.add_nodes([second, other, first])
    nodes, others = converters.structures_of_group(group)
    assert [node.pk for node in nodes.values()] == [first.pk, second.pk]
    assert [node.pk for node in others] == [other.pk]
    frames, left_out = converters.from_group(group)
    assert frames.formulas() == ["Cu", "Fe2O"]
    assert [node.pk for node in left_out] == [other.pk]
    with pytest.raises(FramesError, match=rf"also holds 1 other nodes \(Int<{other.pk}>\)"):
        converters.to_frames(group)
    group.remove_nodes([other])
    assert len(converters.to_frames(group)) == 2
    group.clear()
    with pytest.raises(FramesError, match="holds no StructureData"):
        converters.from_group(group)


def test_cif(tmp_path):
    path = converters.write(converters.from_ase([bulk("Cu", cubic=True)]), tmp_path / "cu.cif")
    node = orm.CifData(file=str(path), filename="no_suffix", parse_policy="lazy")
    frames = converters.to_frames(node)
    assert frames.formulas() == ["Cu4"]
    assert frames.pbc.all()
    path.write_text("data_broken\nloop_\n_atom")
    with pytest.raises(FramesError, match=r"structure\.cif"):
        converters.to_frames(orm.CifData(file=str(path), parse_policy="lazy"))


def test_to_frames_takes_whatever_holds_structures(diamond_frames, frames_data, tmp_path):
    crystal = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    path = converters.write(diamond_frames, tmp_path / "diamond.extxyz")
    trajectory = orm.TrajectoryData([orm.StructureData(ase=bulk("Cu"))] * 2)
    sources = {
        "C2": [diamond_frames, frames_data, frames_data.get_structure(0), path, str(path)],
        "Cu": [bulk("Cu"), crystal, orm.StructureData(ase=bulk("Cu"))],
        "H2O": [molecule("H2O")],
    }
    for formula, items in sources.items():
        for item in items:
            assert converters.to_frames(item).formulas() == [formula]
        assert converters.to_frames(items).formulas() == [formula] * len(items)
    assert converters.to_frames(trajectory).formulas() == ["Cu", "Cu"]
    assert converters.to_frames({"a": iron(), "b": iron()}).atom["kind"].tolist()[:2] == [
        "Fe1",
        "Fe2",
    ]
    for wrong in (3, None):
        with pytest.raises(FramesError, match="nothing that Frames can be made of"):
            converters.to_frames(wrong)
