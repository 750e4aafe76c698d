"""Errors of a potential on structures with targets: sums that processes can add up, and means."""

from __future__ import annotations

import math
from collections.abc import Mapping

from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Prediction
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training.data import Targets
from aiida_rm.engine.training.loss import energy_errors, squared_errors
from aiida_rm.engine.training.progress import Metrics

#: What the errors of a set of structures are made of.
SUMS = ("structures", "atoms", "cells", "force", "stress", "energy", "weighted")


def add_errors(
    sums: dict[str, float],
    prediction: Prediction,
    graph: Graph,
    targets: Targets,
    settings: TrainSettings,
) -> None:
    """Add those of some structures to the sums, which are named in ``SUMS``."""
    force, stress = squared_errors(prediction, graph, targets)
    weights = targets.weights.index_select(0, graph.batch)
    sums["structures"] += float(graph.n_structures)
    sums["atoms"] += float(len(force))
    sums["cells"] += float(graph.periodic.sum())
    sums["force"] += float(force.sum())
    sums["stress"] += float(stress.sum())
    sums["weighted"] += float((force * weights).sum())
    if settings.energy_weight:
        sums["energy"] += float(energy_errors(prediction, graph, targets).sum())


def mean_errors(
    sums: Mapping[str, float], settings: TrainSettings, scales: tuple[float, float]
) -> Metrics:
    """What the sums come to.

    Args:
        sums: of all structures, by the names in ``SUMS``.
        settings: the weights of the loss.
        scales: mean squares of the targets, of forces and stress.

    Returns:
        ``validation_loss`` is what training makes small, weights by noise included;
        ``force_error`` and ``stress_error``: squared error over the mean square of the target (1:
        as good as predicting none); ``force_rmse`` (per component), ``stress_rmse``;
        ``energy_error``, where it is learnt: squared relative error of E~ per atom.
    """
    s = settings
    structures, atoms, cells = (max(sums[name], 1.0) for name in ("structures", "atoms", "cells"))
    force, stress, energy = (
        sums["force"] / atoms,
        sums["stress"] / cells,
        sums["energy"] / structures,
    )
    loss = s.force_weight * sums["weighted"] / atoms / scales[0]
    loss += s.stress_weight * stress / scales[1] + s.energy_weight * energy
    return {
        "validation_loss": loss,
        "force_error": force / scales[0],
        "stress_error": stress / scales[1],
        **({"energy_error": energy} if s.energy_weight else {}),
        "force_rmse": math.sqrt(force / 3),
        "stress_rmse": math.sqrt(stress / 9),
    }
