"""Moves at random: all atoms a little, two for each other, one or a piece elsewhere, the cell.

The numbers drawn depend on the structure, its stage and its cycle alone (noise.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.elements import RADII
from aiida_rm.engine.relaxation import cell, noise
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.pieces import all_pairs
from aiida_rm.engine.relaxation.schedule import Schedule
from aiida_rm.engine.settings import CELL_MODES

#: An atom is drawn by the exponential of its share of E~ over this, in square angstrom.
_WARMTH = 0.05
#: Where each component of a symmetric matrix is in (xx, yy, zz, yz, xz, xy).
_VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
#: Places that are tried around the atom that gets a new neighbour.
_PLACES = 8


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


def relocate(batch: Batch, which: Tensor) -> None:
    """Take an atom that costs much E~ and put it next to another one.

    The structures in ``which`` hold two atoms or more. The other atom is drawn evenly in one of
    two cases, else by its E~, too. The distance is the sum of the covalent radii; of some random
    directions, the one with the most room is taken.
    """
    owner = batch.owner
    among = which.index_select(0, owner)
    state = noise.hashed(batch.key, batch.stage, batch.cycle)
    cost = batch.kept_atom_energy / _WARMTH
    one = _draw(batch, noise.hashed(state, noise.FIRST), among, cost)
    moving = torch.zeros_like(among).index_fill(0, one, True)
    even = noise.uniform(noise.hashed(state, noise.EVEN)) < 0.5
    host_cost = torch.where(even.index_select(0, owner), 0.0, cost)
    host = _draw(batch, noise.hashed(state, noise.SECOND), among & ~moving, host_cost)
    _attach(batch, moving, one, host, state)


def join(batch: Batch, which: Tensor, labels: Tensor) -> None:
    """Bring a piece of a molecule to the rest of it, as it is, so that two atoms form a bond.

    Pieces further apart than the cutoff feel nothing of each other. In either one an atom is drawn
    by its E~; they end up at the sum of their covalent radii, in the direction with most room.

    Args:
        batch: changes.
        which: (S,) molecules in several pieces.
        labels: (A,) of the pieces, see :func:`pieces.find_pieces`.
    """
    owner = batch.owner
    among = which.index_select(0, owner)
    state = noise.hashed(batch.key, batch.stage, batch.cycle)
    cost = batch.kept_atom_energy / _WARMTH
    one = _draw(batch, noise.hashed(state, noise.FIRST), among, cost)
    own = torch.full_like(batch.counts, -1).index_copy(0, owner[one], labels[one])
    moving = among & (labels == own.index_select(0, owner))
    host = _draw(batch, noise.hashed(state, noise.SECOND), among & ~moving, cost)
    _attach(batch, moving, one, host, state)


def strain(batch: Batch, which: Tensor, schedule: Schedule) -> None:
    """Give the cells in ``which`` another shape of the same volume; the atoms go along.

    Each component of the symmetric strain is even within the stage's ``strain``; its trace is taken
    out, as the volume is found again by the descent, and the shape may not be.
    """
    state = noise.hashed(batch.key, batch.stage, batch.cycle, noise.STRAIN)
    drawn = (2 * noise.uniform(noise.components(state, 6)) - 1).to(batch.cells)
    size = torch.where(which, schedule.strain[batch.stage], 0.0)
    voigt = size[:, None] * drawn
    matrices = voigt[:, _VOIGT].reshape(-1, 3, 3)
    periodic = batch.pbc.all(1)
    shape = torch.full_like(batch.stage, CELL_MODES.index("shape"))
    strains = cell.allowed(matrices, shape, periodic)
    strains = cell.allowed(strains, schedule.cell_mode[batch.stage], periodic)
    cell.deform(batch, torch.zeros_like(batch.positions), strains)


def _attach(batch: Batch, moving: Tensor, one: Tensor, host: Tensor, state: Tensor) -> None:
    """Move the atoms in ``moving`` (A,) together until ``one`` is a bond away from ``host``.

    Of some random directions from the host, the one with the most room is taken.

    Args:
        batch: changes.
        moving: some atoms, not all, of the structures at hand.
        one: (N,) an atom among them, of each structure.
        host: (N,) one that stays, of each structure, in the same order.
        state: (S,) of the random numbers.
    """
    owner, positions = batch.owner, batch.positions
    radii = torch.tensor(RADII, dtype=positions.dtype, device=positions.device)
    length = radii[batch.numbers[one]] + radii[batch.numbers[host]]
    drawn = noise.hashed(state[owner[one]], noise.PLACES)
    ways = noise.normal(noise.components(noise.components(drawn, _PLACES), 3)).to(positions)
    ways = ways / torch.linalg.vector_norm(ways, dim=2, keepdim=True)
    shifts = (positions[host] - positions[one])[:, None] + length[:, None, None] * ways

    order = torch.zeros_like(batch.counts).index_copy(
        0, owner[one], torch.arange(len(one), device=one.device)
    )
    here = torch.zeros_like(batch.done).index_fill(0, owner[one], True)
    mover, other = all_pairs(batch, here)
    between = moving[mover] & ~moving[other]
    mover, other = mover[between], other[between]
    place = order[owner[mover]]
    gaps = (positions[mover] - positions[other])[:, None] + shifts[place]
    gaps = _nearest_images(gaps, batch, owner[other])
    room = gaps.new_full((len(one), _PLACES), torch.inf).scatter_reduce(
        0,
        place[:, None].expand(-1, _PLACES),
        torch.linalg.vector_norm(gaps, dim=2),
        "amin",
    )
    chosen = shifts[torch.arange(len(one), device=one.device), room.argmax(1)]
    movers = torch.nonzero(moving)[:, 0]
    batch.positions = positions.index_add(0, movers, chosen[order[owner[movers]]])


def mixed(batch: Batch) -> Tensor:
    """(S,) whether there is more than one element."""
    numbers = batch.numbers
    lows = torch.full_like(batch.counts, 2**31).scatter_reduce(0, batch.owner, numbers, "amin")
    highs = torch.zeros_like(batch.counts).scatter_reduce(0, batch.owner, numbers, "amax")
    return highs > lows


def _nearest_images(gaps: Tensor, batch: Batch, owner: Tensor) -> Tensor:
    """Vectors (N, K, 3) to the nearest image, by rounding; owner (N,) says whose cell it is."""
    periodic = batch.pbc.all(1)[:, None, None]
    one = torch.eye(3, dtype=gaps.dtype, device=gaps.device)
    cells = torch.where(periodic, batch.cells, one)
    # A cell that collapsed elsewhere in the batch does no harm here.
    inverse, _ = torch.linalg.inv_ex(cells)
    whole = torch.round(torch.bmm(gaps, inverse.index_select(0, owner)))
    back = torch.bmm(whole, cells.index_select(0, owner))
    return torch.where(periodic.index_select(0, owner), gaps - back, gaps)


def _draw(batch: Batch, state: Tensor, among: Tensor, cost: Tensor | None = None) -> Tensor:
    """One atom of each structure with atoms in ``among`` (A,), in the structures' order.

    Each with a chance in proportion to the exponential of its cost (A,), or alike (by the largest
    of Gumbel's numbers).
    """
    state = noise.hashed(state.index_select(0, batch.owner), batch.rank)
    ticket = -torch.log(-torch.log(noise.uniform(state).clamp(1e-300, 1 - 1e-16)))
    if cost is not None:
        ticket = ticket + cost.double().nan_to_num()
    ticket = torch.where(among, ticket, -torch.inf)
    highest = ticket.new_full((len(batch),), -torch.inf)
    highest = highest.scatter_reduce(0, batch.owner, ticket, "amax")
    return torch.nonzero(among & (ticket == highest.index_select(0, batch.owner)))[:, 0]
