"""The structures of one batch under relaxation, as flat arrays; they leave and others join."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from aiida_rm.engine.neighbors import Graph, counted

_PER_ATOM = (
    "numbers",
    "positions",
    "velocities",
    "kept_positions",
    "kept_atom_energy",
    "best_positions",
    "listed_positions",
    "past_moves",
    "past_changes",
)
_PER_EDGE = ("edge_index", "shifts")


@dataclass
class Batch:
    """S structures under way with A atoms and E listed edges, and L-BFGS' memory of M steps.

    Lengths are in angstrom, energies in angstrom^2.
    """

    numbers: Tensor  # (A,)
    positions: Tensor  # (A, 3)
    velocities: Tensor  # (A, 3)
    counts: Tensor  # (S,) atoms
    cells: Tensor  # (S, 3, 3)
    pbc: Tensor  # (S, 3)
    cell_velocities: Tensor  # (S, 3, 3)
    # Who it is: row of the starts, and what its random numbers depend on.
    row: Tensor  # (S,)
    key: Tensor  # (S,)
    # Where it is in the schedule.
    stage: Tensor  # (S,)
    steps: Tensor  # (S,) of all stages
    stage_steps: Tensor  # (S,) of this stage, or of this cycle of hop
    cycle: Tensor  # (S,)
    # Of FIRE; ``started``: what is remembered (velocities, past moves) belongs to this descent.
    dt: Tensor  # (S,)
    alpha: Tensor  # (S,)
    downhill: Tensor  # (S,)
    started: Tensor  # (S,)
    # Of L-BFGS, the last M steps: moves and changes of the slope (the last: the slope itself, from
    # where it was moved last), the same of the cell, and one over the curvature along each.
    past_moves: Tensor  # (A, M, 3)
    past_changes: Tensor  # (A, M, 3)
    past_strains: Tensor  # (S, 3, M, 3)
    past_pulls: Tensor  # (S, 3, M, 3)
    weights: Tensor  # (S, M)
    # The verdict.
    done: Tensor  # (S,)
    status: Tensor  # (S,)
    energy: Tensor  # (S,)
    penalty: Tensor  # (S,)
    fmax: Tensor  # (S,) as in :func:`driver.relax`
    # Of hop: the last structure that was accepted, and the lowest.
    kept_positions: Tensor  # (A, 3)
    kept_atom_energy: Tensor  # (A,)
    kept_cells: Tensor  # (S, 3, 3)
    kept_value: Tensor  # (S,)
    best_positions: Tensor  # (A, 3)
    best_cells: Tensor  # (S, 3, 3)
    best_value: Tensor  # (S,)
    # Neighbour lists, and where the atoms were when they were made.
    edge_index: Tensor  # (2, E)
    shifts: Tensor  # (E, 3)
    listed_positions: Tensor  # (A, 3)
    listed_cells: Tensor  # (S, 3, 3)
    stale: Tensor  # (S,)
    #: (A,) the structure of each atom.
    owner: Tensor = field(init=False)

    def __post_init__(self) -> None:
        places = torch.arange(len(self.counts), device=self.counts.device)
        self.owner = torch.repeat_interleave(places, self.counts, output_size=len(self.numbers))

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def starts(self) -> Tensor:
        """(S,) the first atom of each structure."""
        return torch.cumsum(self.counts, 0) - self.counts

    @property
    def rank(self) -> Tensor:
        """(A,) 0, 1, 2... within each structure."""
        atoms = torch.arange(len(self.numbers), device=self.counts.device)
        return atoms - self.starts.index_select(0, self.owner)

    @property
    def edges(self) -> Tensor:
        """(S,) listed edges of each structure."""
        owners = self.owner.index_select(0, self.edge_index[0])
        return counted(owners, len(self))

    def graph(self) -> Graph:
        """The structures as they are now, with the edges that are listed."""
        return Graph(
            numbers=self.numbers,
            positions=self.positions,
            cells=self.cells,
            periodic=self.pbc.all(1),
            batch=self.owner,
            edge_index=self.edge_index,
            shifts=self.shifts,
        )

    def keep(self, mask: Tensor) -> Batch:
        """Only some of the structures."""
        atoms = mask.index_select(0, self.owner)
        edges = torch.nonzero(atoms.index_select(0, self.edge_index[0]))[:, 0]
        renumbered = torch.cumsum(atoms, 0) - 1
        rows = torch.nonzero(mask)[:, 0]
        places = torch.nonzero(atoms)[:, 0]
        kept = {
            name: value.index_select(0, places if name in _PER_ATOM else rows)
            for name, value in self._fields().items()
        }
        ends = self.edge_index.index_select(1, edges)
        kept["edge_index"] = renumbered[ends]
        kept["shifts"] = self.shifts.index_select(0, edges)
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
        return {k: v for k, v in self.__dict__.items() if k not in (*_PER_EDGE, "owner")}
