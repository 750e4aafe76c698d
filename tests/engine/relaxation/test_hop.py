"""Basin hopping: what is accepted, what is kept, and what is taken back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine.elements import RADII
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.relaxation import CONVERGED, EXPLODED, hop, moves, relax
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.schedule import Schedule
from aiida_rm.engine.settings import MOVES, Stage
from tests.engine.relaxation.systems import Formula, starts

HALT = Stage(cell="fixed", max_steps=0)


def ramp(graph: Graph) -> torch.Tensor:
    """Heavy atoms want to be at small x."""
    energy = graph.numbers * graph.positions[:, 0]
    return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)


def flat(graph: Graph) -> torch.Tensor:
    """The same without forces."""
    return ramp(graph.moved(graph.positions.detach(), graph.cells)) + 0 * ramp(graph)


def waves(graph: Graph) -> torch.Tensor:
    """Many minima, the deepest at the origin."""
    x = graph.positions
    energy = (0.05 * x.square() - torch.cos(4 * x)).sum(1)
    return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)


def line(count: int, numbers: list[int]) -> Frames:
    places = np.zeros((len(numbers), 3))
    places[:, 0] = np.arange(len(numbers))
    return Frames.build([numbers] * count, [places] * count)


def test_hopping_goes_lower(potential: Potential) -> None:
    frames = starts(potential)
    down = Stage(cell="free", fmax=1e-2, max_steps=60)
    hop = Stage(kind="hop", cell="free", fmax=1e-2, max_steps=60, amplitude=0.6, cycles=3)
    fallen = relax(frames, potential, (down,))
    hopped = relax(frames, potential, (hop, down))
    unmoved = relax(frames, potential, (replace(hop, cycles=0), HALT))
    np.testing.assert_allclose(unmoved.positions, fallen.positions, atol=1e-9)
    gain = fallen.structure["energy"] - hopped.structure["energy"]
    assert (gain > -1e-6).all()
    assert gain.max() > 0.01


@pytest.mark.parametrize("temperature", [0.0, 0.5, 100.0])
def test_hopping_finds_the_deepest_of_many_minima(temperature: float) -> None:
    """Whatever was accepted on the way, a structure leaves as low as it was."""
    frames = Frames.build([[1]] * 30, list(np.random.default_rng(0).uniform(-4, 4, (30, 1, 3))))
    fall = Stage(cell="fixed", fmax=1e-3, max_steps=100)
    hop = replace(fall, kind="hop", amplitude=2.0, cycles=12, temperature=temperature)
    once = relax(frames, Formula(waves), (fall,), skin=50.0)
    many = relax(frames, Formula(waves), (hop, fall), skin=50.0)
    assert (many.structure["energy"] <= once.structure["energy"] + 1e-6).all()
    assert many.structure["energy"].mean() < once.structure["energy"].mean() - 0.2
    assert (many.structure["status"] == CONVERGED).all()


@pytest.mark.parametrize("kinds", [("jitter",), ("swap",), ("relocate",), MOVES])
def test_company_does_not_matter(kinds: tuple[str, ...]) -> None:
    rng = np.random.default_rng(1)
    sizes = [3, 5, 2, 4, 6, 3]
    frames = Frames.build(
        [np.sort(rng.integers(1, 4, n)) for n in sizes],
        [rng.uniform(-3, 3, (n, 3)) for n in sizes],
    )
    stages = (
        Stage(
            kind="hop",
            moves=kinds,
            cell="fixed",
            amplitude=1.0,
            max_steps=20,
            cycles=6,
            temperature=0.3,
        ),
        Stage(cell="fixed", max_steps=20),
    )
    together = relax(frames, Formula(waves), stages, skin=50.0)
    alone = relax(frames, Formula(waves), stages, batch_atoms=1, skin=50.0)
    np.testing.assert_allclose(alone.positions, together.positions, atol=1e-7)
    np.testing.assert_array_equal(alone.structure["steps"], together.structure["steps"])


def test_a_strain_changes_the_shape_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The volume and the fractional coordinates stay, and each crystal gets a shape of its own."""
    before: list[Batch] = []
    after: list[Batch] = []
    strain = moves.strain

    def watched(batch: Batch, which: torch.Tensor, schedule: Schedule) -> None:
        before.append(replace(batch))
        strain(batch, which, schedule)
        after.append(replace(batch))

    monkeypatch.setattr(moves, "strain", watched)
    stage = Stage(kind="hop", moves=("strain",), strain=0.3, max_steps=0, cycles=1)
    atoms = np.random.default_rng(0).uniform(0, 4, (20, 2, 3))
    frames = Frames.build([[6, 8]] * 20, list(atoms), [4 * np.eye(3)] * 20)
    relax(frames, Formula(flat), (stage, HALT))
    old, new = before[0], after[0]
    shapes = new.cells / 4
    torch.testing.assert_close(torch.linalg.det(new.cells), torch.full((20,), 64.0).to(new.cells))
    torch.testing.assert_close(shapes, shapes.transpose(1, 2))
    sizes = (torch.linalg.eigvalsh(shapes).log()).abs().amax(1)
    assert 0.05 < float(sizes.min()) < float(sizes.max()) < 0.9
    assert len(torch.unique(sizes)) == 20

    def fractional(batch: Batch) -> torch.Tensor:
        inverse = torch.linalg.inv(batch.cells).index_select(0, batch.owner)
        return torch.bmm(batch.positions[:, None], inverse)

    torch.testing.assert_close(fractional(new), fractional(old))


