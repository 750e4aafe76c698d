"""Frames to and from ASE, pymatgen and files."""

from __future__ import annotations

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from ase.calculators.singlepoint import SinglePointCalculator
from pymatgen.core import DummySpecies, Lattice, Molecule, Structure

from aiida_rm.engine.converters import (
    from_ase,
    from_pymatgen,
    to_ase,
    to_pymatgen,
    write,
)
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.readers import read_dataset


@pytest.fixture
def mixed() -> list[Atoms]:
    """A crystal, a layer with partial pbc, a molecule, a chain."""
    layer = graphene(vacuum=5.0)
    layer.pbc = (True, True, False)
    chain = Atoms(
        "CH2", [[0, 0, 0], [0.6, 0.9, 0], [0.6, -0.9, 0]], cell=[1.3, 0, 0], pbc=[1, 0, 0]
    )
    return [bulk("NaCl", "rocksalt", a=5.64), layer, molecule("CH3CH2OH"), chain]


def same(one: Frames, two: Frames, tolerance: float = 0.0) -> None:
    np.testing.assert_array_equal(one.numbers, two.numbers)
    np.testing.assert_array_equal(one.ptr, two.ptr)
    np.testing.assert_array_equal(one.pbc, two.pbc)
    np.testing.assert_allclose(one.positions, two.positions, rtol=0, atol=tolerance)
    np.testing.assert_allclose(one.cells, two.cells, rtol=0, atol=tolerance)


def test_ase_round_trip(mixed: list[Atoms]) -> None:
    frames = from_ase(mixed)
    assert len(frames) == 4
    for index, atoms in enumerate(mixed):
        back = to_ase(frames, index)
        np.testing.assert_array_equal(back.numbers, atoms.numbers)
        np.testing.assert_array_equal(back.positions, atoms.positions)
        np.testing.assert_array_equal(back.cell.array, atoms.cell.array)
        np.testing.assert_array_equal(back.pbc, atoms.pbc)


def test_from_ase_copies(mixed: list[Atoms]) -> None:
    frames = from_ase(mixed)
    before = frames.positions.copy()
    mixed[0].positions += 1.0
    np.testing.assert_array_equal(frames.positions, before)


def test_from_ase_of_nothing() -> None:
    assert len(from_ase([])) == 0


def test_names_are_kept_only_when_all_have_them(mixed: list[Atoms]) -> None:
    for number, atoms in enumerate(mixed):
        atoms.info["id"] = number
    mixed[0].info["name"] = "salt"
    frames = from_ase(mixed)
    assert frames.structure["id"].tolist() == ["0", "1", "2", "3"]
    assert "name" not in frames.structure


def test_calculators_are_left_behind(mixed: list[Atoms]) -> None:
    mixed[0].calc = SinglePointCalculator(mixed[0], energy=1.0, forces=np.ones((2, 3)))
    frames = from_ase(mixed)
    assert not frames.structure
    assert not frames.atom


def test_labels_reach_ase(mixed: list[Atoms]) -> None:
    frames = from_ase(mixed)
    labelled = frames.with_labels(
        structure={
            "energy_per_atom": np.arange(4.0),
            "unique": [True, False, True, True],
            "match": ["", "graphene", "", ""],
            "stress": np.zeros((4, 3, 3)),
        },
        atom={
            "force": np.arange(3.0 * frames.n_atoms).reshape(-1, 3),
            "positions": np.arange(frames.n_atoms),
        },
    )
    atoms = to_ase(labelled, 1)
    assert atoms.info == {"energy_per_atom": 1.0, "unique": False, "match": "graphene"}
    assert type(atoms.info["unique"]) is bool
    start, end = frames.ptr[1:3]
    np.testing.assert_array_equal(atoms.arrays["force"], labelled.atom["force"][start:end])
    np.testing.assert_array_equal(atoms.arrays["positions_"], np.arange(start, end))
    np.testing.assert_array_equal(atoms.positions, mixed[1].positions)


def test_pymatgen_round_trip(mixed: list[Atoms]) -> None:
    frames = from_ase(mixed)
    items = [to_pymatgen(frames, index) for index in range(4)]
    assert [type(item) for item in items] == [Structure, Structure, Molecule, Structure]
    assert items[1].lattice.pbc == (True, True, False)
    back = from_pymatgen(items)
    np.testing.assert_array_equal(back.numbers, frames.numbers)
    np.testing.assert_array_equal(back.pbc, frames.pbc)
    np.testing.assert_allclose(back.positions, frames.positions, rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.cells[:3], frames.cells[:3], rtol=0, atol=1e-12)
    np.testing.assert_allclose(back.cells[3, 0], frames.cells[3, 0], rtol=0, atol=1e-12)


