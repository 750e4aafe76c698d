"""Basin hopping: cycles of a random move and a descent; what is higher is taken back.

Wales & Doye, J. Phys. Chem. A 101, 5111 (1997): a cycle moves a structure, lets it descend,
and accepts or takes back by the rule of Metropolis. Cycle 0 descends without a move. A descent that
breaks is taken back, too: as long as none went well, the moves begin where the stage began.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from aiida_rm.engine.relaxation import moves, noise
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.field import Field
from aiida_rm.engine.relaxation.pieces import find_pieces, in_pieces
from aiida_rm.engine.relaxation.schedule import HOP, Schedule
from aiida_rm.engine.settings import MOVES

#: Angstrom^2 that a molecule in pieces is judged higher; more than what E~ differs by, and not so
#: much that the digits of E~ are lost.
TORN = 100.0


def begin(batch: Batch, on: Tensor) -> None:
    """What the structures in ``on`` (S,) go back to until a descent went well: where they are."""
    atoms = on.index_select(0, batch.owner)
    batch.kept_positions = torch.where(atoms[:, None], batch.positions, batch.kept_positions)
    batch.kept_cells = torch.where(on[:, None, None], batch.cells, batch.kept_cells)
    batch.kept_atom_energy = torch.where(atoms, 0.0, batch.kept_atom_energy)
    batch.kept_value = torch.where(on, torch.inf, batch.kept_value)
    batch.best_value = torch.where(on, torch.inf, batch.best_value)


def end_cycle(batch: Batch, ended: Tensor, field: Field, schedule: Schedule) -> Tensor:
    """Accept or take back what the structures in ``ended`` (S,) have come to, and move them again.

    Args:
        batch: changes.
        ended: structures at the end of a descent of hop.
        field: E~ + pV and the penalty as they are now; what is broken is taken back.
        schedule: the stages.

    Returns:
        (S,) which of them have no cycle left, or no move that they could make; these are as low
        as they ever were in this stage. Where no descent went well, ``best_value`` is infinite.
    """
    # In this order: the random numbers of accepting are those of the cycle that ended, those of
    # the move are of the next one, and the pieces to join are of what is kept by then.
    _accept(batch, ended, _connected(batch, ended, field, schedule), schedule)
    batch.cycle = batch.cycle + ended
    labels = _labels(batch, ended, schedule)
    move = _choose(batch, schedule, in_pieces(batch, ended, labels))
    over = ended & ((batch.cycle > schedule.cycles[batch.stage]) | (move < 0))
    again = ended & ~over
    _put(batch, over, batch.best_positions, batch.best_cells)
    _put(batch, again, batch.kept_positions, batch.kept_cells)
    _move(batch, again, move, labels, schedule)
    return over


def _accept(batch: Batch, ended: Tensor, field: Field, schedule: Schedule) -> None:
    """Keep where the structures in ``ended`` are, by the rule of Metropolis, and the lowest."""
    temperature = schedule.temperature[batch.stage]
    state = noise.hashed(batch.key, batch.stage, batch.cycle, noise.ACCEPT)
    chance = torch.exp((batch.kept_value - field.value) / temperature.clamp(min=1e-30))
    good = ended & ~field.broken
    accepted = good & (noise.uniform(state) < chance)
    lowest = good & (field.value < batch.best_value)
    atoms = accepted.index_select(0, batch.owner)
    batch.kept_positions = torch.where(atoms[:, None], batch.positions, batch.kept_positions)
    batch.kept_atom_energy = torch.where(atoms, field.atom_energy, batch.kept_atom_energy)
    batch.kept_cells = torch.where(accepted[:, None, None], batch.cells, batch.kept_cells)
    batch.kept_value = torch.where(accepted, field.value, batch.kept_value)
    atoms = lowest.index_select(0, batch.owner)
    batch.best_positions = torch.where(atoms[:, None], batch.positions, batch.best_positions)
    batch.best_cells = torch.where(lowest[:, None, None], batch.cells, batch.best_cells)
    batch.best_value = torch.where(lowest, field.value, batch.best_value)


def _put(batch: Batch, which: Tensor, positions: Tensor, cells: Tensor) -> None:
    """Put the structures in ``which`` (S,) to these positions (A, 3) and cells (S, 3, 3)."""
    atoms = which.index_select(0, batch.owner)
    batch.positions = torch.where(atoms[:, None], positions, batch.positions)
    batch.cells = torch.where(which[:, None, None], cells, batch.cells)


def _move(batch: Batch, again: Tensor, move: Tensor, labels: Tensor, schedule: Schedule) -> None:
    """Make the moves (S,) of the structures in ``again``; ``labels`` (A,) are of the pieces."""
    moves.jitter(batch, again & (move == MOVES.index("jitter")), schedule)
    moves.swap(batch, again & (move == MOVES.index("swap")))
    moves.relocate(batch, again & (move == MOVES.index("relocate")))
    moves.join(batch, again & (move == MOVES.index("join")), labels)
    moves.strain(batch, again & (move == MOVES.index("strain")), schedule)


def _connected(batch: Batch, ended: Tensor, field: Field, schedule: Schedule) -> Field:
    """The field with molecules in pieces far above all others, where a stage wants them in one."""
    if not schedule.connects:
        return field
    which = ended & schedule.connected[batch.stage]
    torn = in_pieces(batch, which, find_pieces(batch, which))
    return replace(field, value=field.value + TORN * torn)


def _labels(batch: Batch, ended: Tensor, schedule: Schedule) -> Tensor:
    """(A,) of the pieces of what was accepted last, where a stage may join them."""
    joins = ended & (schedule.moves[batch.stage, MOVES.index("join")] > 0)
    return find_pieces(replace(batch, positions=batch.kept_positions), joins)


def _choose(batch: Batch, schedule: Schedule, torn: Tensor) -> Tensor:
    """(S,) which of MOVES each structure makes next, as often as its stage names it; -1: none.

    ``torn`` (S,) are molecules in pieces, which alone can be joined.
    """
    weights = schedule.moves[batch.stage]
    always = torch.ones_like(batch.done)
    able = torch.stack([always, moves.mixed(batch), batch.counts > 1, torn, batch.pbc.all(1)], 1)
    weights = weights * able
    state = noise.hashed(batch.key, batch.stage, batch.cycle, noise.MOVE)
    ticket = noise.uniform(state) * weights.sum(1)
    move = (torch.cumsum(weights, 1) <= ticket[:, None]).sum(1)
    some = (schedule.kind[batch.stage] == HOP) & (weights.sum(1) > 0)
    return torch.where(some, move, -1)
