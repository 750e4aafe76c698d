"""Moves at random, and which of them are kept: jitter, and the cycles of hop and swap.

A cycle of basin hopping (Wales & Doye, J. Phys. Chem. A 101, 5111, 1997) moves a structure, lets
it descend by FIRE, and accepts or takes back by the rule of Metropolis. Cycle 0 descends without a
move: it says what the others are compared with.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.relaxation import noise
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.schedule import HOP, SWAP, Schedule


def jitter(batch: Batch, which: Tensor, schedule: Schedule) -> None:
    """Move each coordinate of the structures in ``which`` evenly within the stage's amplitude."""
    state = noise.hashed(batch.key, batch.stage, batch.cycle, noise.JITTER)
    state = noise.hashed(state.index_select(0, batch.owner), batch.rank)
    size = torch.where(which, schedule.amplitude[batch.stage], 0.0)
    shifts = (2 * noise.uniform(noise.components(state, 3)) - 1).to(batch.positions)
    batch.positions = batch.positions + size.index_select(0, batch.owner)[:, None] * shifts


def swap(batch: Batch, which: Tensor) -> None:
    """Let two unlike atoms, drawn evenly, change places in the structures in ``which``.

    These hold two elements or more. The atoms keep their order: what is sorted stays so.
    """
    owner = batch.owner
    among = which.index_select(0, owner)
    state = noise.hashed(batch.key, batch.stage, batch.cycle)
    one = _draw(batch, noise.hashed(state, noise.FIRST), among)
    kind = batch.numbers.new_zeros(len(batch)).index_copy(0, owner[one], batch.numbers[one])
    unlike = among & (batch.numbers != kind.index_select(0, owner))
    other = _draw(batch, noise.hashed(state, noise.SECOND), unlike)
    places = torch.arange(len(batch.numbers), device=batch.numbers.device)
    places = places.index_copy(0, one, other).index_copy(0, other, one)
    batch.positions = batch.positions.index_select(0, places)


def mixed(batch: Batch) -> Tensor:
    """(S,) whether there is more than one element."""
    numbers = batch.numbers
    lows = torch.full_like(batch.counts, 2**31).scatter_reduce(0, batch.owner, numbers, "amin")
    highs = torch.zeros_like(batch.counts).scatter_reduce(0, batch.owner, numbers, "amax")
    return highs > lows


def judge(batch: Batch, ended: Tensor, value: Tensor, broken: Tensor, schedule: Schedule) -> Tensor:
    """Accept or take back what the structures in ``ended`` (S,) have come to, and move them again.

    Args:
        batch: changes.
        ended: structures at the end of a descent of hop or swap.
        value: (S,) E~ + pV, with the penalty.
        broken: (S,) structures that exploded; this is taken back.
        schedule: the stages.

    Returns:
        (S,) which of them have no cycle left; these are as low as they ever were in this stage.
    """
    first = batch.cycle == 0
    temperature = schedule.temperature[batch.stage]
    state = noise.hashed(batch.key, batch.stage, batch.cycle, noise.ACCEPT)
    chance = torch.exp((batch.kept_value - value) / temperature.clamp(min=1e-30))
    good = ended & ~broken
    accepted = good & (first | (noise.uniform(state) < chance))
    lowest = good & (first | (value < batch.best_value))
    owner = batch.owner

    def choose(which: Tensor, positions: Tensor, other: Tensor) -> Tensor:
        return torch.where(which.index_select(0, owner)[:, None], positions, other)

    batch.kept_positions = choose(accepted, batch.positions, batch.kept_positions)
    batch.kept_cells = torch.where(accepted[:, None, None], batch.cells, batch.kept_cells)
    batch.kept_value = torch.where(accepted, value, batch.kept_value)
    batch.best_positions = choose(lowest, batch.positions, batch.best_positions)
    batch.best_cells = torch.where(lowest[:, None, None], batch.cells, batch.best_cells)
    batch.best_value = torch.where(lowest, value, batch.best_value)
    batch.cycle = batch.cycle + ended
    swapping = schedule.kind[batch.stage] == SWAP
    over = ended & (batch.cycle > schedule.cycles[batch.stage])
    if "swap" in schedule.kinds:
        over |= ended & swapping & ~mixed(batch)
    again = ended & ~over
    batch.positions = choose(over, batch.best_positions, batch.positions)
    batch.positions = choose(again, batch.kept_positions, batch.positions)
    batch.cells = torch.where(over[:, None, None], batch.best_cells, batch.cells)
    batch.cells = torch.where(again[:, None, None], batch.kept_cells, batch.cells)
    if "hop" in schedule.kinds:
        jitter(batch, again & (schedule.kind[batch.stage] == HOP), schedule)
    if "swap" in schedule.kinds:
        swap(batch, again & swapping)
    return over


def _draw(batch: Batch, state: Tensor, among: Tensor) -> Tensor:
    """One atom of each structure with atoms in ``among`` (A,), in the structures' order."""
    state = noise.hashed(state.index_select(0, batch.owner), batch.rank)
    ticket = torch.where(among, noise.uniform(state), -1.0)
    highest = ticket.new_full((len(batch),), -1.0)
    highest = highest.scatter_reduce(0, batch.owner, ticket, "amax")
    return torch.nonzero(among & (ticket == highest.index_select(0, batch.owner)))[:, 0]
