"""What drives the structures: E~ and pressure, and their derivatives, in one call for all."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import cell
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.schedule import Schedule

#: Forces beyond this mean that the structure exploded.
_EXPLODED_FORCE = 1e6


@dataclass(frozen=True)
class Field:
    """For S structures and A atoms.

    Attributes:
        energy: (S,) E~ alone.
        atom_energy: (A,) the atoms' shares of it.
        value: (S,) what is lowered: E~ + pV.
        forces: (A, 3) minus its slope along the atoms' positions.
        pull: (S, 3, 3) minus its slope along N x strain, where the cell may move.
        largest: (S,) the largest force of an atom, or row of ``pull``.
        broken: (S,) something is not finite, or far too large.
    """

    energy: Tensor
    atom_energy: Tensor
    value: Tensor
    forces: Tensor
    pull: Tensor
    largest: Tensor
    broken: Tensor


def evaluate(batch: Batch, potential: Potential, schedule: Schedule) -> Field:
    """The field at the structures as they are, each in its stage; the edges must be listed."""
    graph = batch.graph().within(potential.cutoff)
    found = potential(graph)
    pressure = schedule.pressure[batch.stage]
    pull = cell.pull(batch, found.stress, pressure, schedule.cell_mode[batch.stage])
    volumes = torch.where(graph.periodic, torch.linalg.det(batch.cells).abs(), 0.0)
    largest = torch.zeros_like(found.energy).scatter_reduce(
        0, batch.owner, torch.linalg.vector_norm(found.forces, dim=1), "amax"
    )
    largest = torch.maximum(largest, torch.linalg.vector_norm(pull, dim=2).amax(1))
    return Field(
        energy=found.energy,
        atom_energy=found.atom_energy,
        value=found.energy + pressure * volumes,
        forces=found.forces,
        pull=pull,
        largest=largest,
        broken=~torch.isfinite(largest + found.energy) | (largest > _EXPLODED_FORCE),
    )
