"""Batched FIRE against ASE's, conservation laws, and structures that come and go."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import molecule
from ase.optimize import FIRE

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.relaxation import CONVERGED, EXPLODED, OUT_OF_STEPS, RelaxStatus, driver, relax
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import starts

FIXED = (Stage(cell="fixed", fmax=1e-3, max_steps=60),)


def test_equals_ases_fire_step_for_step(potential: Potential) -> None:
    frames = starts(potential)
    found = relax(frames, potential, (replace(FIXED[0], optimizer="fire"),))
    for index in range(len(frames)):
        part = frames[index]
        atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=True)
        atoms.calc = ResponseMatchingCalculator(potential)
        optimizer = FIRE(atoms, logfile=None)
        optimizer.run(fmax=1e-3, steps=60)
        assert found.structure["steps"][index] == optimizer.nsteps
        np.testing.assert_allclose(found[index].positions, atoms.positions, atol=1e-8)
        assert found.structure["energy"][index] == pytest.approx(atoms.get_potential_energy())


@pytest.mark.parametrize("batch_atoms", [1, 20, 1000])
@pytest.mark.parametrize("cell", ["fixed", "shape", "free"])
def test_company_does_not_matter(potential: Potential, cell: str, batch_atoms: int) -> None:
    frames = starts(potential)
    stages = (Stage(cell=cell, max_steps=25),)
    together = relax(frames, potential, stages)
    other = relax(frames, potential, stages, batch_atoms=batch_atoms)
    assert together.structure["index"].tolist() == list(range(8))
    np.testing.assert_allclose(other.positions, together.positions, atol=1e-8)
    np.testing.assert_allclose(other.cells, together.cells, atol=1e-8)


def test_neighbour_lists_with_and_without_skin_agree(potential: Potential) -> None:
    frames = starts(potential)
    stages = (Stage(cell="free", max_steps=40),)
    fresh = relax(frames, potential, stages, skin=0.0)
    skin = relax(frames, potential, stages, skin=0.8)
    np.testing.assert_allclose(skin.positions, fresh.positions, atol=1e-8)


def test_results_belong_to_the_final_structure(potential: Potential) -> None:
    frames = starts(potential)
    found = relax(frames, potential, (Stage(cell="shape", fmax=5e-3, max_steps=400),))
    fresh = potential(build_graph(found, potential.cutoff))
    np.testing.assert_allclose(found.structure["energy"], fresh.energy, atol=1e-9)
    largest = np.array(
        [
            torch.linalg.vector_norm(fresh.forces[a:b], dim=1).max()
            for a, b in zip(found.ptr[:-1], found.ptr[1:], strict=True)
        ]
    )
    assert (found.structure["fmax"] >= largest - 1e-9).all()
    converged = found.structure["status"] == CONVERGED
    assert converged.any()
    assert (found.structure["fmax"][converged] < 5e-3).all()
    assert (found.structure["steps"][~converged] == 400).all()


def test_shape_keeps_the_volume_and_lowers_the_shear_stress(potential: Potential) -> None:
    frames = starts(potential)
    found = relax(frames, potential, (Stage(cell="shape", fmax=1e-3, max_steps=300),))
    np.testing.assert_allclose(found.volumes, frames.volumes, rtol=1e-9)
    done = found.structure["status"] == CONVERGED
    assert done.any()
    stress = potential(build_graph(found, potential.cutoff)).stress.numpy()
    deviator = stress - np.trace(stress, axis1=1, axis2=2)[:, None, None] / 3 * np.eye(3)
    virial = np.abs(deviator * (found.volumes / found.counts)[:, None, None])
    assert virial[done].max() < 1e-3


def test_free_removes_all_stress_and_the_energy_falls(potential: Potential) -> None:
    frames = starts(potential)
    before = potential(build_graph(frames, potential.cutoff)).energy.numpy()
    found = relax(frames, potential, (Stage(cell="free", fmax=1e-3, max_steps=400),))
    done = found.structure["status"] == CONVERGED
    assert done.any()
    stress = potential(build_graph(found, potential.cutoff)).stress.numpy()
    virial = np.abs(stress * (found.volumes / found.counts)[:, None, None])
    assert virial[done].max() < 1e-3
    assert (found.structure["energy"] < before).all()


def test_float32_lands_in_the_same_place(potential: Potential) -> None:
    frames = starts(potential)
    stages = (Stage(cell="shape", fmax=1e-3, max_steps=300),)
    double = relax(frames, potential, stages)
    single = relax(frames, Potential.to(potential, torch.float32), stages)
    potential.double()
    same = np.abs(single.structure["energy"] - double.structure["energy"]) < 1e-3
    assert same.mean() >= 0.75


def test_jitter_is_tied_to_the_start(potential: Potential) -> None:
    frames = starts(potential)
    stages = (
        Stage(cell="fixed", max_steps=5),
        Stage(kind="jitter", amplitude=0.3),
        Stage(cell="fixed", max_steps=5),
    )
    together = relax(frames, potential, stages)
    alone = relax(frames[5], potential, stages)
    np.testing.assert_allclose(alone.positions, together[5].positions, atol=1e-9)
    calm = relax(frames, potential, (stages[0], stages[2]))
    assert np.abs(calm.positions - together.positions).max() > 0.05
    assert (together.structure["steps"] <= 10).all()


def test_jitter_alone_moves_by_its_amplitude(potential: Potential) -> None:
    frames = starts(potential)
    found = relax(frames, potential, (Stage(kind="jitter", amplitude=0.2), Stage(max_steps=0)))
    moves = found.positions - frames.positions
    assert 0.15 < np.abs(moves).max() <= 0.2
    assert (found.structure["status"] == OUT_OF_STEPS).all()


def test_molecules_and_crystals_in_one_batch(potential: Potential) -> None:
    crystal = starts(potential, 2).without_labels()
    part = molecule("C2H6")[:2]
    alone = Frames.build([part.numbers], [part.positions])
    found = relax(concatenate([crystal, alone]), potential, (Stage(cell="free", max_steps=50),))
    assert len(found) == 3
    np.testing.assert_array_equal(found.cells[2], 0)
    other = relax(alone, potential, (Stage(cell="fixed", max_steps=50),))
    np.testing.assert_allclose(found[2].positions, other.positions, atol=1e-9)


def test_an_exploded_structure_leaves_alone(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = starts(potential, 4)
    whole = Potential.forward

    def wild(self: Potential, graph: Graph, **kwargs: Any) -> Prediction:
        """Nothing else than a broken force can throw a structure off."""
        found = whole(self, graph, **kwargs)
        broken = (graph.cells - torch.as_tensor(frames.cells[2])).abs().amax((1, 2)) < 1e-9
        forces = torch.where(broken[graph.batch, None], torch.nan, found.forces)
        return replace(found, forces=forces)

    monkeypatch.setattr(Potential, "forward", wild)
    found = relax(frames, potential, FIXED)
    assert found.structure["status"].tolist().count(EXPLODED) == 1
    assert found.structure["status"][2] == EXPLODED
    np.testing.assert_array_equal(found[2].positions, frames[2].positions)
    monkeypatch.undo()
    others = relax(frames.select([0, 1, 3]), potential, FIXED)
    np.testing.assert_allclose(found.select([0, 1, 3]).positions, others.positions, atol=1e-8)


def test_a_stop_keeps_what_is_finished(potential: Potential) -> None:
    frames = starts(potential, 20)
    calls: list[RelaxStatus] = []
    found = relax(
        frames,
        potential,
        FIXED,
        batch_atoms=30,
        on_step=calls.append,
        should_stop=lambda: "walltime" if calls and calls[-1].finished >= 6 else None,
    )
    assert 6 <= len(found) < 20
    whole = relax(frames, potential, FIXED)
    rows = found.structure["index"]
    np.testing.assert_allclose(found.positions, whole.select(rows).positions, atol=1e-8)
    assert all(a.finished <= b.finished for a, b in pairwise(calls))


def test_the_batch_stays_within_its_limit(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = starts(potential, 20)
    sizes = []
    step = driver._Relaxation._step

    def watched(self: Any, batch: Any) -> Any:
        sizes.append(len(batch.numbers))
        return step(self, batch)

    monkeypatch.setattr(driver._Relaxation, "_step", watched)
    relax(frames, potential, FIXED, batch_atoms=40)
    assert max(sizes) <= 40
    # Refilled along the way: full for most of it.
    assert np.mean(np.array(sizes) > 20) > 0.5
