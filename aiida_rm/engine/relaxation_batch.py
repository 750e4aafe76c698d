"""The structures of one batch under relaxation, as flat arrays; they leave and others join."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aiida_rm.engine.neighbors import Graph


@dataclass
class Batch:
    """S structures under way. Per atom: numbers, positions, velocities. Per structure: rest."""

    numbers: Tensor
    positions: Tensor
    velocities: Tensor
    counts: Tensor
    cells: Tensor
    pbc: Tensor
    cell_velocities: Tensor
    row: Tensor
    stage: Tensor
    steps: Tensor
    stage_steps: Tensor
    dt: Tensor
    alpha: Tensor
    downhill: Tensor
    started: Tensor
    done: Tensor
    status: Tensor
    energy: Tensor
    fmax: Tensor
    # Neighbour lists, and where the atoms were when they were made.
    edge_index: Tensor
    shifts: Tensor
    listed_positions: Tensor
    listed_cells: Tensor
    stale: Tensor

    _PER_ATOM = ("numbers", "positions", "velocities", "listed_positions")
    _PER_EDGE = ("edge_index", "shifts")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def batch(self) -> Tensor:
        """(A,) owner of each atom."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.counts.device), self.counts
        )

    def graph(self) -> Graph:
        """The structures as they are now, with the edges that are listed."""
        return Graph(
            numbers=self.numbers,
            positions=self.positions,
            cells=self.cells,
            periodic=self.pbc.all(1),
            batch=self.batch,
            edge_index=self.edge_index,
            shifts=self.shifts,
        )

    def keep(self, mask: Tensor) -> Batch:
        """Only some of the structures."""
        atoms = mask[self.batch]
        edges = atoms[self.edge_index[0]]
        renumbered = torch.cumsum(atoms, 0) - 1
        fields = self._fields()
        kept = {
            name: value[atoms] if name in self._PER_ATOM else value[mask]
            for name, value in fields.items()
        }
        kept["edge_index"] = renumbered[self.edge_index[:, edges]]
        kept["shifts"] = self.shifts[edges]
        return Batch(**kept)

    def join(self, other: Batch) -> Batch:
        """These structures and then the others."""
        theirs = other._fields()
        joined = {name: torch.cat([value, theirs[name]]) for name, value in self._fields().items()}
        joined["edge_index"] = torch.cat(
            [self.edge_index, other.edge_index + len(self.numbers)], dim=1
        )
        joined["shifts"] = torch.cat([self.shifts, other.shifts])
        return Batch(**joined)

    def _fields(self) -> dict[str, Tensor]:
        return {k: v for k, v in self.__dict__.items() if k not in self._PER_EDGE}
