"""The model that a training begins with: random weights, or those of another potential."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.potential import (
    EquivariantHyperparameters,
    Hyperparameters,
    LocalHyperparameters,
    Potential,
)
from aiida_rm.engine.potential.local import LocalNetwork
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training.data import Rows, TrainingData, evenly
from aiida_rm.engine.training.statistics import describe_training_set


def first_model(
    data: TrainingData,
    rows: Rows,
    settings: TrainSettings,
    core: tuple[float, float],
    initial: Potential | None,
) -> Potential:
    """A potential on the device and in the dtype of the data.

    Args:
        data: the whole set.
        rows: its part for training.
        settings: shape of the network, and the seed.
        core: radius and strength of the repulsion in the targets.
        initial: weights to start from (new elements are added); None draws them from the seed.

    Raises:
        PotentialError: ``initial`` has another shape or core.
    """
    elements = data.frames.elements
    known = set(elements) | set(initial.elements if initial else ())
    shape = shape_of(settings, len(known))
    if initial is not None:
        model = _copy(initial, shape, core, settings.seed)
    else:
        torch.manual_seed(settings.seed)
        # Built in float32 whatever the dtype, so that a seed means one set of weights.
        model = Potential(shape, *core)
    model = model.to(device=data.device, dtype=data.dtype)
    model.elements = tuple(sorted({*elements, *model.elements}, key=SYMBOLS.index))
    model.notes = describe_training_set(data.frames)
    if initial is None:
        graph, _ = data.batch(_typical(rows, data, max(settings.batch_atoms, 2048)))
        if graph.edge_index.shape[1]:  # or there is nothing to take a scale from
            model.network.standardise(
                graph.edge_vectors(), graph.edge_index, graph.numbers, model.visible(graph)
            )
    return model


def _typical(rows: Rows, data: TrainingData, atoms: int) -> Rows:
    """Rows from all over the set, of so many atoms or so at most; no lone ones if it has others."""
    lone = (data.counts[rows] == 1) & ~data.periodic[rows]
    rows = rows if lone.all() else rows[~lone]
    return evenly(rows, max(1, min(256, int(atoms / data.counts[rows].mean()))))


def shape_of(settings: TrainSettings, n_elements: int) -> Hyperparameters:
    """The shape of the network that the settings ask for."""
    if settings.architecture == "equivariant":
        return EquivariantHyperparameters(
            cutoff=settings.cutoff,
            features=settings.features,
            layers=settings.layers,
            radial=settings.radial,
        )
    return LocalHyperparameters(
        cutoff=settings.cutoff,
        channels=settings.channels,
        radial=settings.radial,
        l_max=settings.l_max,
        hidden=settings.hidden,
        element_channels=min(settings.element_channels, n_elements),
    )


def _copy(
    initial: Potential, shape: Hyperparameters, core: tuple[float, float], seed: int
) -> Potential:
    model = deepcopy(initial).requires_grad_(True)
    if isinstance(model.network, LocalNetwork) and isinstance(shape, LocalHyperparameters):
        torch.manual_seed(seed)
        channels = max(shape.element_channels, model.network.shape.element_channels)
        model.network = model.network.widened(channels)
        shape = replace(shape, element_channels=channels)
    if model.network.shape != shape:
        raise PotentialError(
            f"the potential to start from has the shape {initial.network.shape.to_plain()}, the "
            f"settings ask for {shape.to_plain()}; make them equal, or start without it"
        )
    if (initial.core_scale, initial.core_strength) != core:
        raise PotentialError(
            "the potential to start from has another core repulsion than the frames; perturb "
            "with the same 'core_scale' and 'core_strength', or start without it"
        )
    model.element_energy.zero_()
    return model
