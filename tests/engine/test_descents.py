"""Perturbed structures that went down on a potential, and the way home from there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from scipy.spatial.transform import Rotation

from aiida_rm.engine.descents import descending, ways_home, with_descents
from aiida_rm.engine.errors import PotentialError, SettingsError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.response import fictitious_response, perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings

POTENTIALS = Path(__file__).parents[2] / "examples" / "potentials"
SETTINGS = PerturbSettings(
    samples=24, displacement_levels=(0.0, 8.0, 16.0), descents=0.7, descent_steps=30, seed=4
)


def ethanol() -> Frames:
    atoms = molecule("CH3CH2OH")
    return Frames.build([atoms.numbers], [atoms.positions])


def salt() -> Frames:
    atoms = bulk("NaCl", "rocksalt", a=5.64)
    return Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])


def at_home(stable: Frames) -> Frames:
    """A copy that was never moved."""
    still = PerturbSettings(
        samples=1, displacement_levels=(0.0,), strain=0, strain_levels=1, shear=0, min_atoms=8
    )
    return perturb(stable, still)


def test_a_molecule_turned_mirrored_moved_and_exchanged_is_at_home() -> None:
    frames = at_home(ethanol())
    turn = Rotation.from_euler("xyz", [20, -35, 50], degrees=True).as_matrix()
    there = frames.positions @ turn @ np.diag([1.0, 1.0, -1.0]) + [0.3, -2.0, 1.0]
    like = np.flatnonzero(frames.numbers == 1)[:2]
    there[like] = there[like[::-1]]
    homes, noise, _ = ways_home(replace(frames, positions=there), SETTINGS)
    assert noise[0] < 1e-6
    np.testing.assert_allclose(homes, there, atol=1e-5)


def test_a_crystal_strained_and_moved_as_a_whole_is_at_home() -> None:
    frames = at_home(salt())
    strain = np.array([[1.05, 0.02, 0.0], [0.0, 0.97, 0.01], [0.0, 0.0, 1.0]])
    moved = replace(
        frames, positions=frames.positions @ strain + [0.4, 0.3, -0.2], cells=frames.cells @ strain
    )
    homes, noise, largest = ways_home(moved, SETTINGS)
    assert noise[0] < 1e-6
    assert largest[0] == pytest.approx(np.abs(strain @ strain.T - np.eye(3)).max() / 2, rel=0.2)
    response = fictitious_response(moved, homes, frames.structure["home_cell"], SETTINGS)
    np.testing.assert_allclose(response.forces.numpy(), 0, atol=1e-6)
    assert float(response.stress.abs().max()) > 0.01  # the cell is not at home


@pytest.mark.parametrize(
    ("stable", "file"), [(ethanol(), "qm7b"), (salt(), "mp")], ids=["molecule", "crystal"]
)
def test_what_descended_is_lower_and_the_rest_is_untouched(stable: Frames, file: str) -> None:
    potential = Potential.load(POTENTIALS / f"{file}.safetensors", dtype=torch.float64)
    before = perturb(stable, SETTINGS)
    after = with_descents(before, potential, SETTINGS)
    went = after.structure["descended"]
    assert 0 < went.sum() <= (before.structure["level"] >= 8).sum()

    def energies(frames: Frames) -> np.ndarray:
        return potential(build_graph(frames, potential.cutoff)).energy.detach().numpy()

    assert (energies(after)[went] < energies(before)[went] + 1e-9).all()
    rest = np.flatnonzero(~went)
    one, other = before.select(rest).to_arrays(), after.select(rest).to_arrays()
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)
    # Nothing pulls the whole: homes were moved to where the ways are shortest.
    net = np.add.reduceat(after.atom["force"], after.ptr[:-1])[went]
    np.testing.assert_allclose(net, 0, atol=1e-9)
    again = fictitious_response(after, after.atom["home"], after.structure["home_cell"], SETTINGS)
    np.testing.assert_allclose(after.structure["energy"], again.energy.numpy(), atol=1e-9)
    np.testing.assert_allclose(after.structure["stress"], again.stress.numpy(), atol=1e-9)


def test_a_descent_does_not_depend_on_its_company() -> None:
    potential = Potential.load(POTENTIALS / "qm7b.safetensors", dtype=torch.float64)
    before = perturb(ethanol(), SETTINGS)
    chosen = descending(before, SETTINGS)
    together = with_descents(before, potential, SETTINGS)
    alone = with_descents(
        before.select(chosen[:1]), potential, replace(SETTINGS, descents=1.0)
    ).positions
    np.testing.assert_allclose(together.select(chosen[:1]).positions, alone, atol=1e-9)


def test_the_share_counts_far_displaced_copies_and_depends_on_the_seed() -> None:
    before = perturb(ethanol(), replace(SETTINGS, samples=300))
    far = int((before.structure["level"] >= 8).sum())
    chosen = descending(before, SETTINGS)
    assert len(chosen) == pytest.approx(0.7 * far, abs=4 * np.sqrt(far * 0.21))
    assert set(chosen) != set(descending(before, replace(SETTINGS, seed=5)))
    assert len(descending(before, replace(SETTINGS, descents=0.0))) == 0
    assert len(descending(before, replace(SETTINGS, descents=1.0))) == far


def test_what_falls_into_a_hole_stays_as_it_was() -> None:
    potential = Potential.load(POTENTIALS / "qm7b.safetensors", dtype=torch.float64)
    with torch.no_grad():
        potential.element_energy -= 5.0  # all is below any response
    before = perturb(ethanol(), SETTINGS)
    after = with_descents(before, potential, SETTINGS)
    assert not after.structure["descended"].any()
    np.testing.assert_array_equal(after.positions, before.positions)


def test_elements_that_a_potential_never_saw_are_refused() -> None:
    potential = Potential.load(POTENTIALS / "diamond.safetensors")
    with pytest.raises(PotentialError, match="never seen H, O"):
        with_descents(perturb(ethanol(), SETTINGS), potential, SETTINGS)


def test_a_mixed_set_descends_together() -> None:
    both = concatenate([at_home(ethanol()).without_labels(), at_home(salt()).without_labels()])
    potential = Potential.load(POTENTIALS / "mp.safetensors", dtype=torch.float64)
    after = with_descents(perturb(both, SETTINGS), potential, SETTINGS)
    assert after.structure["descended"].any()
    assert np.isfinite(after.atom["force"]).all()


def test_fresh_copies_cannot_descend() -> None:
    with pytest.raises(SettingsError, match="'descents' of the 'recipe'"):
        parse_settings(TrainSettings, {"draw": "fresh", "recipe": {"descents": 0.5}})
