"""Distances, coordination and radial distributions, against ASE and pymatgen."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aiida_rm.engine.converters import from_ase, to_pymatgen
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.geometry import measure, neighbor_pairs


def shape_of(atoms: Atoms, bond_length: float = 1.85, rdf_max: float = 6.0, bins: int = 120):
    return measure(from_ase([atoms]), 0, bond_length=bond_length, rdf_max=rdf_max, rdf_bins=bins)


def random_atoms(seed: int, count: int, pbc: tuple[bool, bool, bool]) -> Atoms:
    """A skewed cell, with atoms also outside of it."""
    rng = np.random.default_rng(seed)
    cell = np.diag(rng.uniform(1.5, 4.0, 3)) + rng.uniform(-2.0, 2.0, (3, 3))
    while abs(np.linalg.det(cell)) < 3.0:
        cell = np.diag(rng.uniform(1.5, 4.0, 3)) + rng.uniform(-2.0, 2.0, (3, 3))
    positions = rng.uniform(-2.0, 3.0, (count, 3)) @ cell
    return Atoms("C" * count, positions, cell=cell, pbc=pbc)


@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    radius=st.floats(0.5, 5.0),
)
@hypothesis_settings(max_examples=40, deadline=None)
def test_pairs_are_those_of_ase(seed, count, pbc, radius) -> None:
    atoms = random_atoms(seed, count, pbc)
    pairs = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, radius)
    centers, distances = neighbor_list("id", atoms, radius)
    assert pairs is not None
    np.testing.assert_array_equal(
        np.bincount(pairs.centers, minlength=count), np.bincount(centers, minlength=count)
    )
    np.testing.assert_allclose(np.sort(pairs.distances), np.sort(distances), atol=1e-9)


def test_many_atoms_are_looked_at_in_blocks() -> None:
    """Of all of them at once, the pairs would take gigabytes."""
    many = np.random.default_rng(0).random((1500, 3)) * 25
    tracemalloc.start()
    neighbor_pairs(many, 25 * np.eye(3), np.ones(3, bool), 2.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60e6


@pytest.mark.parametrize("seed", range(5))
def test_coordination_is_that_of_pymatgen(seed: int) -> None:
    atoms = random_atoms(seed, 5, (True, True, True))
    structure = to_pymatgen(from_ase([atoms]), 0)
    expected = [len(neighbors) for neighbors in structure.get_all_neighbors(2.2)]
    assert shape_of(atoms, bond_length=2.2).coordination.tolist() == expected


def test_one_atom_sees_its_own_images() -> None:
    shape = shape_of(Atoms("C", [[0.3, 0.2, 9.0]], cell=np.eye(3) * 1.5, pbc=True))
    assert shape.min_distance == pytest.approx(1.5)
    assert shape.coordination.tolist() == [6]
    assert shape.volume_per_atom == pytest.approx(1.5**3)


def test_images_beyond_every_radius_still_give_a_distance() -> None:
    shape = shape_of(Atoms("C", cell=np.eye(3) * 25.0, pbc=True))
    assert shape.min_distance == pytest.approx(25.0)
    assert shape.coordination.tolist() == [0]


def test_diamond() -> None:
    shape = shape_of(bulk("C", "diamond", a=3.567))
    assert shape.coordination.tolist() == [4, 4]
    assert shape.min_distance == pytest.approx(3.567 * np.sqrt(3) / 4)
    assert shape.volume_per_atom == pytest.approx(3.567**3 / 8)
    # The integral of 4 pi r^2 rho g(r) over the first shells counts their atoms.
    edges = np.linspace(0, 6.0, 121)
    density = 8 / 3.567**3
    shells = shape.rdf * density * 4 / 3 * np.pi * np.diff(edges**3)
    centers = (edges[1:] + edges[:-1]) / 2
    assert shells[centers < 2.0].sum() == pytest.approx(4)
    assert shells[centers < 2.7].sum() == pytest.approx(16)
    assert shells[centers < 3.2].sum() == pytest.approx(28)


def test_radial_distribution_does_not_depend_on_the_cell() -> None:
    primitive = bulk("C", "diamond", a=3.567)
    large = primitive.repeat((2, 1, 3))
    large.positions += 0.3
    large.wrap()
    np.testing.assert_allclose(shape_of(large).rdf, shape_of(primitive).rdf, atol=1e-9)


def test_radial_distribution_of_a_gas_is_one() -> None:
    rng = np.random.default_rng(0)
    atoms = Atoms("He400", rng.uniform(0, 12.0, (400, 3)), cell=np.eye(3) * 12.0, pbc=True)
    rdf = shape_of(atoms, bins=6).rdf
    np.testing.assert_allclose(rdf[2:], 1.0, atol=0.05)


def test_molecule() -> None:
    ethane = molecule("C2H6")
    shape = shape_of(ethane)
    distances = ethane.get_all_distances()
    assert shape.min_distance == pytest.approx(distances[distances > 0].min())
    assert shape.coordination[:2].tolist() == [4, 4]
    assert np.isnan(shape.volume_per_atom)
    assert not shape.rdf.any()


def test_lone_atom() -> None:
    shape = shape_of(Atoms("C"))
    assert shape.finite
    assert np.isinf(shape.min_distance)


def test_layer_has_no_volume() -> None:
    atoms = Atoms("C", cell=[1.4, 1.4, 0], pbc=(True, True, False))
    shape = shape_of(atoms)
    assert shape.coordination.tolist() == [4]
    assert np.isnan(shape.volume_per_atom)
    assert not shape.rdf.any()


@pytest.mark.parametrize(
    "frames",
    [
        Frames.build([[6]], [[[np.nan, 0, 0]]], cells=[np.eye(3) * 3]),
        Frames.build([[6]], [[[0, 0, 0]]], cells=[np.full((3, 3), np.inf)]),
        Frames.build([[6]], [[[0, 0, 0]]], cells=[np.zeros((3, 3))]),
        Frames.build([[6]], [[[0, 0, 0]]], cells=[[[3, 0, 0], [6, 0, 0], [0, 0, 3]]]),
        Frames.build([[6]], [[[0, 0, 0]]], cells=[[[3, 0, 0], [0, 3, 0], [0, 0, 1e-4]]]),
        Frames.build([[0]], [[[0, 0, 0]]], cells=[np.eye(3)]),
        Frames.build([[]], [np.zeros((0, 3))], cells=[np.eye(3)]),
    ],
    ids=["nan", "infinite-cell", "no-cell", "flat", "thin", "no-element", "empty"],
)
def test_what_has_no_geometry(frames: Frames) -> None:
    shape = measure(frames, 0, bond_length=1.85, rdf_max=6.0, rdf_bins=10)
    assert not shape.finite
    assert shape.coordination.tolist() == [0] * frames.n_atoms
    assert not shape.rdf.any()


def test_blocks_do_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    atoms = random_atoms(3, 6, (True, True, True))
    whole = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    monkeypatch.setattr("aiida_rm.engine.scoring.geometry._BLOCK", 1)
    parts = neighbor_pairs(atoms.positions, atoms.cell.array, atoms.pbc, 4.0)
    assert whole is not None
    assert parts is not None
    np.testing.assert_array_equal(whole.centers, parts.centers)
    np.testing.assert_array_equal(whole.distances, parts.distances)
