"""Basin hopping that a committee judges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import CONVERGED, EXPLODED, committee, relax
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import Formula, starts

FALL = Stage(cell="fixed", fmax=1e-3, max_steps=100)
WAY = (replace(FALL, kind="hop", amplitude=3.0, cycles=15), FALL)


def total(graph: Graph, energy: torch.Tensor) -> torch.Tensor:
    """(S,) of what each coordinate (A, 3) has."""
    return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy.sum(1))


def bowl(graph: Graph) -> torch.Tensor:
    """One minimum, at the origin."""
    return total(graph, graph.positions.square())


def false_minimum(graph: Graph) -> torch.Tensor:
    """A minimum of 0 at the origin, and one of -1 at x = 3 that the others do not know."""
    x = graph.positions
    there = (x - x.new_tensor([3.0, 0, 0])).square().sum(1)
    lower = torch.minimum(x.square().sum(1), there - 1)
    return lower.new_zeros(graph.n_structures).index_add(0, graph.batch, lower)


def points(count: int) -> Frames:
    places = np.random.default_rng(0).uniform(-1, 1, (count, 1, 3))
    return Frames.build([[1]] * count, list(places))


def test_a_false_minimum_is_outvoted() -> None:
    alone = relax(points(20), Formula(false_minimum), WAY, skin=50.0)
    assert np.isclose(alone.positions[:, 0], 3, atol=1e-2).mean() > 0.8
    members = [Formula(bowl), Formula(bowl)]
    found = relax(points(20), Formula(false_minimum), WAY, skin=50.0, members=members)
    np.testing.assert_allclose(found.positions, 0, atol=1e-2)
    # What a structure is labelled with, and how it descends, is of the potential alone.
    np.testing.assert_allclose(found.structure["energy"], 0, atol=1e-3)


def test_one_vote_does_not_outweigh_a_depth() -> None:
    """The mean of (-1, 0.5) at x = 3 is below that of (0, 0) at the origin."""

    def shallow(graph: Graph) -> torch.Tensor:
        return total(graph, graph.positions.square()) / 18

    members = [Formula(shallow)]
    found = relax(points(20), Formula(false_minimum), WAY, skin=50.0, members=members)
    assert np.isclose(found.positions[:, 0], 3, atol=1e-2).mean() > 0.8


def test_equals_change_nothing(potential: Potential) -> None:
    frames = starts(potential)
    down = Stage(cell="free", fmax=1e-2, max_steps=60)
    way = (replace(down, kind="hop", amplitude=0.6, cycles=3), down)
    alone = relax(frames, potential, way)
    found = relax(frames, potential, way, members=[potential])
    np.testing.assert_allclose(found.positions, alone.positions, atol=1e-9)
    np.testing.assert_array_equal(found.structure["steps"], alone.structure["steps"])


def test_company_does_not_matter(
    potential: Potential, other: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the others goes the way that it would have gone alone."""
    frames = starts(potential, n_atoms=(2, 8))
    down = Stage(cell="free", fmax=1e-2, max_steps=40)
    way = (replace(down, kind="hop", amplitude=0.6, cycles=3), down)
    together = relax(frames, potential, way, members=[other])
    alone = relax(frames, potential, way, members=[other], batch_atoms=1)
    monkeypatch.setattr(committee, "WAITING_SHARE", 0.5)
    waiting = relax(frames, potential, way, members=[other])
    for found in (alone, waiting):
        np.testing.assert_allclose(found.positions, together.positions, atol=1e-7)
        np.testing.assert_array_equal(found.structure["steps"], together.structure["steps"])
    own = relax(frames, potential, way)
    assert np.abs(own.positions - together.positions).max() > 0.1


