"""L-BFGS with a largest move, each structure with a memory of its own.

The two loops of Liu & Nocedal (Math. Program. 45, 503, 1989). There is no line search, so a step is
one force call. Where E~ is concave along the last move, what was learnt is forgotten and the
structure goes a small way along its forces, from where it learns anew.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.relaxation.batch import Batch

#: Steps that are remembered; 8 are as good as 4 (docs/benchmarks.md).
MEMORY = 4
#: Of the forces, where nothing is known of the curvature; that of a spring is 1.
_FIRST = 0.1
_LONGEST = 20.0
#: No atom moves further (angstrom), nor a row of N x strain.
_MAX_MOVE = 0.2


def step(batch: Batch, forces: Tensor, pull: Tensor, on: Tensor) -> tuple[Tensor, Tensor]:
    """Moves (A, 3) and strains (S, 3, 3) of the structures in ``on``, zero for the others.

    What the structures in ``on`` remember changes accordingly.
    """
    atoms = len(batch.numbers)
    # The cell as three more atoms, R rows in all.
    places = torch.arange(len(batch), device=on.device)
    owner = torch.cat([batch.owner, places.repeat_interleave(3)])

    def rows(of_atoms: Tensor, of_cells: Tensor) -> Tensor:
        return torch.cat([of_atoms, of_cells.flatten(0, 1)])

    def to_rows(values: Tensor) -> Tensor:
        return values.index_select(0, owner)[:, None]

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return a.new_zeros(len(batch)).index_add(0, owner, (a * b).sum(1))

    slope = -rows(forces, pull)
    moves = rows(batch.past_moves, batch.past_strains)
    # The last entry is the slope from where it was moved last.
    past = rows(batch.past_changes, batch.past_pulls)
    last, change = moves[:, -1], slope - past[:, -1]
    changes = torch.cat([past[:, :-1], change[:, None]], 1)
    curvature = dot(last, change)
    learnt = on & batch.started & (curvature > 0)
    inverse = torch.where(learnt, 1 / curvature.clamp(min=1e-20), 0.0)
    scale = curvature / dot(change, change).clamp(min=1e-20)
    scale = torch.where(learnt, scale.clamp(max=_LONGEST), _FIRST)
    weights = torch.cat([batch.weights[:, 1:], inverse[:, None]], 1)
    weights = torch.where(learnt[:, None], weights, 0.0)

    way, shares = slope, []
    for n in reversed(range(MEMORY)):
        shares.append(weights[:, n] * dot(moves[:, n], way))
        way = way - to_rows(shares[-1]) * changes[:, n]
    way = to_rows(scale) * way
    for n in range(MEMORY):
        share = shares[MEMORY - 1 - n] - weights[:, n] * dot(changes[:, n], way)
        way = way + to_rows(share) * moves[:, n]
    # Rounding may spoil a step; the forces always lead down.
    way = torch.where(to_rows(dot(way, slope) > 0), -way, -_FIRST * slope)
    longest = torch.zeros_like(scale).scatter_reduce(
        0, owner, torch.linalg.vector_norm(way, dim=1), "amax"
    )
    shorten = (_MAX_MOVE / longest.clamp(min=_MAX_MOVE)).nan_to_num(0.0)
    way = torch.where(to_rows(on), to_rows(shorten) * way, 0.0)

    kept = to_rows(on)[:, :, None]
    moves = torch.where(kept, torch.cat([moves[:, 1:], way[:, None]], 1), moves)
    past = torch.where(kept, torch.cat([changes[:, 1:], slope[:, None]], 1), past)
    batch.past_moves, batch.past_changes = moves[:atoms], past[:atoms]
    batch.past_strains = torch.unflatten(moves[atoms:], 0, (-1, 3))
    batch.past_pulls = torch.unflatten(past[atoms:], 0, (-1, 3))
    batch.weights = torch.where(on[:, None], weights, batch.weights)
    batch.started = batch.started | on
    strains = torch.unflatten(way[atoms:], 0, (-1, 3)) / batch.counts[:, None, None]
    return way[:atoms], strains
