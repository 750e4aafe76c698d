"""Langevin dynamics by BAOAB (Leimkuhler & Matthews, J. Chem. Phys. 138, 174102, 2013).

Masses are 1, also those of the cell's coordinates, and temperatures are energies (k_B = 1). In a
harmonic well the positions have the variance T / k exactly, at any stable time step. What is
sampled is exp(-(E~ + pV) / T) over fractional coordinates and strains of the cell: there is no
factor V^N, which would let crystals evaporate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.relaxation import cell, noise
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.schedule import Schedule


def step(
    batch: Batch, forces: Tensor, pull: Tensor, on: Tensor, schedule: Schedule
) -> tuple[Tensor, Tensor]:
    """Moves (A, 3) and strains (S, 3, 3) of the structures in ``on``, zero for the others.

    One call is B(half) A O A, after the B(half) that the step before was still owed: the forces of
    a place are found once.
    """
    owner, stage = batch.owner, batch.stage
    dt = schedule.time_step[stage]
    decay = torch.exp(-schedule.friction[stage] * dt)
    kick_size = (temperature(batch, schedule) * (1 - decay.square())).sqrt()
    push = torch.where(batch.started, dt, 0.5 * dt)
    state = noise.hashed(batch.key, stage, batch.stage_steps)
    atoms = noise.hashed(state, noise.ATOMS).index_select(0, owner)
    kicks = noise.normal(noise.components(noise.hashed(atoms, batch.rank), 3)).to(forces)
    cells = noise.normal(noise.components(noise.hashed(state, noise.CELLS), 9)).to(pull)
    cells = cells.view(-1, 3, 3)
    # Without rotations, which change nothing; each independent component has variance 1.
    cells = cell.allowed(
        0.5 * (cells + cells.transpose(1, 2)), schedule.cell_mode[stage], batch.pbc.all(1)
    )

    knobs = (on, batch.started, dt, push, decay, kick_size)
    of_atoms = tuple(knob.index_select(0, owner)[:, None] for knob in knobs)
    of_cells = tuple(knob[:, None, None] for knob in knobs)
    batch.velocities, moves = _advance(batch.velocities, forces, kicks, of_atoms)
    batch.cell_velocities, strains = _advance(batch.cell_velocities, pull, cells, of_cells)
    batch.started = batch.started | on
    return moves, strains / batch.counts[:, None, None]


def temperature(batch: Batch, schedule: Schedule) -> Tensor:
    """(S,) now: it goes linearly from that of the stage's first step to that of its last."""
    first, last = schedule.temperature[batch.stage], schedule.final_temperature[batch.stage]
    steps = (schedule.max_steps[batch.stage] - 1).clamp(min=1)
    return torch.lerp(first, last, (batch.stage_steps / steps).clamp(max=1.0).to(first))


def _advance(
    velocities: Tensor, forces: Tensor, kicks: Tensor, knobs: tuple[Tensor, ...]
) -> tuple[Tensor, Tensor]:
    """New velocities and moves; all broadcast."""
    on, started, dt, push, decay, kick_size = knobs
    before = torch.where(started, velocities, 0.0) + push * forces
    after = decay * before + kick_size * kicks
    return torch.where(on, after, velocities), torch.where(on, 0.5 * dt * (before + after), 0.0)
