"""What drives the structures: E~, pressure and a penalty, with derivatives, in one call for all."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import cell
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.penalty import PenaltyFunction
from aiida_rm.engine.relaxation.schedule import Schedule

#: Forces (angstrom) or a pull (angstrom^2) beyond this mean that the structure exploded.
_EXPLODED_FORCE = 1e6


@dataclass(frozen=True)
class Field:
    """For S structures and A atoms; energies are in angstrom^2, as E~ is.

    Attributes:
        energy: (S,) E~ alone.
        atom_energy: (A,) the atoms' shares of it.
        penalty: (S,) the user's own, with its weight.
        value: (S,) what is lowered: E~ + pV + penalty.
        forces: (A, 3) minus its slope along the atoms' positions, in angstrom.
        pull: (S, 3, 3) minus its slope along N x strain, where the cell may move, in angstrom^2.
        largest: (S,) the largest force of an atom, or row of ``pull``, by its number.
        broken: (S,) something is not finite, or far too large.
    """

    energy: Tensor
    atom_energy: Tensor
    penalty: Tensor
    value: Tensor
    forces: Tensor
    pull: Tensor
    largest: Tensor
    broken: Tensor


def evaluate(
    batch: Batch,
    potential: Potential,
    schedule: Schedule,
    penalty: PenaltyFunction | None = None,
    floor: float = -math.inf,
) -> Field:
    """The field at the structures as they are, each in its stage; the edges must be listed.

    Those whose E~ per atom is below ``floor`` (angstrom^2) count as broken.
    """
    graph = batch.graph().within(potential.cutoff)
    found = potential(graph)
    volumes = torch.where(graph.periodic, torch.linalg.det(batch.cells).abs(), 0.0)
    forces, virial = found.forces, found.stress * volumes[:, None, None]
    added = torch.zeros_like(found.energy)
    if penalty is not None:
        more = penalty(graph)
        added, forces, virial = more.energy, forces + more.forces, virial + more.virial
    pressure = schedule.pressure[batch.stage]
    pull = cell.pull(batch, virial, pressure * volumes, schedule.cell_mode[batch.stage])
    value = found.energy + pressure * volumes + added
    largest = torch.zeros_like(value).scatter_reduce(
        0, batch.owner, torch.linalg.vector_norm(forces, dim=1), "amax"
    )
    largest = torch.maximum(largest, torch.linalg.vector_norm(pull, dim=2).amax(1))
    return Field(
        energy=found.energy,
        atom_energy=found.atom_energy,
        penalty=added,
        value=value,
        forces=forces,
        pull=pull,
        largest=largest,
        broken=~torch.isfinite(largest + value)
        | (largest > _EXPLODED_FORCE)
        | (found.energy < floor * batch.counts),
    )