def test_pymatgen_names_and_oxidation_states() -> None:
    salt = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.64), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    salt.properties["name"] = "salt"
    frames = from_pymatgen([salt])
    assert frames.formula(0) == "Cl4Na4"
    assert frames.structure["name"].tolist() == ["salt"]
    assert to_pymatgen(frames, 0).properties == {"name": "salt"}


def test_pymatgen_disorder_is_refused() -> None:
    good = Structure(Lattice.cubic(3), ["C"], [[0, 0, 0]])
    shared = Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]])
    partly = Structure(Lattice.cubic(3), [{"Na": 0.5}], [[0, 0, 0]])
    for bad in (shared, partly):
        with pytest.raises(FramesError, match=r"structure 1: .* is disordered"):
            from_pymatgen([good, bad])


def test_pymatgen_dummy_species_are_refused() -> None:
    with pytest.raises(FramesError, match="structure 0: it holds 'X"):
        from_pymatgen([Structure(Lattice.cubic(3), [DummySpecies("X")], [[0, 0, 0]])])


@pytest.mark.parametrize("name", ["set.extxyz", "set.xyz", "set.extxyz.gz"])
def test_extxyz_round_trip(mixed: list[Atoms], tmp_path, name: str) -> None:
    frames = from_ase(mixed).with_labels(
        structure={"name": ["a", "b c", "17", "d"], "energy": np.arange(4.0)}
    )
    path = write(frames, tmp_path / "new" / name)
    assert [file.name for file in path.parent.iterdir()] == [name]
    back = read_dataset(path).frames
    same(back, frames, 1e-7)
    assert back.structure["name"].tolist() == ["a", "b c", "17", "d"]


def test_texts_survive_extxyz(mixed: list[Atoms], tmp_path) -> None:
    frames = from_ase(mixed).with_labels(
        structure={
            "name": ["two\nlines", "a\tb", "\\alpha\\", 'x "y" = {z} \\'],
            "match": ["", "graphene", " ", ""],
            "match_rmsd": np.arange(4.0),
        },
        atom={"site": np.array(["", "Fe 1", *["x"] * (sum(map(len, mixed)) - 2)])},
    )
    path = write(frames, tmp_path / "set.extxyz")
    back = read_dataset(path, skip=False).frames
    same(back, frames, 1e-7)
    names = ["two lines", "a b", "\\alpha\\", 'x "y" = {z} \\']
    assert back.structure["name"].tolist() == names
    atoms = ase.io.read(path, ":")
    assert [a.info["name"] for a in atoms] == names
    assert [a.info["match_rmsd"] for a in atoms] == [0, 1, 2, 3]
    assert [a.info.get("match") for a in atoms] == [None, "graphene", None, None]
    assert atoms[0].arrays["site"].tolist() == ["_", "Fe_1"]


def test_labels_with_names_of_ase_survive_extxyz(mixed: list[Atoms], tmp_path) -> None:
    frames = from_ase(mixed)
    of_structures = ("Lattice", "Properties", "pbc", "occupancy", "stress", "virial", "energy")
    of_atoms = ("numbers", "positions", "symbols", "Z", "species", "pos", "move_mask", "forces")
    frames = frames.with_labels(
        structure={name: np.arange(4.0) for name in of_structures},
        atom={name: np.arange(frames.n_atoms) * 1.0 for name in of_atoms},
    )
    path = write(frames, tmp_path / "set.extxyz")
    same(read_dataset(path, skip=False).frames, frames, 1e-7)
    atoms = ase.io.read(path, "1")
    assert {name: atoms.info[f"{name}_"] for name in of_structures[:-1]} == dict.fromkeys(
        of_structures[:-1], 1.0
    )
    for name in of_atoms[:-1]:
        np.testing.assert_array_equal(atoms.arrays[f"{name}_"], [2.0, 3.0])


def test_a_molecule_does_not_fit_a_poscar(tmp_path) -> None:
    with pytest.raises(FramesError, match=r"cannot be written to 'a.vasp'.*extxyz always can"):
        write(from_ase([molecule("H2O")]), tmp_path / "a.vasp")


def test_several_structures_do_not_fit_a_poscar(mixed: list[Atoms], tmp_path) -> None:
    with pytest.raises(FramesError, match="4 structures cannot be written to 'POSCAR'"):
        write(from_ase(mixed), tmp_path / "POSCAR")
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_refused(tmp_path) -> None:
    with pytest.raises(FramesError, match="extxyz always can"):
        write(from_ase([bulk("Cu")]), tmp_path / "set.nonsense")
    with pytest.raises(FramesError, match="no structures to write"):
        write(from_ase([]), tmp_path / "set.extxyz")
