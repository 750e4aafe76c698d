"""Neighbour lists with a skin: a structure's list serves until its atoms have moved too far."""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.neighbors import counted, neighbour_list
from aiida_rm.engine.relaxation.batch import Batch

#: A cell with more images within reach, or less volume an atom (cubic angstrom), has collapsed; its
#: list would fill the memory.
_MAX_IMAGES, _MIN_VOLUME = 20_000, 0.3


def refresh(batch: Batch, cutoff: float, skin: float) -> Tensor:
    """Make new lists, to ``cutoff + skin``, for the structures whose list may miss a pair.

    Returns:
        (S,) which structures can have none: a cell collapsed, or something is not finite.
    """
    stale = (batch.stale | ~_safe(batch, cutoff, skin)) & ~batch.done
    hopeless = torch.zeros_like(stale)
    if not bool(stale.any()):
        return hopeless
    hopeless = stale & ~_sound(batch, cutoff + skin)
    stale = stale & ~hopeless
    rows = torch.nonzero(stale)[:, 0]
    if not len(rows):
        return hopeless
    atoms = stale.index_select(0, batch.owner)
    index = torch.nonzero(atoms)[:, 0]
    edges, shifts = neighbour_list(
        batch.positions.index_select(0, index).double(),
        batch.cells.index_select(0, rows).double(),
        batch.pbc.index_select(0, rows),
        batch.counts.index_select(0, rows),
        cutoff + skin,
    )
    old = torch.nonzero(~atoms.index_select(0, batch.edge_index[0]))[:, 0]
    _merge(
        batch,
        (batch.edge_index.index_select(1, old), batch.shifts.index_select(0, old)),
        (index[edges], shifts.to(batch.shifts)),
    )
    batch.listed_positions = torch.where(atoms[:, None], batch.positions, batch.listed_positions)
    batch.listed_cells = torch.where(stale[:, None, None], batch.cells, batch.listed_cells)
    batch.stale = batch.stale & ~stale
    return hopeless


def _merge(batch: Batch, old: tuple[Tensor, Tensor], new: tuple[Tensor, Tensor]) -> None:
    """One list of two that are sorted by centre, each with all edges of the centres it has."""
    size = len(batch.numbers)
    counts = [counted(edges[0], size) for edges, _ in (old, new)]
    begin = torch.cumsum(counts[0] + counts[1], 0) - counts[0] - counts[1]
    total = old[0].shape[1] + new[0].shape[1]
    edge_index, shifts = old[0].new_empty((2, total)), old[1].new_empty((total, 3))
    for (edges, moves), own in zip((old, new), counts, strict=True):
        offset = begin - (torch.cumsum(own, 0) - own)
        place = torch.arange(edges.shape[1], device=edges.device)
        place = place + offset.index_select(0, edges[0])
        edge_index.index_copy_(1, place, edges)
        shifts.index_copy_(0, place, moves)
    batch.edge_index, batch.shifts = edge_index, shifts


def _sound(batch: Batch, reach: float) -> Tensor:
    """(S,) whether positions and cell are finite, and the cell has not collapsed."""
    sums = batch.positions.sum(1) + batch.cells.sum((1, 2)).index_select(0, batch.owner)
    lost = torch.zeros_like(batch.counts).index_add(0, batch.owner, (~torch.isfinite(sums)).long())
    inverse, _ = torch.linalg.inv_ex(batch.cells)
    images = (2 * reach * torch.linalg.vector_norm(inverse, dim=1) + 1).prod(1)
    # A comparison with NaN is false.
    wide = (images < _MAX_IMAGES) & (
        torch.linalg.det(batch.cells).abs() > _MIN_VOLUME * batch.counts
    )
    sound: Tensor = (lost == 0) & (~batch.pbc.all(1) | wide)
    return sound


def _safe(batch: Batch, cutoff: float, skin: float) -> Tensor:
    """(S,) whether no pair beyond the list can have come within the cutoff."""
    one = torch.eye(3, dtype=batch.cells.dtype, device=batch.cells.device).expand_as(batch.cells)
    open_ = ~batch.pbc.all(1)[:, None, None]
    # Collapsed cells do not end the batch: they come out as not finite, hence not safe.
    deformation, _ = torch.linalg.solve_ex(
        torch.where(open_, one, batch.listed_cells), torch.where(open_, one, batch.cells)
    )
    carried = torch.bmm(batch.listed_positions[:, None], deformation.index_select(0, batch.owner))[
        :, 0
    ]
    away = torch.zeros_like(batch.energy).scatter_reduce(
        0, batch.owner, torch.linalg.vector_norm(batch.positions - carried, dim=1), "amax"
    )
    strain = torch.where(
        batch.pbc.any(1), torch.linalg.matrix_norm(deformation - one), torch.zeros_like(away)
    )
    # A pair beyond the list has come no nearer than this.
    return (1 - strain) * (cutoff + skin) - 2 * away >= cutoff
