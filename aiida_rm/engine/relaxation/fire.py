"""FIRE, with one time step and one power for every structure.

Rules and constants are those of ASE (Bitzek et al., PRL 97, 170201, 2006).
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.relaxation.batch import Batch

# Constants of FIRE; those of ASE.
START_DT, START_ALPHA = 0.1, 0.1
_DT_MAX, _MAX_MOVE, _N_MIN = 1.0, 0.2, 5
_GROW, _SHRINK, _ALPHA_SHRINK = 1.1, 0.5, 0.99


def restart(batch: Batch, which: Tensor) -> None:
    """A new descent of the structures in ``which`` (S,), which forget the one before."""
    batch.started = batch.started & ~which
    batch.dt = torch.where(which, START_DT, batch.dt)
    batch.alpha = torch.where(which, START_ALPHA, batch.alpha)
    batch.downhill = torch.where(which, 0, batch.downhill)


def step(batch: Batch, forces: Tensor, pull: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Moves (A, 3) and strains (S, 3, 3) of the structures in ``on``, zero for the others.

    Velocities, time steps and powers in the batch change accordingly.
    """
    owner = batch.owner

    def to_atoms(values: Tensor) -> Tensor:
        return values.index_select(0, owner)[:, None]

    def dot(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
        cells = (c * d).sum((1, 2))
        return cells.index_add(0, owner, (a * b).sum(1))

    velocities, cell_velocities = batch.velocities, batch.cell_velocities
    power = dot(forces, velocities, pull, cell_velocities)
    downhill = batch.started & (power > 0)
    speed = dot(velocities, velocities, cell_velocities, cell_velocities).sqrt()
    force = dot(forces, forces, pull, pull).sqrt().clamp(min=1e-30)
    mix = torch.where(downhill, batch.alpha * speed / force, 0.0)
    keep = torch.where(downhill, 1 - batch.alpha, 0.0)
    grown = on & downhill & (batch.downhill > _N_MIN)
    uphill = on & batch.started & ~downhill
    batch.dt = torch.where(grown, (batch.dt * _GROW).clamp(max=_DT_MAX), batch.dt)
    batch.dt = torch.where(uphill, batch.dt * _SHRINK, batch.dt)
    batch.alpha = torch.where(grown, batch.alpha * _ALPHA_SHRINK, batch.alpha)
    batch.alpha = torch.where(uphill, START_ALPHA, batch.alpha)
    batch.downhill = torch.where(on, torch.where(downhill, batch.downhill + 1, 0), batch.downhill)
    batch.started = batch.started | on

    push = mix + batch.dt
    moving, straining = to_atoms(on), on[:, None, None]
    new = to_atoms(keep) * velocities + to_atoms(push) * forces
    batch.velocities = torch.where(moving, new, velocities)
    new = keep[:, None, None] * cell_velocities + push[:, None, None] * pull
    batch.cell_velocities = torch.where(straining, new, cell_velocities)
    moves = torch.where(moving, to_atoms(batch.dt) * batch.velocities, 0.0)
    strains = torch.where(straining, batch.dt[:, None, None] * batch.cell_velocities, 0.0)
    length = dot(moves, moves, strains, strains).sqrt()
    shorten = (_MAX_MOVE / length.clamp(min=_MAX_MOVE)).nan_to_num(0.0)
    return moves * to_atoms(shorten), strains * (shorten / batch.counts)[:, None, None]
