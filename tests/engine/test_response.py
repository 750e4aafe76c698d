"""Targets against numerical derivatives of the one energy; recipes and lineage."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import scipy.optimize
import torch
from ase.build import bulk, molecule

from aiida_rm.engine import response
from aiida_rm.engine.errors import FramesError, OutOfMemoryError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential.core import core_energy, largest_core
from aiida_rm.engine.response import (
    fictitious_energy,
    fictitious_response,
    nearest_homes,
    perturb,
    repeat,
    spring_energy,
)
from aiida_rm.engine.settings import PerturbSettings


def diamond() -> Frames:
    atoms = bulk("C", "diamond", a=3.567, cubic=True)
    return Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])


def water() -> Frames:
    atoms = molecule("H2O")
    return Frames.build([atoms.numbers], [atoms.positions])


SETTINGS = PerturbSettings(samples=4, core_scale=1.0, displacement_levels=(8.0, 16.0), seed=3)


SOFT = replace(SETTINGS, saturation=0.3)


def case(stable: Frames) -> tuple[Frames, np.ndarray, np.ndarray]:
    """Perturbed frames and their homes; the core radius reaches many pairs."""
    perturbed = perturb(stable, SETTINGS).without_labels()
    copies = len(perturbed)
    return perturbed, np.tile(stable.positions, (copies, 1)), np.tile(stable.cells, (copies, 1, 1))


def energies(
    frames: Frames, home: np.ndarray, home_cells: np.ndarray, settings: PerturbSettings = SETTINGS
) -> np.ndarray:
    graph = build_graph(frames, largest_core(frames.numbers, settings.core_scale))
    found = fictitious_energy(graph, torch.tensor(home), torch.tensor(home_cells), settings)
    return found.numpy()


@pytest.mark.parametrize("settings", [SETTINGS, SOFT], ids=["harmonic", "saturated"])
@pytest.mark.parametrize("stable", [diamond(), water()], ids=["crystal", "molecule"])
def test_forces_are_the_slope_of_the_energy(stable: Frames, settings: PerturbSettings) -> None:
    frames, home, cells = case(stable)
    forces = fictitious_response(frames, home, cells, settings).forces.numpy()
    step = 1e-5
    for atom in range(0, frames.n_atoms, 3):
        for axis in range(3):
            moved = []
            for sign in (1, -1):
                positions = np.array(frames.positions)
                positions[atom, axis] += sign * step
                shifted = replace(frames, positions=positions)
                moved.append(energies(shifted, home, cells, settings).sum())
            assert forces[atom, axis] == pytest.approx(
                -(moved[0] - moved[1]) / (2 * step), abs=1e-7
            )


@pytest.mark.parametrize("settings", [SETTINGS, SOFT], ids=["harmonic", "saturated"])
def test_stress_is_the_slope_of_the_energy_along_strain(settings: PerturbSettings) -> None:
    frames, home, cells = case(diamond())
    stress = fictitious_response(frames, home, cells, settings).stress.numpy()
    step = 1e-5
    for i in range(3):
        for j in range(3):
            moved = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += 0.5 * sign * step
                strain[j, i] += 0.5 * sign * step
                strained = replace(
                    frames, positions=frames.positions @ strain, cells=frames.cells @ strain
                )
                moved.append(energies(strained, home, cells, settings))
            slope = (moved[0] - moved[1]) / (2 * step) / frames.volumes
            np.testing.assert_allclose(stress[:, i, j], slope, atol=1e-7)


def test_pure_displacement_pulls_home_with_unit_springs() -> None:
    settings = PerturbSettings(
        samples=3, displacement_levels=(1.0,), strain=0, strain_levels=1, shear=0
    )
    found = perturb(diamond(), settings)
    moved = found.positions - np.tile(diamond().positions, (3, 1))
    assert np.abs(moved).max() <= 0.025
    np.testing.assert_allclose(found.atom["force"], -moved, atol=1e-12)
    springs = np.einsum("sai,saj->sij", moved.reshape(3, 8, 3), moved.reshape(3, 8, 3))
    np.testing.assert_allclose(
        found.structure["stress"], springs / found.volumes[:, None, None], atol=1e-12
    )


def test_pure_strain_gives_hookes_law() -> None:
    settings = PerturbSettings(
        samples=3, displacement_levels=(0.0,), strain=1e-4, strain_levels=3, shear=0
    )
    found = perturb(diamond(), settings)
    np.testing.assert_allclose(found.atom["force"], 0, atol=1e-12)
    # Isotropic strain: stress = E / (1 - 2 nu) strain on the diagonal.
    for strain, stress in zip(found.structure["strain"], found.structure["stress"], strict=True):
        np.testing.assert_allclose(stress, strain / 0.4 * np.eye(3), atol=1e-7)


def test_the_stable_structure_does_not_respond() -> None:
    settings = PerturbSettings(
        samples=1, displacement_levels=(0.0,), strain=0, strain_levels=1, shear=0
    )
    found = perturb(diamond(), settings)
    assert np.abs(found.atom["force"]).max() == 0
    assert np.abs(found.structure["stress"]).max() < 1e-12
    assert found.structure["energy"][0] == pytest.approx(0)


def test_every_close_neighbour_repels() -> None:
    """An atom between two others feels both; the sum keeps all."""
    frames = Frames.build([[6, 6, 6]], [[[0, 0, 0], [0.4, 0, 0], [0.4, 0.5, 0]]])
    settings = PerturbSettings(core_scale=0.5)
    found = fictitious_response(frames, frames.positions, frames.cells, settings)

    def slope(r: float) -> float:
        return 4 * r / 0.75**2 * (1 - r**2 / 0.75**2)

    # Pairs 0-1 (0.4 A), 1-2 (0.5 A), 0-2 (0.64 A).
    assert found.forces[1, 0] == pytest.approx(slope(0.4))
    assert found.forces[1, 1] == pytest.approx(-slope(0.5))
    diagonal = np.hypot(0.4, 0.5)
    assert found.forces[0, 0] == pytest.approx(-slope(0.4) - slope(diagonal) * 0.4 / diagonal)
    total = sum(
        float(core_energy(torch.tensor(r**2), torch.tensor(0.75), 1.0))
        for r in (0.4, 0.5, diagonal)
    )
    assert float(found.energy[0]) == pytest.approx(total)


def test_a_copy_depends_on_seed_parent_and_number_alone() -> None:
    both = concatenate([diamond(), diamond()])
    few = perturb(diamond(), PerturbSettings(samples=3, seed=5))
    many = perturb(both, PerturbSettings(samples=11, seed=5))
    np.testing.assert_array_equal(few.positions, many.select([0, 1, 2]).positions)
    np.testing.assert_array_equal(few.atom["force"], many.select([0, 1, 2]).atom["force"])
    assert many.structure["parent"].tolist() == [0] * 6 + [1] * 5
    other = perturb(diamond(), PerturbSettings(samples=3, seed=6))
    assert np.abs(other.positions - few.positions).max() > 1e-3


def test_every_structure_gets_at_least_one_copy() -> None:
    found = perturb(concatenate([diamond()] * 5), PerturbSettings(samples=2))
    assert found.structure["parent"].tolist() == [0, 1, 2, 3, 4]


def test_levels_and_strains_are_dealt_evenly() -> None:
    settings = PerturbSettings(samples=24, displacement_levels=(1.0, 2.0, 4.0), strain_levels=4)
    found = perturb(diamond(), settings)
    pairs = list(zip(found.structure["level"], found.structure["strain"], strict=True))
    assert len(set(pairs)) == 12
    assert all(pairs.count(pair) == 2 for pair in set(pairs))


def test_molecules_have_no_stress_nor_strain() -> None:
    found = perturb(water(), PerturbSettings(samples=5))
    assert np.abs(found.structure["stress"]).max() == 0
    assert np.isnan(found.structure["reference_volume"]).all()
    assert not found.pbc.any()


def test_force_noise_grows_with_the_root_of_the_level() -> None:
    base = PerturbSettings(samples=200, displacement_levels=(4.0,), seed=1)
    clean = perturb(water(), base)
    noisy = perturb(water(), replace(base, force_noise=0.01))
    noise = noisy.atom["force"] - clean.atom["force"]
    assert noise.std() == pytest.approx(0.02, rel=0.1)
    np.testing.assert_array_equal(noisy.positions, clean.positions)


def test_supercells_are_compact_and_equal() -> None:
    stable = bulk("C", "diamond", a=3.567)
    numbers, positions, cell = repeat(stable.numbers, stable.positions, stable.cell.array, 16)
    assert len(numbers) == 16
    wanted = stable.repeat((2, 2, 2))
    np.testing.assert_allclose(cell, wanted.cell.array)
    np.testing.assert_allclose(np.sort(positions, 0), np.sort(wanted.positions, 0), atol=1e-12)


def test_half_periodic_structures_are_refused() -> None:
    atoms = bulk("C", "diamond", a=3.567)
    slab = Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array], [[1, 1, 0]])
    with pytest.raises(FramesError, match="structure 0 is periodic in only some directions"):
        perturb(slab, PerturbSettings())


def test_exchanged_atoms_go_to_the_nearer_home() -> None:
    """Two like atoms that changed places are at home; an unlike one is not."""
    numbers = np.array([6, 6, 8], np.uint8)
    home = np.array([[0.0, 0, 0], [2, 0, 0], [0, 2, 0]])
    moved = home[[1, 0, 2]] + 0.1
    found = nearest_homes(numbers, moved, np.zeros((3, 3)), home, np.zeros((3, 3)), False)
    np.testing.assert_allclose(found, home[[1, 0, 2]])
    numbers[1] = 8
    found = nearest_homes(numbers, moved, np.zeros((3, 3)), home, np.zeros((3, 3)), False)
    assert np.allclose(found[0], home[0])


@pytest.mark.parametrize("seed", range(5))
def test_homes_are_found_across_cell_borders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    stable = diamond()
    cell = stable.cells[0] @ (np.eye(3) + 0.1 * (rng.random((3, 3)) - 0.5))
    carried = stable.positions @ np.linalg.solve(stable.cells[0], cell)
    order, images = rng.permutation(8), rng.integers(-2, 3, (8, 3))
    positions = carried[order] + images @ cell + rng.normal(scale=0.1, size=(8, 3))
    found = nearest_homes(stable.numbers, positions, cell, stable.positions, stable.cells[0], True)
    np.testing.assert_allclose(found, stable.positions[order] + images @ stable.cells[0], atol=1e-9)


def test_no_cell_is_mirrored_or_flattened() -> None:
    extreme = PerturbSettings(samples=2000, strain=0.5, strain_levels=2, shear=0.5, match=False)
    found = perturb(diamond(), extreme)
    ratio = np.linalg.det(found.cells) / np.linalg.det(diamond().cells[0])
    assert (ratio > 0.1 * (1 + found.structure["strain"]) ** 3).all()


def test_homes_do_not_depend_on_the_choice_of_the_cell() -> None:
    stable = diamond()
    settings = PerturbSettings(samples=40, min_atoms=1, displacement=0.1)
    skew = np.array([[1, 0, 0], [3, 1, 0], [3, 0, 1.0]]) @ stable.cells[0]
    other = Frames.build([stable.numbers], [stable.positions], [skew])
    wanted, found = perturb(stable, settings), perturb(other, settings)
    np.testing.assert_allclose(found.structure["energy"], wanted.structure["energy"])
    np.testing.assert_allclose(found.atom["force"], wanted.atom["force"], atol=1e-9)


def test_homes_of_many_atoms_take_little_memory() -> None:
    rng = np.random.default_rng(0)
    home, cell = rng.random((400, 3)) * 16, 16 * np.eye(3)
    tracemalloc.start()
    nearest_homes(rng.integers(6, 8, 400), home, cell, home, cell, True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


def test_homes_of_too_many_atoms_name_what_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: np.ndarray) -> None:
        raise MemoryError("Unable to allocate 11.9 GiB")

    monkeypatch.setattr(scipy.optimize, "linear_sum_assignment", refuse)
    with pytest.raises(OutOfMemoryError, match=r"8 atoms of C .* set 'match' to false") as told:
        perturb(diamond(), PerturbSettings(samples=1))
    assert "min_atoms" in str(told.value)
    assert "batch_atoms" not in str(told.value)


def test_chunks_change_nothing_and_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which copies are made in one go; large ones are few, so that a stop is not long in coming."""
    stable = concatenate([diamond(), water()])
    settings = PerturbSettings(samples=30, min_atoms=16)
    told: list[int] = []
    whole = perturb(stable, settings, lambda done, _: told.append(done))
    assert told == [30]
    monkeypatch.setattr(response, "_CHUNK_ATOMS", 40)
    told.clear()
    parts = perturb(stable, settings, lambda done, _: told.append(done))
    assert told == [2, 4, 6, 8, 10, 12, 14, 23, 30]
    for name, values in whole.structure.items():
        np.testing.assert_array_equal(parts.structure[name], values)
    for name, values in whole.atom.items():
        np.testing.assert_array_equal(parts.atom[name], values)


