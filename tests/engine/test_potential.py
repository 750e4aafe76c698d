"""Symmetries, derivatives, overlap and files of the potential, untrained (random weights)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, make_supercell, molecule
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.elements import RADII
from aiida_rm.engine.errors import DiskError, PotentialError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import (
    EquivariantHyperparameters,
    Hyperparameters,
    LocalHyperparameters,
    Potential,
    Prediction,
)
from aiida_rm.engine.potential.core import core_radii, largest_core
from aiida_rm.engine.potential.harmonics import (
    gaunt,
    harmonics_from_monomials,
    monomials,
    solid_harmonics,
    triples,
)
from aiida_rm.engine.potential.radial import bessel, bessel_from_cosines

SHAPES: dict[str, Hyperparameters] = {
    "local": LocalHyperparameters(4.0, 4, 5, 3, (8, 6), 3),
    "equivariant": EquivariantHyperparameters(4.0, 8, 2, 5),
}


def make_potential(architecture: str = "local") -> Potential:
    torch.manual_seed(0)
    potential = Potential(SHAPES[architecture], 0.5, 1.0)
    # Everything that training could set is set.
    for weight in potential.network.trained():
        torch.nn.init.normal_(weight, std=0.3)
    potential.elements = ("H", "C", "O")
    potential.notes = {"composition": {"C": 1.0}, "elemental_volumes": {"C": 5.6}}
    return potential.double()


POTENTIALS = {name: make_potential(name) for name in SHAPES}
POTENTIAL = POTENTIALS["local"]
both = pytest.mark.parametrize("potential", POTENTIALS.values(), ids=POTENTIALS)


def predict(*atoms: Atoms, potential: Potential = POTENTIAL) -> Prediction:
    frames = Frames.build(
        [a.numbers for a in atoms],
        [a.positions for a in atoms],
        np.stack([a.cell.array for a in atoms]),
        np.stack([a.pbc for a in atoms]),
    )
    return potential(build_graph(frames, potential.cutoff))


def crystal(seed: int = 0) -> Atoms:
    atoms = bulk("C", "diamond", a=3.567, cubic=True)
    atoms.numbers = [6, 8, 1, 6, 6, 8, 1, 6]
    rng = np.random.default_rng(seed)
    strain = np.eye(3) + 0.1 * (rng.random((3, 3)) - 0.5)
    atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
    atoms.positions += rng.normal(scale=0.15, size=(8, 3))
    return atoms


def ethanol(seed: int = 0) -> Atoms:
    atoms = molecule("CH3CH2OH")
    atoms.positions += np.random.default_rng(seed).normal(scale=0.1, size=(9, 3))
    return atoms


@both
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), periodic=st.booleans())
def test_rotation_translation_permutation(potential: Potential, seed: int, periodic: bool) -> None:
    rng = np.random.default_rng(seed)
    atoms = crystal(seed) if periodic else ethanol(seed)
    found = predict(atoms, potential=potential)
    turn = Rotation.random(random_state=seed).as_matrix() * rng.choice([-1, 1])
    order = rng.permutation(len(atoms))
    turned = atoms[order]
    turned.set_cell(atoms.cell.array @ turn)
    turned.positions = atoms.positions[order] @ turn + rng.uniform(-9, 9, 3)
    other = predict(turned, potential=potential)
    torch.testing.assert_close(other.energy, found.energy)
    np.testing.assert_allclose(other.forces, found.forces.numpy()[order] @ turn, atol=1e-9)
    np.testing.assert_allclose(other.stress[0], turn.T @ found.stress[0].numpy() @ turn, atol=1e-10)


@both
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_periodic_images_and_other_cells(potential: Potential, seed: int) -> None:
    rng = np.random.default_rng(seed)
    atoms = crystal(seed)
    found = predict(atoms, potential=potential)
    moved = atoms.copy()
    moved.positions += rng.integers(-3, 4, (8, 3)) @ atoms.cell.array
    torch.testing.assert_close(predict(moved, potential=potential).energy, found.energy)
    # The same lattice by other vectors, and a supercell.
    other = make_supercell(atoms, [[1, 1, 0], [0, 1, 0], [0, -1, 1]])
    torch.testing.assert_close(predict(other, potential=potential).energy, found.energy)
    double = predict(atoms.repeat((2, 1, 1)), potential=potential)
    torch.testing.assert_close(double.energy, 2 * found.energy)
    torch.testing.assert_close(double.stress, found.stress)
    np.testing.assert_allclose(double.forces[:8], found.forces, atol=1e-9)


@both
@pytest.mark.parametrize("atoms", [crystal(), ethanol()], ids=["crystal", "molecule"])
def test_forces_against_finite_differences(potential: Potential, atoms: Atoms) -> None:
    forces = predict(atoms, potential=potential).forces.numpy()
    step = 1e-4
    for index in range(len(atoms)):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[index, axis] += sign * step
                energies.append(float(predict(moved, potential=potential).energy[0]))
            slope = (energies[0] - energies[1]) / (2 * step)
            assert forces[index, axis] == pytest.approx(-slope, abs=1e-6)


@both
def test_stress_against_finite_differences(potential: Potential) -> None:
    atoms = crystal()
    stress = predict(atoms, potential=potential).stress[0].numpy()
    step = 1e-4
    for i in range(3):
        for j in range(i, 3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[i, j] += 0.5 * sign * step
                strain[j, i] += 0.5 * sign * step
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain, scale_atoms=True)
                energies.append(float(predict(moved, potential=potential).energy[0]))
            slope = (energies[0] - energies[1]) / (2 * step) / atoms.get_volume()
            assert stress[i, j] == pytest.approx(slope, abs=1e-6)


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-6, 1e-3, 0.05, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("architecture", SHAPES)
def test_overlapping_atoms_stay_finite(
    architecture: str, distance: float, dtype: torch.dtype
) -> None:
    potential = make_potential(architecture).to(dtype)
    frames = Frames.build([[6, 8, 1]], [[[0, 0, 0], [distance, 0, 0], [0, distance / 2, 1.1]]])
    graph = build_graph(frames, potential.cutoff, dtype=dtype)
    found = potential(graph, create_graph=True)
    assert torch.isfinite(found.forces).all()
    assert float(found.forces.detach().abs().max()) < 1e3
    found.forces.square().sum().backward()
    slopes = [p.grad for p in potential.network.trained() if p.grad is not None]
    assert all(torch.isfinite(slope).all() for slope in slopes)
    assert max(float(slope.abs().max()) for slope in slopes) < 1e5


@both
def test_nothing_learnt_undoes_the_core(potential: Potential) -> None:
    """Within half its radius a pair feels the core alone, whatever the weights are."""
    rc = 0.5 * 2 * 0.75  # two carbons
    for r in (0.1, 0.3, 0.37):
        found = predict(Atoms("C2", positions=[[0, 0, 0], [r, 0, 0]]), potential=potential)
        slope = 4 * r / rc**2 * (1 - r**2 / rc**2)
        np.testing.assert_allclose(found.forces.numpy(), [[-slope, 0, 0], [slope, 0, 0]], atol=1e-9)
    near = predict(Atoms("C2", positions=[[0, 0, 0], [0.6, 0, 0]]), potential=potential)
    core_alone = 4 * 0.6 / rc**2 * (1 - 0.6**2 / rc**2)
    assert abs(float(near.forces[1, 0]) - core_alone) > 1e-6


def test_the_core_depends_on_the_elements() -> None:
    numbers, edges = torch.tensor([1, 55]), torch.tensor([[0, 0, 1], [0, 1, 1]])
    radii = core_radii(numbers, edges, 0.5, torch.tensor(RADII))
    assert radii.tolist() == pytest.approx([0.32, 1.32, 2.32])
    assert largest_core(np.array([1, 55]), 0.5) == pytest.approx(2.32)


def test_wider_networks_are_the_same_function() -> None:
    """An element channel more changes nothing before it is trained."""
    torch.manual_seed(1)
    potential = make_potential()
    wide = make_potential()
    wide.network = potential.network.widened(5).double()  # type: ignore[operator]
    assert wide.n_parameters > potential.n_parameters
    torch.testing.assert_close(
        predict(crystal(), potential=wide).forces, predict(crystal(), potential=potential).forces
    )


@pytest.mark.parametrize("architecture", SHAPES)
def test_every_element_is_known(architecture: str) -> None:
    potential = make_potential(architecture)
    for symbol in ("H", "Og"):
        found = predict(Atoms(f"{symbol}2", positions=[[0, 0, 0], [2, 0, 0]]), potential=potential)
        assert torch.isfinite(found.forces).all()


@both
def test_energy_is_smooth_at_the_cutoff(potential: Potential) -> None:
    """Value and two derivatives vanish: no step in the forces when an atom comes in."""

    def energy(r: float) -> float:
        return float(
            predict(Atoms("C2", positions=[[0, 0, 0], [r, 0, 0]]), potential=potential).energy[0]
        )

    alone = 2 * float(predict(Atoms("C"), potential=potential).energy[0])
    assert energy(4.0 + 1e-9) == pytest.approx(alone, abs=1e-12)
    assert abs(energy(4.0 - 1e-3) - alone) < 1e-8


@both
def test_lone_atom_and_one_atom_cell(potential: Potential) -> None:
    lone = predict(Atoms("C"), potential=potential)
    assert torch.isfinite(lone.energy).all()
    assert float(lone.forces.abs().max()) == 0
    cell = predict(bulk("C", "sc", a=2.0), potential=potential)
    assert float(cell.forces.abs().max()) < 1e-9
    assert float(cell.stress.abs().max()) > 0


@both
def test_a_batch_is_its_parts(potential: Potential) -> None:
    parts = [crystal(1), ethanol(2), crystal(3), Atoms("C")]
    together = predict(*parts, potential=potential)
    alone = [predict(part, potential=potential) for part in parts]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in alone]))
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in alone]))
    torch.testing.assert_close(together.stress, torch.cat([p.stress for p in alone]))
    assert float(together.stress[1].abs().max()) == 0


@both
def test_elements_differ(potential: Potential) -> None:
    atoms = ethanol()
    swapped = atoms.copy()
    swapped.numbers[0] = 8
    assert (
        abs(
            float(
                predict(atoms, potential=potential).energy[0]
                - predict(swapped, potential=potential).energy[0]
            )
        )
        > 1e-3
    )


def test_harmonics_are_orthonormal_and_couplings_invariant() -> None:
    points = torch.from_numpy(np.random.default_rng(0).normal(size=(200_000, 3)))
    points = points / torch.linalg.vector_norm(points, dim=1, keepdim=True)
    values = solid_harmonics(points, 3)
    gram = (values.T @ values / len(points)).numpy()
    np.testing.assert_allclose(gram, np.eye(16), atol=0.02)
    assert triples(3) == [(1, 1, 2), (1, 2, 3), (2, 2, 2), (2, 3, 3)]
    turn = torch.from_numpy(Rotation.random(random_state=1).as_matrix())
    for i, j, k in triples(3):
        vectors = points[:3]
        results = []
        for some in (vectors, vectors @ turn):
            h = solid_harmonics(some, 3)
            blocks = [h[n, ell**2 : (ell + 1) ** 2].numpy() for n, ell in enumerate((i, j, k))]
            results.append(np.einsum("abc,a,b,c->", gaunt(i, j, k), *blocks))
        assert results[0] == pytest.approx(results[1])
        assert np.linalg.norm(gaunt(i, j, k)) == pytest.approx(1)


@both
def test_file_round_trip_and_equal_bytes_in_another_process(
    potential: Potential, tmp_path: Path
) -> None:
    potential.save(tmp_path / "a.safetensors")
    again = Potential.load(tmp_path / "a.safetensors")
    atoms = crystal()
    torch.testing.assert_close(
        predict(atoms, potential=again).energy,
        predict(atoms, potential=potential).energy,
        rtol=0,
        atol=0,
    )
    assert again.architecture == potential.architecture
    assert again.elements == potential.elements
    assert again.notes == potential.notes
    code = (
        "from aiida_rm.engine.potential import Potential;"
        "import sys; Potential.load(sys.argv[1]).save(sys.argv[2])"
    )
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda b: b[: len(b) // 2], "damaged"),
        (lambda _: b"", "damaged"),
        (lambda _: b"\x80\x04\x95not a potential", "damaged"),
        (
            lambda b: b.replace(b'\\"kind\\": \\"potential\\"', b'\\"kind\\": \\"potentiaI\\"'),
            "not a",
        ),
        (lambda b: b.replace(b'\\"schema\\": 1', b'\\"schema\\": 9'), "schema version 9"),
        (lambda b: b.replace(b"element_energy", b"element_enargy"), "damaged"),
        (lambda b: b[:-5] + bytes([b[-5] ^ 1]) + b[-4:], "damaged: its checksum"),
        (lambda b: b.replace(b'\\"scale\\": 0.5', b'\\"scale\\": 0.6'), "damaged: its checksum"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, damage: object, words: str) -> None:
    path = tmp_path / "p.safetensors"
    POTENTIAL.save(path)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(PotentialError, match=words):
        Potential.load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    potential = make_potential()
    potential.element_energy[3] = float("nan")
    potential.save(tmp_path / "p.safetensors")
    with pytest.raises(PotentialError, match="not finite"):
        Potential.load(tmp_path / "p.safetensors")


def test_a_potential_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with pytest.raises(DiskError, match="could not be written"):
        POTENTIAL.save(tmp_path / "nowhere" / "p.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_header_is_plain_and_says_what_is_needed() -> None:
    header = json.loads(json.dumps(POTENTIAL.header()))
    assert header["elements"] == ["H", "C", "O"]
    assert header["core"] == {"scale": 0.5, "strength": 1.0}
    assert header["n_parameters"] == sum(p.numel() for p in POTENTIAL.network.trained())


def test_calculator_agrees_and_refuses_unknown_elements(tmp_path: Path) -> None:
    POTENTIAL.save(tmp_path / "p.safetensors")
    calculator = ResponseMatchingCalculator.from_file(tmp_path / "p.safetensors")
    atoms = crystal()
    atoms.calc = calculator
    found = predict(atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(found.energy[0]))
    np.testing.assert_allclose(atoms.get_forces(), found.forces.numpy())
    np.testing.assert_allclose(atoms.get_stress(voigt=False), found.stress[0].numpy(), atol=1e-12)
    gold = bulk("Au")
    gold.calc = calculator
    with pytest.raises(PotentialError, match="never saw Au; it was trained on H, C, O"):
        gold.get_potential_energy()


@pytest.mark.parametrize("l_max", [0, 1, 2, 3])
def test_monomials_make_harmonics(l_max: int) -> None:
    points = torch.from_numpy(np.random.default_rng(1).normal(size=(40, 3)))
    table = torch.from_numpy(harmonics_from_monomials(l_max))
    found = (table @ monomials(points.T, l_max)).T
    torch.testing.assert_close(found, solid_harmonics(points, l_max))


@pytest.mark.parametrize("count", [1, 2, 6, 11])
def test_bessel_functions_against_their_definition(count: int) -> None:
    x = torch.linspace(0.0, 1.0, 41, dtype=torch.float64)
    orders = torch.arange(1, count + 1)
    table = torch.from_numpy(bessel_from_cosines(count))
    torch.testing.assert_close(bessel(4 * x, 4.0, table), orders * torch.sinc(orders * x[:, None]))
