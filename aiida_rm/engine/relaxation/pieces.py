"""Which atoms of a molecule hang together."""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.elements import RADII
from aiida_rm.engine.relaxation.batch import Batch

#: Atoms nearer than the sum of their covalent radii times this are bound.
_BOND = 1.3


def find_pieces(batch: Batch, which: Tensor) -> Tensor:
    """(A,) a label of each atom, the same for those that hang together by bonds.

    Only the molecules in ``which`` (S,) are looked at; elsewhere every atom has its own label.
    """
    one, other = all_pairs(batch, which & ~batch.pbc.any(1))
    radii = torch.tensor(RADII, dtype=batch.positions.dtype, device=batch.positions.device)
    reach = _BOND * (radii[batch.numbers[one]] + radii[batch.numbers[other]])
    gaps = batch.positions[one] - batch.positions[other]
    bound = torch.linalg.vector_norm(gaps, dim=1) < reach
    one, other = one[bound], other[bound]
    labels = torch.arange(len(batch.numbers), device=one.device)
    while True:
        # The lowest label of the neighbours, and of what that label has come to.
        lower = labels.scatter_reduce(0, one, labels[other], "amin")
        lower = lower[lower]
        if torch.equal(lower, labels):
            return labels
        labels = lower


def in_pieces(batch: Batch, which: Tensor, labels: Tensor) -> Tensor:
    """(S,) the molecules in ``which`` with more than one label."""
    lows = torch.full_like(batch.counts, len(labels)).scatter_reduce(0, batch.owner, labels, "amin")
    highs = torch.zeros_like(batch.counts).scatter_reduce(0, batch.owner, labels, "amax")
    return which & ~batch.pbc.any(1) & (highs > lows)


def all_pairs(batch: Batch, which: Tensor) -> tuple[Tensor, Tensor]:
    """(P,), (P,) all ordered pairs of two atoms within each of the structures in ``which`` (S,)."""
    owner = batch.owner
    atoms = torch.nonzero(which.index_select(0, owner))[:, 0]
    times = batch.counts[owner[atoms]]
    one = atoms.repeat_interleave(times)
    begin = torch.cumsum(times, 0) - times
    rank = torch.arange(len(one), device=one.device) - begin.repeat_interleave(times)
    other = batch.starts[owner[one]] + rank
    apart = one != other
    return one[apart], other[apart]
