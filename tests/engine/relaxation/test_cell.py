"""Cells that move in some ways only, under pressure, and those that collapse."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import CONVERGED, EXPLODED, relax
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import Formula, starts


def spring(graph: Graph) -> torch.Tensor:
    """E~ = 2 ln(V/8)^2 and a spring on the shear."""
    edges = graph.cells @ graph.cells.transpose(1, 2)
    volume = torch.linalg.det(graph.cells)
    return 2 * (volume / 8).log().square() + edges[:, 0, 1] ** 2 / volume ** (4 / 3)


def skewed() -> Frames:
    cell = np.array([[2.2, 0.3, 0], [0, 1.9, 0.1], [0, 0, 2.1]])
    return Frames.build([[1, 1]], [[[0, 0, 0], [1, 1, 1]]], [cell])


def test_hydrostatic_keeps_the_shape() -> None:
    frames = skewed()
    stage = Stage(cell="hydrostatic", fmax=1e-8, max_steps=500)
    found = relax(frames, Formula(spring), (stage,))
    assert found.structure["status"][0] == CONVERGED
    ratio = found.cells[0] / np.cbrt(found.volumes[0])
    np.testing.assert_allclose(ratio, frames.cells[0] / np.cbrt(frames.volumes[0]), atol=1e-9)
    assert found.volumes[0] == pytest.approx(8, abs=1e-6)


@pytest.mark.parametrize("pressure", [0.1, -0.05])
def test_pressure_moves_the_volume_to_the_least_enthalpy(pressure: float) -> None:
    stage = Stage(cell="free", fmax=1e-8, max_steps=1000, pressure=pressure)
    found = relax(skewed(), Formula(spring), (stage,))
    assert found.structure["status"][0] == CONVERGED
    volume = found.volumes[0]
    # d(E~ + pV) / d ln V = 0.
    assert 4 * np.log(volume / 8) + pressure * volume == pytest.approx(0, abs=1e-6)
    # What is reported is E~ alone.
    graph = 2 * np.log(volume / 8) ** 2
    assert found.structure["energy"][0] == pytest.approx(graph, abs=1e-6)


def test_pressure_makes_crystals_denser(potential: Potential) -> None:
    frames = starts(potential)
    squeezed, free = (
        relax(frames, potential, (Stage(cell="free", fmax=1e-3, max_steps=150, pressure=p),))
        for p in (0.05, 0.0)
    )
    assert np.median(squeezed.volumes / free.volumes) < 0.99


def test_a_collapsing_cell_leaves_with_a_verdict(potential: Potential) -> None:
    """No list is made for it, which would fill the memory; its company is not harmed."""
    frames = starts(potential, 4)
    crush = Stage(cell="hydrostatic", max_steps=400, fmax=1e-9, pressure=1e4)
    found = relax(frames, potential, (crush,), skin=0.1)
    assert (found.structure["status"] == EXPLODED).all()
    np.testing.assert_array_equal(found.cells, frames.cells)
