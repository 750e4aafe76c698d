"""Random starts, and energies whose statistics are known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings


def starts(potential: Potential, count: int = 8, **knobs: Any) -> Frames:
    """Random crystals of the potential's elements."""
    settings = GenerateSettings(n_structures=count, seed=3, **knobs)
    return make_starts(range(count), settings, potential.notes)[0]


class Formula(torch.nn.Module):
    """A formula (S,) of the graph in place of a network, with its derivatives."""

    cutoff = 0.5
    environments = None

    def __init__(self, formula: Callable[[Graph], Tensor]) -> None:
        super().__init__()
        self.formula = formula
        self.register_buffer("element_energy", torch.zeros(1, dtype=torch.float64))

    def energies(self, graph: Graph) -> Tensor:
        return self.formula(graph)

    def forward(self, graph: Graph) -> Prediction:
        with torch.enable_grad():
            strain = torch.zeros_like(graph.cells).requires_grad_(True)
            moves = torch.zeros_like(graph.positions).requires_grad_(True)
            deformation = torch.linalg.matrix_exp(strain)
            places = torch.bmm(graph.positions[:, None], deformation[graph.batch])[:, 0] + moves
            energy = self.formula(graph.moved(places, torch.bmm(graph.cells, deformation)))
            slopes = torch.autograd.grad(energy.sum(), (moves, strain), allow_unused=True)
        forces = torch.zeros_like(moves) if slopes[0] is None else -slopes[0]
        virial = torch.zeros_like(strain) if slopes[1] is None else slopes[1]
        volumes = torch.linalg.det(graph.cells).abs()[:, None, None]
        stress = torch.where(graph.periodic[:, None, None], virial / volumes, 0.0)
        return Prediction(energy.detach(), forces.detach(), stress.detach(), forces[:, 0])
