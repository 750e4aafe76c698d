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

#: Candidate pairs looked at in one go; bounds the memory at about 200 bytes each.
_CHUNK = 2_000_000
#: No pair at the very cutoff is lost to rounding.
_SLACK = 1e-9


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
        vectors: (E, 3) the edge vectors, where they are known already.
        even: whether all atoms are the centre of equally many edges; what is summed over
            neighbours needs no index then.
    """

    numbers: Tensor
    positions: Tensor
    cells: Tensor
    periodic: Tensor
    batch: Tensor
    edge_index: Tensor
    shifts: Tensor
    vectors: Tensor | None = None
    even: bool = False

    @property
    def n_structures(self) -> int:
        """Structures in the batch."""
        return self.cells.shape[0]

    def edge_vectors(self) -> Tensor:
        """(E, 3) from each centre to its neighbour's image, in angstrom."""
        if self.vectors is not None:
            return self.vectors
        centre, neighbour = self.edge_index[0], self.edge_index[1]
        # index_select is several times quicker than an index in brackets.
        cells = self.cells.index_select(0, self.batch.index_select(0, centre))
        offsets = torch.bmm(self.shifts[:, None, :], cells)[:, 0]
        ends = self.positions.index_select(0, neighbour)
        return ends - self.positions.index_select(0, centre) + offsets

    def moved(self, positions: Tensor, cells: Tensor) -> Graph:
        """The same edges after the atoms and cells have moved."""
        return replace(self, positions=positions, cells=cells, vectors=None)

    def within(self, cutoff: float) -> Graph:
        """Only the edges that are shorter than ``cutoff`` now."""
        vectors = self.edge_vectors()
        keep = torch.nonzero(vectors.square().sum(-1) < cutoff**2)[:, 0]
        return replace(
            self,
            edge_index=self.edge_index.index_select(1, keep),
            shifts=self.shifts.index_select(0, keep),
            vectors=vectors.index_select(0, keep),
            even=False,
        )


def even_places(centre: Tensor, atoms: int, least: int = 1) -> tuple[Tensor, int]:
    """Where edges (E,), sorted by centre, stand in a table of equally many for each atom.

    Returns:
        (E,) places in the flattened table (atoms, width), and its width: the most edges of an atom.
    """
    counts = counted(centre, atoms)
    width = max(int(counts.max()), least)
    begin = torch.cumsum(counts, 0) - counts
    first = torch.arange(atoms, device=centre.device) * width - begin
    return torch.arange(len(centre), device=centre.device) + first.index_select(0, centre), width


def counted(indices: Tensor, size: int) -> Tensor:
    """(size,) how often each index is there; torch.bincount would wait for a GPU."""
    return indices.new_zeros(size).scatter_add(0, indices, torch.ones_like(indices))


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
    device = counts.device
    owner = torch.repeat_interleave(
        torch.arange(len(counts), device=device), counts, output_size=len(positions)
    )
    scaled = torch.bmm(positions[:, None], inverse.index_select(0, owner))[:, 0]
    wraps = torch.where(pbc.index_select(0, owner), torch.floor(scaled), 0.0)
    scaled = scaled - wraps
    # How far a neighbour is at most, in fractional coordinates; cutoff over the cell's height.
    reach = cutoff * torch.linalg.vector_norm(inverse, dim=1) + _SLACK
    images = torch.where(pbc, 2 * reach + 1, 1.0).prod(1)
    cost = torch.cumsum((counts * images).index_select(0, owner), 0)
    sizes = torch.unique_consecutive(cost // _CHUNK, return_counts=True)[1].tolist() or [0]

    edges, offsets = [], []
    for centres in torch.split(torch.arange(len(owner), device=device), sizes):
        edge, offset = _edges_of(centres, owner, scaled, full, reach, pbc, counts, cutoff)
        edges.append(edge)
        offsets.append(offset)
    edge_index = torch.cat(edges, 1)
    centre, neighbour = edge_index[0], edge_index[1]
    moved = wraps.index_select(0, centre) - wraps.index_select(0, neighbour)
    return edge_index, torch.cat(offsets) + moved


def _edges_of(
    centres: Tensor,
    owner: Tensor,
    scaled: Tensor,
    cells: Tensor,
    reach: Tensor,
    pbc: Tensor,
    counts: Tensor,
    cutoff: float,
) -> tuple[Tensor, Tensor]:
    """Edges of some atoms: every pair of their structures, in every image that may be near."""
    home = owner.index_select(0, centres)
    partners = counts.index_select(0, home)
    first = (torch.cumsum(counts, 0) - counts).index_select(0, home)
    place, rank = _unrolled(partners)
    centre = centres.index_select(0, place)
    neighbour = first.index_select(0, place) + rank
    slot = home.index_select(0, place)
    gap = scaled.index_select(0, neighbour) - scaled.index_select(0, centre)
    # Whole numbers s with |gap + s| within reach, in each direction that repeats.
    bound, repeats = reach.index_select(0, slot), pbc.index_select(0, slot)
    low = torch.where(repeats, torch.ceil(-bound - gap), 0.0)
    spans = torch.where(repeats, torch.floor(bound - gap) - low + 1, 1.0).clamp(min=0).long()
    number = spans.prod(1)

    pair, rank = _unrolled(number)
    spans = spans.index_select(0, pair)
    step = rank // spans[:, 2]
    steps = torch.stack([step // spans[:, 1], step % spans[:, 1], rank % spans[:, 2]], 1)
    shift = low.index_select(0, pair) + steps
    vectors = _products(gap.index_select(0, pair) + shift, cells, slot.index_select(0, pair))
    x, y, z = vectors
    itself = (centre == neighbour).index_select(0, pair) & (shift == 0).all(1)
    keep = torch.nonzero((x * x + y * y + z * z < cutoff**2) & ~itself)[:, 0]
    pair = pair.index_select(0, keep)
    edge_index = torch.stack([centre.index_select(0, pair), neighbour.index_select(0, pair)])
    return edge_index, shift.index_select(0, keep)


def _products(rows: Tensor, cells: Tensor, slot: Tensor) -> list[Tensor]:
    """The three columns of ``rows`` (N, 3) times their cells; many small products are slow."""
    a, b, c = rows.T.contiguous()
    entries = cells.flatten(1).T.contiguous()
    own = [entry.index_select(0, slot) for entry in entries]
    return [a * own[k] + b * own[3 + k] + c * own[6 + k] for k in range(3)]


def _unrolled(sizes: Tensor) -> tuple[Tensor, Tensor]:
    """For each n in ``sizes``, one after the other: its place n times, and 0..n-1."""
    total = int(sizes.sum())
    places = torch.arange(len(sizes), device=sizes.device)
    place = torch.repeat_interleave(places, sizes, output_size=total)
    begin = (torch.cumsum(sizes, 0) - sizes).index_select(0, place)
    return place, torch.arange(total, device=sizes.device) - begin


def _complete_cells(cells: Tensor, pbc: Tensor) -> Tensor:
    """Cells that can be inverted: missing directions become unit vectors."""
    if bool(pbc.all()):
        return cells
    some = pbc.any(1)
    one = torch.eye(3, dtype=cells.dtype, device=cells.device)
    whole = torch.where(some[:, None, None], cells, one)
    for index in torch.nonzero(some & ~pbc.all(1))[:, 0].tolist():
        full = complete_cell(cells[index].cpu().numpy(), pbc[index].cpu().numpy())
        whole[index] = torch.as_tensor(full, dtype=cells.dtype)
    return whole