def test_a_member_may_see_further(potential: Potential) -> None:
    """Its list of neighbours goes as far as its own cutoff."""
    pair = Frames.build([[6, 6]], [[[0, 0, 0], [1.4, 0, 0]]])
    seen: list[int] = []

    class Far(Formula):
        cutoff = 9.0

        def energies(self, graph: Graph) -> torch.Tensor:
            seen.append(graph.edge_index.shape[1])
            return super().energies(graph)

    far = replace(WAY[0], cycles=2, moves=("jitter",), max_steps=0, amplitude=1e-6)
    apart = replace(pair, positions=np.array([[0, 0, 0], [8.0, 0, 0]]))
    relax(apart, potential, (far, replace(FALL, max_steps=0)), skin=0.1, members=[Far(bowl)])
    assert set(seen) == {2}


@pytest.mark.parametrize("value", [torch.nan, -1e6])
def test_what_a_member_cannot_judge_is_taken_back(value: float) -> None:
    """Beyond x = 2 a member knows nothing, or has a hole."""

    def limited(graph: Graph) -> torch.Tensor:
        beyond = graph.positions[:, 0] > 2
        energy = torch.where(beyond, value, graph.positions.square().sum(1))
        return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)

    members = [Formula(limited)]
    found = relax(points(20), Formula(false_minimum), WAY, skin=50.0, floor=-5.0, members=members)
    assert (found.structure["status"] == CONVERGED).all()
    np.testing.assert_allclose(found.positions, 0, atol=1e-2)
    there = Frames.build([[1]], [[[3.0, 0, 0]]])
    still = (replace(WAY[0], cycles=0), FALL)
    lost = relax(there, Formula(false_minimum), still, floor=-5.0, members=members)
    assert lost.structure["status"][0] == EXPLODED


class Remembering(Formula):
    """Latent distance: how far an atom is from the origin."""

    environments = True

    def energies_and_distances(self, graph: Graph) -> tuple[torch.Tensor, torch.Tensor]:
        apart = torch.linalg.vector_norm(graph.positions, dim=1)
        sums = apart.new_zeros(graph.n_structures).index_add(0, graph.batch, apart)
        return self.energies(graph), sums


def test_what_is_far_from_the_training_set_is_not_believed() -> None:
    """The false minimum is lower by 1, and further away by 3."""
    for weight, there in ((0.2, True), (0.5, False)):
        way = (replace(WAY[0], latent_weight=weight), FALL)
        found = relax(points(20), Remembering(false_minimum), way, skin=50.0)
        share = np.isclose(found.positions[:, 0], 3, atol=1e-2).mean()
        assert (share > 0.8) if there else (share == 0)
    # The mean over those that remember: here one of two, so that it weighs as much.
    members = [Formula(false_minimum)]
    found = relax(points(20), Remembering(false_minimum), way, skin=50.0, members=members)
    np.testing.assert_allclose(found.positions, 0, atol=1e-2)
    np.testing.assert_allclose(found.structure["energy"], 0, atol=1e-3)


def test_distances_that_are_not_known_do_not_count() -> None:
    """Of two potentials; the weight of 0 in company of others; and never as much as a torn one."""
    apart = torch.tensor([[1.0, torch.inf, torch.inf, 1e9], [3.0, 2.0, torch.inf, 1e9]])
    weight = torch.tensor([0.5, 0.5, 0.5, 0.5])
    assert committee.latent_part(apart, weight).tolist() == [1, 1, 0, 50]
    assert committee.latent_part(apart, 0 * weight).tolist() == [0, 0, 0, 0]


def test_memory_that_a_member_lacks_halves_the_batch() -> None:
    class Large(Formula):
        def energies(self, graph: Graph) -> torch.Tensor:
            if graph.n_structures > 4:
                raise MemoryError
            return super().energies(graph)

    whole = relax(points(20), Formula(false_minimum), WAY, skin=50.0, members=[Formula(bowl)])
    found = relax(points(20), Formula(false_minimum), WAY, skin=50.0, members=[Large(bowl)])
    np.testing.assert_allclose(found.positions, whole.positions, atol=1e-7)