def test_molecules_make_no_strain() -> None:
    """In the engine, too, where no settings are refused: a cycle takes a move that can be made."""
    stage = Stage(kind="hop", moves=("strain",), cell="fixed", max_steps=5, cycles=3)
    found = relax(line(3, [1, 6]), Formula(flat), (stage, HALT))
    np.testing.assert_array_equal(found.positions, line(3, [1, 6]).positions)


def test_each_move_is_made_as_often_as_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = dict.fromkeys(MOVES, 0)
    for name in MOVES:

        def counted(batch: Batch, which: torch.Tensor, *rest: Any, name: str = name) -> None:
            counts[name] += int(which.sum())

        monkeypatch.setattr(moves, name, counted)
    kinds = ("relocate", "swap", "relocate", "relocate")
    stage = Stage(kind="hop", moves=kinds, cell="fixed", max_steps=0, cycles=50)
    relax(line(40, [1, 6]), Formula(flat), (stage, HALT))
    assert counts["jitter"] == 0
    assert counts["swap"] + counts["relocate"] == 40 * 50
    assert counts["swap"] / 2000 == pytest.approx(0.25, abs=0.04)


def test_the_costly_atom_goes_next_to_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one whose share of E~ is largest moves, to a bond's length from one of the others."""
    before: list[torch.Tensor] = []
    after: list[torch.Tensor] = []
    relocate = moves.relocate

    def watched(batch: Batch, which: torch.Tensor) -> None:
        batch.kept_atom_energy = (batch.rank == 2).to(batch.positions)
        before.append(batch.positions)
        relocate(batch, which)
        after.append(batch.positions)

    monkeypatch.setattr(moves, "relocate", watched)
    stage = Stage(kind="hop", moves=("relocate",), cell="fixed", max_steps=0, cycles=1)
    relax(line(50, [1, 6, 6, 8]), Formula(flat), (stage, HALT))
    old, new = before[0].reshape(50, 4, 3), after[0].reshape(50, 4, 3)
    assert torch.equal(old[:, [0, 1, 3]], new[:, [0, 1, 3]])
    away = torch.linalg.vector_norm(new[:, 2:3] - new[:, [0, 1, 3]], dim=2)
    bonds = torch.tensor([RADII[6] + RADII[z] for z in (1, 6, 8)])
    assert bool((away - bonds).abs().amin(1).max() < 1e-5)
    # Of eight places, the one with the most room.
    assert float(away.amin(1).min()) > 0.9


def test_swaps_sort_the_atoms() -> None:
    frames = line(20, [1, 6, 6, 8])
    swap = Stage(kind="hop", moves=("swap",), cell="fixed", max_steps=0, cycles=60)
    found = relax(frames, Formula(flat), (swap, HALT))
    places = found.positions.reshape(20, 4, 3)
    np.testing.assert_array_equal(found.numbers, frames.numbers)
    np.testing.assert_array_equal(places[:, 3, 0], 0)
    np.testing.assert_array_equal(places[:, 0, 0], 3)
    np.testing.assert_array_equal(np.sort(places[:, :, 0], 1), [[0, 1, 2, 3]] * 20)
    assert (found.structure["steps"] == 0).all()


def test_swaps_at_a_temperature_follow_boltzmann(monkeypatch: pytest.MonkeyPatch) -> None:
    """One light atom among three places with E~ = 0, 5 and 10 (less what is common)."""
    temperature, seen = 4.0, []
    end_cycle = hop.end_cycle

    def watched(batch: Any, *rest: Any) -> torch.Tensor:
        over = end_cycle(batch, *rest)
        seen.append(batch.kept_value.clone())
        return over

    monkeypatch.setattr(hop, "end_cycle", watched)
    swap = Stage(
        kind="hop", moves=("swap",), cell="fixed", max_steps=0, cycles=40, temperature=temperature
    )
    relax(line(1000, [1, 6, 6]), Formula(flat), (swap, HALT), batch_atoms=10_000)
    late = torch.stack(seen[11:41]).numpy() - 8.0
    weights = np.exp(-np.array([0, 5, 10]) / temperature)
    shares = [np.mean(np.isclose(late, level)) for level in (0, 5, 10)]
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=0.015)


