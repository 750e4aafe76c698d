"""Basin hopping by more than E~ of one potential, which may be led into its false minima.

A false minimum of one potential is rarely one of others, and seldom like what it was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.field import Field
from aiida_rm.engine.relaxation.hop import TORN

#: Ends of descents wait for each other until they are this share of what is under way: a call for
#: one structure takes nearly as long as a call for ten.
WAITING_SHARE = 0.05


def enough(hopping: Tensor, running: Tensor) -> bool:
    """Whether ``WAITING_SHARE`` of those under way (S,) are at the end of a descent (S,)."""
    return bool(hopping.any() & (hopping.sum() >= WAITING_SHARE * running.sum()))


def latent_part(apart: Tensor, weight: Tensor) -> Tensor:
    """(S,) weight (S,) times the mean of the distances (K, S) that there are; never as TORN.

    A potential that remembers no atom of an element has no say.
    """
    known = torch.isfinite(apart)
    mean = torch.where(known, apart, 0.0).sum(0) / known.sum(0).clamp(min=1)
    return (weight * mean).clamp(max=0.5 * TORN)


def replace_value(
    batch: Batch,
    which: Tensor,
    field: Field,
    potentials: Sequence[Potential],
    latent_weight: Tensor,
    floor: float,
) -> Field:
    """The field with another value of some structures, by which they are judged.

    That is the mean E~ of all potentials and, where there is a weight, their mean latent distance.

    Args:
        batch: listed as far as the largest cutoff.
        which: (S,) those that are judged; the others stay as they are.
        field: of the first potential.
        potentials: the one that is descended on, and the others of its committee.
        latent_weight: (S,) angstrom^2 for each atom and unit of distance; above 0 somewhere only
            where the first potential has environments. Others without have no say in it.
        floor: E~ per atom below which no potential is believed: the structure is broken.
    """
    some = batch.keep(which)
    rows = torch.nonzero(which)[:, 0]
    own = field.energy.index_select(0, rows)
    graph = some.graph()
    weight = latent_weight.index_select(0, rows)
    weighs = bool((weight > 0).any())
    energies, apart = [own], []
    for number, potential in enumerate(potentials):
        part = graph.within(potential.cutoff)
        if weighs and potential.environments is not None:
            energy, distance = potential.energies_and_distances(part)
            apart.append(distance)
        elif number:
            energy = potential.energies(part)
        if number:
            energies.append(energy)
    stacked = torch.stack(energies)
    value = stacked.mean(0)
    if apart:
        value = value + latent_part(torch.stack(apart), weight)
    lost = ~torch.isfinite(value) | (stacked.amin(0) < floor * some.counts)
    return replace(
        field,
        value=field.value.index_add(0, rows, value - own),
        broken=field.broken.index_put((rows,), lost | field.broken.index_select(0, rows)),
    )
