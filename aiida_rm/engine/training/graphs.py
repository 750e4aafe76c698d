"""Neighbours of single structures, small enough to keep or to send, and graphs joined of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Array, Frames
from aiida_rm.engine.neighbors import Graph, build_graph

#: Edges (2, E) int32 of one structure, its atoms counted from 0, and their shifts (E, 3): int8,
#: or int32 where atoms are many cells apart.
Neighbours = tuple[Tensor, Tensor]
#: The same of several structures in a row, and the number of edges of each.
Packed = tuple[Array, Array, list[int]]

#: Beyond, coordinates are a mistake, and too coarse for forces.
_MOST_CELLS = 1e6


def find_neighbours(part: Frames, cutoff: float, device: torch.device) -> list[Neighbours]:
    """Neighbours of every structure, within ``cutoff`` angstrom, found on a device.

    Raises:
        FramesError: atoms are more than a million cells apart.
    """
    graph = build_graph(part, cutoff, device=device)
    owner = graph.batch[graph.edge_index[0]]
    sizes = torch.bincount(owner, minlength=len(part)).tolist()
    local = (graph.edge_index - torch.as_tensor(part.ptr[:-1]).to(owner)[owner]).int()
    furthest = float(graph.shifts.abs().max()) if len(graph.shifts) else 0.0
    if furthest > _MOST_CELLS:
        raise FramesError(
            f"two atoms that are neighbours are written {furthest:g} cells apart; wrap the atoms "
            "into their cells"
        )
    small = torch.int8 if furthest <= torch.iinfo(torch.int8).max else torch.int32
    return _cut(local, graph.shifts.to(small), sizes)


def join_neighbours(
    part: Frames, neighbours: Sequence[Neighbours], dtype: torch.dtype, device: torch.device
) -> Graph:
    """The graph of all structures in ``part`` from the neighbours of each."""

    def put(array: Array, kind: torch.dtype) -> Tensor:
        return torch.as_tensor(array, dtype=kind, device=device)

    # Many structures at once: one by one, they would keep a GPU waiting.
    sizes = [edge.shape[1] for edge, _ in neighbours]
    starts = torch.repeat_interleave(
        put(part.ptr[:-1], torch.int64), put(np.array(sizes), torch.int64), output_size=sum(sizes)
    )
    return Graph(
        numbers=put(part.numbers, torch.int64),
        positions=put(part.positions, dtype),
        cells=put(part.cells, dtype),
        periodic=put(np.asarray(part.pbc.all(axis=1)), torch.bool),
        batch=put(part.batch, torch.int64),
        edge_index=torch.cat([edge for edge, _ in neighbours], 1) + starts,
        shifts=torch.cat([shift for _, shift in neighbours]).to(dtype),
    )


def pack_neighbours(neighbours: Sequence[Neighbours]) -> Packed:
    """Plain arrays, to be sent from one process to another."""
    edges = torch.cat([edge for edge, _ in neighbours], 1)
    shifts = torch.cat([shift for _, shift in neighbours])
    return edges.numpy(), shifts.numpy(), [edge.shape[1] for edge, _ in neighbours]


def unpack_neighbours(packed: Packed, device: torch.device) -> list[Neighbours]:
    """The inverse of :func:`pack_neighbours`, on a device."""
    edges, shifts, sizes = packed
    return _cut(torch.from_numpy(edges).to(device), torch.from_numpy(shifts).to(device), sizes)


def _cut(edges: Tensor, shifts: Tensor, sizes: list[int]) -> list[Neighbours]:
    return list(zip(torch.split(edges, sizes, 1), torch.split(shifts, sizes), strict=True))
