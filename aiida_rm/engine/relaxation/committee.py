"""Basin hopping that several potentials judge: a false minimum of one is rarely one of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.field import Field

#: Ends of descents wait for each other until they are this share of what is under way: a call for
#: one structure takes nearly as long as a call for ten.
WAITING_SHARE = 0.05


def enough(hopping: Tensor, running: Tensor) -> bool:
    """Whether so many are at the end of a descent (S,) that the committee is asked."""
    return bool(hopping.any() & (hopping.sum() >= WAITING_SHARE * running.sum()))


def with_mean(
    batch: Batch, which: Tensor, field: Field, members: Sequence[Potential], floor: float
) -> Field:
    """The field with the mean E~ of the potential and the members as that of some structures.

    Args:
        batch: listed as far as the largest cutoff.
        which: (S,) those that are judged; the others stay as they are.
        field: of the potential.
        members: the others of the committee.
        floor: E~ per atom below which no potential is believed: the structure is broken.
    """
    some = batch.keep(which)
    rows = torch.nonzero(which)[:, 0]
    own = field.energy.index_select(0, rows)
    graph = some.graph()
    others = [member.energies(graph.within(member.cutoff)) for member in members]
    energies = torch.stack([own, *others])
    mean = energies.mean(0)
    lost = ~torch.isfinite(mean) | (energies.amin(0) < floor * some.counts)
    return replace(
        field,
        value=field.value.index_add(0, rows, mean - own),
        broken=field.broken.index_put((rows,), lost | field.broken.index_select(0, rows)),
    )