def test_one_element_has_nothing_to_swap() -> None:
    found = relax(
        line(3, [6, 6]), Formula(flat), (Stage(kind="hop", moves=("swap",), cell="fixed"), HALT)
    )
    np.testing.assert_array_equal(found.positions, line(3, [6, 6]).positions)
    assert (found.structure["status"] != EXPLODED).all()


def test_what_a_cycle_breaks_is_taken_back() -> None:
    """A hop to where the forces are not finite is not accepted, even at a high temperature."""

    class Cliff(Formula):
        def forward(self, graph: Graph) -> Prediction:
            found = super().forward(graph)
            beyond = graph.positions.abs().amax(1, keepdim=True) > 2.0
            return replace(found, forces=torch.where(beyond, torch.nan, found.forces))

    frames = Frames.build([[1]] * 20, list(np.random.default_rng(2).uniform(-1, 1, (20, 1, 3))))
    hop = Stage(
        kind="hop", cell="fixed", amplitude=3.0, max_steps=30, cycles=10, temperature=1e3, fmax=1e-3
    )
    fall = Stage(cell="fixed", fmax=1e-3)
    found = relax(frames, Cliff(waves), (hop, fall), skin=50.0)
    assert (found.structure["status"] == CONVERGED).all()
    assert np.abs(found.positions).max() <= 2.0
    out = Frames.build([[1]], [[[5.0, 0, 0]]])
    assert relax(out, Cliff(waves), (hop, fall)).structure["status"][0] == EXPLODED


def test_a_hole_in_the_potential_is_not_believed() -> None:
    """Beyond a wall E~ falls without end: a hop there is taken back, a start there is lost."""

    def hole(graph: Graph) -> torch.Tensor:
        x = graph.positions[:, 0]
        energy = torch.where(x > 1.5, -20 * (x - 1.5), graph.positions.square().sum(1))
        return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)

    frames = Frames.build([[1]] * 20, list(np.random.default_rng(4).uniform(-1, 1, (20, 1, 3))))
    fall = Stage(cell="fixed", fmax=1e-3, max_steps=40)
    way = (replace(fall, kind="hop", amplitude=3.0, cycles=8), fall)
    believed = relax(frames, Formula(hole), way, skin=50.0)
    assert believed.structure["energy"].min() < -10
    found = relax(frames, Formula(hole), way, skin=50.0, floor=-0.5)
    assert (found.structure["status"] == CONVERGED).all()
    np.testing.assert_allclose(found.positions, 0, atol=1e-2)
    lost = relax(Frames.build([[1]], [[[5.0, 0, 0]]]), Formula(hole), way, floor=-0.5)
    assert lost.structure["status"][0] == EXPLODED
    # It comes back as it started, so the E~ of the hole is not its own, nor does it rank by it.
    assert lost.positions[0, 0] == 5.0
    assert np.isnan(
        [lost.structure[name][0] for name in ("energy", "energy_per_atom", "fmax")]
    ).all()
    # Near enough to the rim, most get out of there by one of the moves.
    rim = Frames.build([[1]] * 20, [[[2.5, 0, 0]]] * 20)
    saved = relax(rim, Formula(hole), way, floor=-0.5)
    out = saved.structure["status"] == CONVERGED
    assert out.sum() >= 15
    np.testing.assert_allclose(saved.positions[out], 0, atol=1e-2)
    alone = relax(rim, Formula(hole), way, floor=-0.5, batch_atoms=1)
    np.testing.assert_allclose(alone.positions, saved.positions, atol=1e-7)


def test_hopping_after_another_stage_begins_where_that_ended() -> None:
    """Each stage of hop forgets what the one before it kept."""
    frames = Frames.build([[1]] * 10, list(np.random.default_rng(5).uniform(-4, 4, (10, 1, 3))))
    fall = Stage(cell="fixed", fmax=1e-3, max_steps=100)
    hop = replace(fall, kind="hop", amplitude=2.0, cycles=4)
    once = relax(frames, Formula(waves), (hop, fall), skin=50.0)
    far = Stage(kind="jitter", cell="fixed", amplitude=8.0)
    again = relax(frames, Formula(waves), (hop, far, replace(hop, cycles=0), fall), skin=50.0)
    assert np.abs(again.positions - once.positions).max() > 3