def test_matching_shortens_far_displacements_and_leaves_near_ones() -> None:
    def energies_of(level: float, *, match: bool) -> np.ndarray:
        settings = PerturbSettings(
            samples=20, displacement_levels=(level,), strain_levels=1, core_strength=0, match=match
        )
        return perturb(diamond(), settings).structure["energy"]

    np.testing.assert_array_equal(energies_of(4.0, match=True), energies_of(4.0, match=False))
    far, plain = energies_of(40.0, match=True), energies_of(40.0, match=False)
    assert (far <= plain + 1e-9).all()
    assert far.mean() < 0.9 * plain.mean()


def test_a_saturated_pull_is_bounded_and_harmonic_near_home() -> None:
    squares = torch.tensor([1e-6, 100.0], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(spring_energy(squares, SOFT).sum(), squares)
    pull = 2 * slope * squares.detach().sqrt()
    assert float(pull[0]) == pytest.approx(1e-3, rel=1e-4)
    assert float(pull[1]) == pytest.approx(0.3, rel=1e-3)


@pytest.mark.parametrize("distribution", ["uniform", "normal"])
def test_the_label_noise_is_the_rms_displacement(distribution: str) -> None:
    settings = PerturbSettings(
        samples=300,
        displacement_levels=(2.0, 8.0),
        strain=0,
        strain_levels=1,
        shear=0,
        match=False,
        distribution=distribution,
    )
    found = perturb(diamond(), settings)
    moved = found.positions - np.tile(diamond().positions, (300, 1))
    for level in (2.0, 8.0):
        some = found.structure["level"] == level
        rms = np.sqrt(np.square(moved[some[found.batch]]).mean())
        assert found.structure["noise"][some] == pytest.approx(rms, rel=0.03)
    bounded = np.abs(moved).max() <= 0.5 * 8 * settings.displacement
    assert bounded == (distribution == "uniform")
