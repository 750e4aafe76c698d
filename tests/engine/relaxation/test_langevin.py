"""The dynamics sample what they claim, cool down, and do not depend on company."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import EXPLODED, relax
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import Formula, starts

HALT = Stage(cell="fixed", max_steps=0)


def heat(frames: Frames, potential: Any, **knobs: Any) -> Frames:
    """End where the dynamics end; molecules' lists never need a second look."""
    stage = Stage(kind="langevin", **knobs)
    skin = 0.5 if frames.pbc.any() else 60.0
    return relax(frames, potential, (stage, HALT), batch_atoms=100_000, skin=skin)


def wells(graph: Graph) -> torch.Tensor:
    """One well an atom, of spring constant 2, about (number, 0, 0)."""
    home = torch.zeros_like(graph.positions)
    home[:, 0] = graph.numbers
    squares = (graph.positions - home).square().sum(1)
    return squares.new_zeros(graph.n_structures).index_add(0, graph.batch, squares)


@pytest.mark.parametrize(("time_step", "friction"), [(0.2, 1.0), (1.0, 0.5), (1.0, 5.0)])
def test_positions_in_a_harmonic_well(time_step: float, friction: float) -> None:
    """Variance T / k, also at a time step where other integrators are off by tens of percent."""
    count, numbers, temperature = 500, np.arange(1, 9), 0.3
    home = np.stack([numbers, 0 * numbers, 0 * numbers], 1).astype(float)
    frames = Frames.build([numbers] * count, [home] * count)
    found = heat(
        frames,
        Formula(wells),
        cell="fixed",
        max_steps=60 if time_step == 0.2 else 40,
        temperature=temperature,
        final_temperature=temperature,
        time_step=time_step,
        friction=friction,
    )
    moves = (found.positions - frames.positions).ravel()
    error = math.sqrt(2 / len(moves))
    assert np.mean(moves**2) * 2 / temperature == pytest.approx(1, abs=4 * error)
    assert np.mean(moves**4) / np.mean(moves**2) ** 2 == pytest.approx(
        3, abs=4 * math.sqrt(96 / len(moves))
    )
    assert abs(np.mean(moves)) < 4 * math.sqrt(temperature / 2 / len(moves))


def test_volume_in_a_harmonic_well() -> None:
    """E~ = K/2 ln(V/8)^2: ln V has the variance T / K."""
    count, stiffness, temperature = 1000, 40.0, 0.05

    def spring(graph: Graph) -> torch.Tensor:
        return 0.5 * stiffness * (torch.linalg.det(graph.cells) / 8).log().square()

    frames = Frames.build(
        [[1, 1]] * count, [[[0, 0, 0], [1, 1, 1]]] * count, [2 * np.eye(3)] * count
    )
    knobs = {"max_steps": 100, "time_step": 0.2, "friction": 1.0}
    hot = {"temperature": temperature, "final_temperature": temperature, **knobs}
    found = heat(frames, Formula(spring), cell="hydrostatic", **hot)
    spread = np.log(found.volumes / 8)
    error = math.sqrt(2 / count)
    assert np.mean(spread**2) * stiffness / temperature == pytest.approx(1, abs=4 * error)
    ratio = found.cells / np.cbrt(found.volumes)[:, None, None]
    np.testing.assert_allclose(ratio, np.broadcast_to(np.eye(3), ratio.shape), atol=1e-9)
    whole = heat(frames.select(range(100)), Formula(spring), cell="shape", **hot)
    np.testing.assert_allclose(whole.volumes, 8, rtol=1e-9)
    assert np.abs(whole.cells - 2 * np.eye(3)).max() > 0.05


def test_it_cools_to_the_final_temperature() -> None:
    numbers = np.arange(1, 9)
    home = np.stack([numbers, 0 * numbers, 0 * numbers], 1).astype(float)
    frames = Frames.build([numbers] * 100, [home] * 100)
    knobs = {"cell": "fixed", "max_steps": 100, "temperature": 1.0, "friction": 1.0}
    cold = heat(frames, Formula(wells), **knobs)
    warm = heat(frames, Formula(wells), final_temperature=1.0, **knobs)
    # A well of 24 coordinates holds 12 T on average.
    assert cold.structure["energy"].mean() < 0.15 * warm.structure["energy"].mean()
    assert warm.structure["energy"].mean() == pytest.approx(12, rel=0.12)


@pytest.mark.parametrize("cell", ["fixed", "hydrostatic", "free"])
def test_company_does_not_matter(potential: Potential, cell: str) -> None:
    frames = starts(potential)
    stages = (
        Stage(cell=cell, max_steps=5),
        Stage(kind="langevin", cell=cell, max_steps=15, temperature=0.05),
        Stage(cell=cell, max_steps=5),
    )
    together = relax(frames, potential, stages)
    alone = relax(frames, potential, stages, batch_atoms=1)
    np.testing.assert_allclose(alone.positions, together.positions, atol=1e-7)
    np.testing.assert_allclose(alone.cells, together.cells, atol=1e-7)
    last = relax(frames[6], potential, stages)
    np.testing.assert_allclose(last.positions, together[6].positions, atol=1e-7)
    calm = relax(frames, potential, (stages[0], stages[2]))
    assert np.abs(calm.positions - together.positions).max() > 0.05
    assert together.structure["steps"].max() == 25


def test_far_too_hot_is_a_verdict(potential: Potential) -> None:
    """One that boils away leaves, whatever becomes of its cell; the others do not notice."""
    frames = starts(potential, 4)
    hot = Stage(kind="langevin", cell="free", max_steps=30, temperature=1e30)
    found = relax(frames, potential, (hot, Stage(max_steps=3)))
    assert (found.structure["status"] == EXPLODED).all()
    np.testing.assert_array_equal(found.positions, frames.positions)
