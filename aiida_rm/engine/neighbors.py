"""Periodic neighbour graphs for a whole batch at once, in plain torch (any device).

Every pair of an atom and an image within the cutoff is an edge, an atom's own images included:
a one-atom cell has many neighbours, all of them itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.cells import complete_cell
from aiida_rm.engine.frames import Frames

#: Candidate pairs looked at in one go; bounds the memory at about 100 bytes each.
_CHUNK = 4_000_000


@dataclass(frozen=True)
class Graph:
    """A batch of S structures, A atoms and E directed edges.

    Attributes:
        numbers: (A,) int64, atomic numbers.
        positions: (A, 3) angstrom.
        cells: (S, 3, 3) angstrom, rows are lattice vectors; zeros without a cell.
        periodic: (S,) bool, periodic in all three directions: these have a stress.
        batch: (A,) int64, the structure of each atom.
        edge_index: (2, E) int64, centre and neighbour, sorted by centre.
        shifts: (E, 3), lattice vectors from the neighbour to its image, in units of the cell.
    """

    numbers: Tensor
    positions: Tensor
    cells: Tensor
    periodic: Tensor
    batch: Tensor
    edge_index: Tensor
    shifts: Tensor

    @property
    def n_structures(self) -> int:
        """Structures in the batch."""
        return self.cells.shape[0]

    def edge_vectors(self) -> Tensor:
        """(E, 3) from each centre to its neighbour's image, in angstrom."""
        centre, neighbour = self.edge_index[0], self.edge_index[1]
        # index_select is several times quicker than an index in brackets.
        cells = self.cells.index_select(0, self.batch.index_select(0, centre))
        offsets = torch.bmm(self.shifts[:, None, :], cells)[:, 0]
        ends = self.positions.index_select(0, neighbour)
        return ends - self.positions.index_select(0, centre) + offsets

    def moved(self, positions: Tensor, cells: Tensor) -> Graph:
        """The same edges after the atoms and cells have moved."""
        return replace(self, positions=positions, cells=cells)

    def within(self, cutoff: float) -> Graph:
        """Only the edges that are shorter than ``cutoff`` now."""
        keep = torch.nonzero(self.edge_vectors().square().sum(-1) < cutoff**2)[:, 0]
        return replace(
            self,
            edge_index=self.edge_index.index_select(1, keep),
            shifts=self.shifts.index_select(0, keep),
        )


