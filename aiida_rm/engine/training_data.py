"""Batches for training: structures packed by atoms, their graphs built once and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph, build_graph

Rows = np.ndarray[Any, Any]
#: Edges whose graphs are kept in memory (11 bytes each); beyond, they are built each time.
_KEPT_EDGES = 60_000_000


@dataclass(frozen=True)
class Targets:
    """Forces (A, 3) and stress (S, 3, 3) to learn."""

    forces: Tensor
    stress: Tensor


class TrainingData:
    """Perturbed frames as graphs with targets on a device."""

    def __init__(
        self, frames: Frames, cutoff: float, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.frames = frames
        self.counts = frames.counts
        self.cutoff = cutoff
        self.dtype = dtype
        self.device = device
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._edges = 0

    def batch(self, rows: Rows) -> tuple[Graph, Targets]:
        """Graph and targets of some structures."""
        part = self.frames.select(rows)
        missing = [int(row) for row in rows if int(row) not in self._kept]
        graph = self._join(part, rows) if not missing else self._build(part, rows)
        forces = torch.as_tensor(part.atom["force"], dtype=self.dtype, device=self.device)
        stress = torch.as_tensor(part.structure["stress"], dtype=self.dtype, device=self.device)
        return graph, Targets(forces, stress)

    def scales(self, rows: Rows) -> tuple[float, float]:
        """Mean squared target of forces (per atom) and stress (per cell), at least 1e-8."""
        part = self.frames.select(rows)
        force = float((part.atom["force"] ** 2).sum(-1).mean())
        stress = part.structure["stress"][part.pbc.all(axis=1)]
        spread = float((stress**2).sum((1, 2)).mean()) if len(stress) else 1.0
        return max(force, 1e-8), max(spread, 1e-8)

    def _build(self, part: Frames, rows: Rows) -> Graph:
        graph = build_graph(part, self.cutoff, dtype=self.dtype, device=self.device)
        if self._edges + graph.edge_index.shape[1] <= _KEPT_EDGES:
            owner = graph.batch[graph.edge_index[0]]
            sizes = torch.bincount(owner, minlength=len(part)).tolist()
            local = (graph.edge_index - torch.as_tensor(part.ptr[:-1]).to(owner)[owner]).int()
            for row, edges, shifts in zip(
                rows, local.split(sizes, 1), graph.shifts.to(torch.int8).split(sizes), strict=True
            ):
                if int(row) not in self._kept:
                    self._kept[int(row)] = (edges.clone(), shifts.clone())
                    self._edges += edges.shape[1]
        return graph

    def _join(self, part: Frames, rows: Rows) -> Graph:
        kept = [self._kept[int(row)] for row in rows]
        starts = part.ptr[:-1].tolist()
        edges = [edge.long() + start for (edge, _), start in zip(kept, starts, strict=True)]

        def put(array: Rows, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=self.device)

        return Graph(
            numbers=put(part.numbers, torch.int64),
            positions=put(part.positions, self.dtype),
            cells=put(part.cells, self.dtype),
            periodic=put(part.pbc.all(axis=1), torch.bool),
            batch=put(part.batch, torch.int64),
            edge_index=torch.cat(edges, 1),
            shifts=torch.cat([shift for _, shift in kept]).to(self.dtype),
        )


def pack(rows: Rows | Sequence[int], counts: Rows, limit: int) -> list[Rows]:
    """Cut rows, in order, into batches of at most ``limit`` atoms (one structure at least)."""
    batches, begin, atoms = [], 0, 0
    rows = np.asarray(rows)
    for place, size in enumerate(counts[rows]):
        if place > begin and atoms + size > limit:
            batches.append(rows[begin:place])
            begin, atoms = place, 0
        atoms += int(size)
    if len(rows):
        batches.append(rows[begin:])
    return batches
