"""L-BFGS: the dense formula, its memory, and what FIRE finds in fewer steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import CONVERGED, lbfgs, relax
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.entry import enter
from aiida_rm.engine.relaxation.penalty import Penalty
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import starts

STAGE = Stage(cell="free", fmax=1e-3, max_steps=400)


def well(scale: float) -> tuple[torch.Tensor, Batch]:
    """A matrix that is positive, and a molecule of four atoms to go down in it."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    matrix = torch.eye(12, dtype=torch.float64) + root @ root.T
    positions = scale * torch.randn(4, 3, generator=generator, dtype=torch.float64).numpy()
    frames = Frames.build([[6] * 4], [positions])
    return matrix, enter(frames, [0], torch.float64, torch.device("cpu"))


def down(matrix: torch.Tensor, batch: Batch, on: bool = True) -> torch.Tensor:
    """One step; the force it was made with."""
    force = -(matrix @ batch.positions.flatten()).view(4, 3)
    moves, _ = lbfgs.step(batch, force, torch.zeros(1, 3, 3, dtype=force.dtype), torch.tensor([on]))
    batch.positions = batch.positions + moves
    return force


def test_equals_the_dense_formula() -> None:
    """As long as all steps are remembered; the first estimate is scaled anew at each step."""
    matrix, batch = well(0.01)
    places, slopes = [batch.positions.flatten()], []
    for _ in range(lbfgs.MEMORY + 1):
        slopes.append(-down(matrix, batch).flatten())
        places.append(batch.positions.flatten())
    one = torch.eye(12, dtype=torch.float64)
    for step in range(1, lbfgs.MEMORY + 1):
        pairs = [(places[n + 1] - places[n], slopes[n + 1] - slopes[n]) for n in range(step)]
        s, y = pairs[-1]
        inverse = one * (s @ y) / (y @ y)
        for s, y in pairs:
            left = one - torch.outer(s, y) / (s @ y)
            inverse = left @ inverse @ left.T + torch.outer(s, s) / (s @ y)
        wanted = -inverse @ slopes[step]
        assert wanted.view(4, 3).norm(dim=1).max() < 0.2
        torch.testing.assert_close(places[step + 1] - places[step], wanted)


def test_no_atom_moves_further_than_allowed_and_who_waits_forgets_nothing() -> None:
    matrix, batch = well(10.0)
    for _ in range(6):
        before = batch.positions
        down(matrix, batch)
        assert (batch.positions - before).norm(dim=1).max() == pytest.approx(0.2)
    _, other = well(10.0)
    for on in (True, True, False, True, False, False, True, True, True):
        place, weights = other.positions, other.weights
        down(matrix, other, on)
        if not on:
            assert torch.equal(other.positions, place)
            assert torch.equal(other.weights, weights)
    assert torch.equal(other.positions, batch.positions)


def test_a_concave_place_is_left_downhill() -> None:
    """At the top of a hill the curvature is negative, and a Newton step would go up."""
    _, batch = well(0.05)
    hill = -torch.eye(12, dtype=torch.float64)
    heights = []
    for _ in range(8):
        heights.append(float(-0.5 * batch.positions.square().sum()))
        down(hill, batch)
    assert np.all(np.diff(heights) < 0)


def test_finds_the_minima_of_fire_in_fewer_steps(potential: Potential) -> None:
    frames = starts(potential)
    found = relax(frames, potential, (STAGE,))
    by_fire = relax(frames, potential, (replace(STAGE, optimizer="fire"),))
    both = (found.structure["status"] == CONVERGED) & (by_fire.structure["status"] == CONVERGED)
    assert both.sum() >= 4
    assert (found.structure["status"] == CONVERGED).sum() >= 6
    steps, others = (one.structure["steps"][both].sum() for one in (found, by_fire))
    assert steps < 0.7 * others
    before = potential(build_graph(frames, potential.cutoff)).energy.numpy()
    assert (found.structure["energy"] < before).all()


def test_different_optimizers_in_one_schedule(potential: Potential) -> None:
    """Structures of one batch are in different stages; each goes by its own rules."""
    frames = starts(potential)
    stages = (
        Stage(optimizer="fire", cell="fixed", fmax=0.05, max_steps=20),
        Stage(kind="langevin", cell="fixed", temperature=1e-3, max_steps=7),
        Stage(kind="hop", cycles=2, amplitude=0.2, fmax=0.01, max_steps=30, optimizer="fire"),
        Stage(cell="free", max_steps=30),
    )
    together = relax(frames, potential, stages)
    for index in (0, 3, 7):
        alone = relax(frames[index], potential, stages)
        np.testing.assert_allclose(alone.positions, together[index].positions, atol=1e-7)
        assert alone.structure["steps"][0] == together.structure["steps"][index]


def test_a_kink_does_not_stop_it(potential: Potential) -> None:
    """A penalty whose slope jumps: what was learnt on one side is wrong on the other."""

    def wall(graph: Graph) -> Penalty:
        beyond = graph.positions[:, 0] > 1.0
        push = torch.zeros_like(graph.positions)
        push[:, 0] = torch.where(beyond, -1.0, 0.0)
        cost = torch.where(beyond, graph.positions[:, 0] - 1.0, 0.0)
        energy = graph.cells.new_zeros(graph.n_structures).index_add(0, graph.batch, cost)
        return Penalty(energy=energy, forces=push, virial=torch.zeros_like(graph.cells))

    found = relax(starts(potential), potential, (STAGE,), penalty=wall)
    assert np.isfinite(found.structure["energy"]).all()
    assert np.isfinite(found.positions).all()
