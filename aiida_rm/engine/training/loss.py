"""What a training makes small, and the gradient of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.training.data import Targets

#: E~ per atom, in square angstrom, at which an error of this size counts as one of 100 %.
SMALL_ENERGY = 0.02


def squared_errors(prediction: Prediction, graph: Graph, targets: Targets) -> tuple[Tensor, Tensor]:
    """Squared errors of the forces (A,) and of the stress (S,); the latter 0 without a cell."""
    force = (prediction.forces - targets.forces).square().sum(-1)
    stress = (prediction.stress - targets.stress).square().sum((1, 2))
    return force, torch.where(graph.periodic, stress, torch.zeros_like(stress))


def energy_errors(prediction: Prediction, graph: Graph, targets: Targets) -> Tensor:
    """Squared relative errors of E~ per atom (S,), to which low energies matter as high ones do."""
    ones = torch.ones_like(targets.forces[:, 0])
    atoms = torch.zeros_like(targets.energy).index_add(0, graph.batch, ones).clamp(min=1)
    wanted = targets.energy / atoms
    relative = (prediction.energy / atoms - wanted) / (wanted + SMALL_ENERGY)
    # What only fills a compiled batch has no weight.
    return torch.where(targets.weights > 0, relative.square(), torch.zeros_like(relative))


def weighted_loss(
    prediction: Prediction, graph: Graph, targets: Targets, factors: Tensor
) -> Tensor:
    """Errors, summed, times their factors: forces with the structures' weights, stress, and E~.

    ``factors`` are (2,) where E~ is not learnt: it would cost a backward pass of its own.
    """
    force, stress = squared_errors(prediction, graph, targets)
    weighted = force * targets.weights.index_select(0, graph.batch)
    errors = [weighted.sum(), stress.sum()]
    if len(factors) > len(errors):
        errors.append(energy_errors(prediction, graph, targets).sum())
    loss: Tensor = torch.stack(errors) @ factors
    return loss


def add_gradient(
    model: Potential,
    weights: Sequence[nn.Parameter],
    graph: Graph,
    targets: Targets,
    factors: Tensor,
) -> Tensor:
    """Add the derivatives of :func:`weighted_loss` by the weights to what they have; the loss."""
    loss = weighted_loss(model(graph, create_graph=True), graph, targets, factors)
    # The weights alone: the edges need no second derivative, which costs up to a third.
    torch.autograd.backward(loss, inputs=list(weights))
    return loss.detach()