def build_graph(
    frames: Frames,
    cutoff: float,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Graph:
    """The neighbour graph of all structures in ``frames``; ``cutoff`` in angstrom."""
    positions = torch.as_tensor(np.array(frames.positions), dtype=torch.float64, device=device)
    cells = torch.as_tensor(np.array(frames.cells), dtype=torch.float64, device=device)
    pbc = torch.as_tensor(np.array(frames.pbc), device=device)
    counts = torch.as_tensor(np.array(frames.counts), device=device)
    edge_index, shifts = neighbour_list(positions, cells, pbc, counts, cutoff)
    return Graph(
        numbers=torch.as_tensor(np.array(frames.numbers, np.int64), device=device),
        positions=positions.to(dtype),
        cells=cells.to(dtype),
        periodic=pbc.all(1),
        batch=torch.repeat_interleave(torch.arange(len(counts), device=device), counts),
        edge_index=edge_index,
        shifts=shifts.to(dtype),
    )


def neighbour_list(
    positions: Tensor, cells: Tensor, pbc: Tensor, counts: Tensor, cutoff: float
) -> tuple[Tensor, Tensor]:
    """All directed edges shorter than ``cutoff``.

    Args:
        positions: (A, 3) float64, anywhere, also outside the cell.
        cells: (S, 3, 3) float64.
        pbc: (S, 3) bool.
        counts: (S,) int64, atoms of each structure.
        cutoff: angstrom.

    Returns:
        ``edge_index`` (2, E) int64, sorted by centre, and ``shifts`` (E, 3) float64 whole numbers
        such that ``positions[j] - positions[i] + shifts @ cell`` is the edge from i to j.
    """
    full = _complete_cells(cells, pbc)
    inverse = torch.linalg.inv(full)
    heights = 1.0 / torch.linalg.vector_norm(inverse, dim=1)
    batch = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    fractional = torch.bmm(positions[:, None], inverse[batch])[:, 0]
    wraps = torch.where(pbc[batch], torch.floor(fractional), torch.zeros_like(fractional))
    wrapped = torch.bmm((fractional - wraps)[:, None], full[batch])[:, 0]
    # Wrapped atoms are less than one cell apart, so ceil(cutoff / height) images suffice.
    reach = torch.where(pbc, torch.ceil(cutoff / heights), torch.zeros_like(heights)).long()
    images = (2 * reach + 1).prod(1)
    starts = torch.cumsum(counts, 0) - counts

    edges, offsets = [], []
    for group in _chunks((counts**2 * images).tolist()):
        members = torch.arange(*group, device=counts.device)
        edge, offset = _group_edges(wrapped, full, reach, images, counts, starts, members, cutoff)
        edges.append(edge)
        offsets.append(offset)
    edge_index = torch.cat(edges, 1)
    shifts = torch.cat(offsets) - wraps[edge_index[1]] + wraps[edge_index[0]]
    order = torch.argsort(edge_index[0], stable=True)
    return edge_index[:, order], shifts[order]


def _group_edges(
    wrapped: Tensor,
    cells: Tensor,
    reach: Tensor,
    images: Tensor,
    counts: Tensor,
    starts: Tensor,
    members: Tensor,
    cutoff: float,
) -> tuple[Tensor, Tensor]:
    """Edges of some structures, by looking at every neighbour in every image."""
    # Points: every atom in every image of its cell, as one ragged list.
    points_of = counts[members] * images[members]
    point_owner = torch.repeat_interleave(members, points_of)
    rank = _rank(points_of)
    atom = starts[point_owner] + rank % counts[point_owner]
    image = rank // counts[point_owner]
    spans = 2 * reach[point_owner] + 1
    steps = torch.stack(
        [
            image // (spans[:, 1] * spans[:, 2]),
            (image // spans[:, 2]) % spans[:, 1],
            image % spans[:, 2],
        ],
        1,
    )
    shift = (steps - reach[point_owner]).to(wrapped.dtype)
    points = wrapped[atom] + torch.bmm(shift[:, None], cells[point_owner])[:, 0]
    # Only points that come near the bounding box of their cell's atoms can be neighbours.
    low, high = _bounds(wrapped, counts, starts, members)
    slot = torch.repeat_interleave(torch.arange(len(members), device=members.device), points_of)
    near = ((points > low[slot] - cutoff) & (points < high[slot] + cutoff)).all(1)
    points, atom, shift, slot = points[near], atom[near], shift[near], slot[near]

    # Pairs: every such point with every atom of its structure.
    owner = members[slot]
    partners = counts[owner]
    point = torch.repeat_interleave(torch.arange(len(points), device=points.device), partners)
    centre = starts[owner][point] + _rank(partners)
    gaps = points[point] - wrapped[centre]
    close = gaps.square().sum(1) < cutoff**2
    itself = (centre == atom[point]) & (shift[point] == 0).all(1)
    keep = torch.nonzero(close & ~itself)[:, 0]
    point, centre = point[keep], centre[keep]
    return torch.stack([centre, atom[point]]), shift[point]


def _bounds(
    positions: Tensor, counts: Tensor, starts: Tensor, members: Tensor
) -> tuple[Tensor, Tensor]:
    sizes = counts[members]
    slot = torch.repeat_interleave(torch.arange(len(members), device=members.device), sizes)
    atoms = positions[starts[members][slot] + _rank(sizes)]
    index = slot[:, None].expand(-1, 3)
    empty = torch.zeros((len(members), 3), dtype=positions.dtype, device=positions.device)
    low = empty.scatter_reduce(0, index, atoms, "amin", include_self=False)
    high = empty.scatter_reduce(0, index, atoms, "amax", include_self=False)
    return low, high


def _rank(sizes: Tensor) -> Tensor:
    """0..n-1 for each n in ``sizes``, one after the other."""
    total = int(sizes.sum())
    begin = torch.repeat_interleave(torch.cumsum(sizes, 0) - sizes, sizes, output_size=total)
    return torch.arange(total, device=sizes.device) - begin


def _chunks(costs: list[int]) -> list[tuple[int, int]]:
    """Runs of structures whose candidates fit into memory together."""
    runs, begin, total = [], 0, 0
    for index, cost in enumerate(costs):
        if index > begin and total + cost > _CHUNK:
            runs.append((begin, index))
            begin, total = index, 0
        total += cost
    runs.append((begin, len(costs)))
    return runs


def _complete_cells(cells: Tensor, pbc: Tensor) -> Tensor:
    """Cells that can be inverted: missing directions become unit vectors."""
    if bool(pbc.all()):
        return cells
    whole = cells.clone()
    for index in torch.nonzero(~pbc.all(1))[:, 0].tolist():
        full = complete_cell(cells[index].cpu().numpy(), pbc[index].cpu().numpy())
        whole[index] = torch.as_tensor(full, dtype=cells.dtype)
    return whole
