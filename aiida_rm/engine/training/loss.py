"""What a training makes small, and the gradient of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.training.data import Targets


def squared_errors(prediction: Prediction, graph: Graph, targets: Targets) -> tuple[Tensor, Tensor]:
    """Squared errors of the forces (A,) and of the stress (S,); the latter 0 without a cell."""
    force = (prediction.forces - targets.forces).square().sum(-1)
    stress = (prediction.stress - targets.stress).square().sum((1, 2))
    return force, torch.where(graph.periodic, stress, torch.zeros_like(stress))


def weighted_loss(
    prediction: Prediction, graph: Graph, targets: Targets, factors: Tensor
) -> Tensor:
    """Squared errors, summed with the structures' weights, times the factors (2,) of both kinds."""
    force, stress = squared_errors(prediction, graph, targets)
    weighted = force * targets.weights.index_select(0, graph.batch)
    loss: Tensor = factors[0] * weighted.sum() + factors[1] * stress.sum()
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
