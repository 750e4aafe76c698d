"""The model that a training begins with: random weights, or those of another potential."""

from __future__ import annotations

from copy import deepcopy

import torch

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.potential import LocalHyperparameters, Potential
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training_data import Rows, TrainingData, describe_training_set, pack


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
        initial: weights to start from; None draws them from the seed.

    Raises:
        PotentialError: ``initial`` has another shape, core or other elements.
    """
    elements = data.frames.elements
    shape = LocalHyperparameters(
        cutoff=settings.cutoff,
        channels=settings.channels,
        radial=settings.radial,
        l_max=settings.l_max,
        hidden=settings.hidden,
        element_channels=min(settings.element_channels, len(elements)),
    )
    if initial is not None:
        model = _copy(initial, shape, core, elements)
    else:
        torch.manual_seed(settings.seed)
        # Built in float32 whatever the dtype, so that a seed means one set of weights.
        model = Potential(shape, *core)
    model = model.to(device=data.device, dtype=data.dtype)
    model.elements = tuple(sorted({*elements, *model.elements}, key=SYMBOLS.index))
    model.notes = describe_training_set(data.frames)
    if initial is None:
        some = pack(rows[:256], data.counts, max(settings.batch_atoms, 2048))[0]
        graph, _ = data.batch(some)
        model.network.standardise(graph.edge_vectors(), graph.edge_index, graph.numbers)
    return model


def _copy(
    initial: Potential,
    shape: LocalHyperparameters,
    core: tuple[float, float],
    elements: tuple[str, ...],
) -> Potential:
    if initial.network.shape != shape:
        raise PotentialError(
            f"the potential to start from has the shape {initial.network.shape.to_plain()}, the "
            f"settings ask for {shape.to_plain()}; make them equal, or start without it"
        )
    if (initial.core_radius, initial.core_strength) != core:
        raise PotentialError(
            "the potential to start from has another core repulsion than the frames; perturb "
            "with the same 'core_radius' and 'core_strength', or start without it"
        )
    initial.require_elements(set(elements))
    model = deepcopy(initial).requires_grad_(True)
    model.element_energy.zero_()
    return model
