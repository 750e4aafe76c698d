"""Equivariant message passing: scalars and vectors of each atom, exchanged with its neighbours.

PaiNN (Schuett, Unke and Gastegger, ICML 2021, arXiv:2102.03150) with a softened direction and a
smooth cutoff. More data and more elements than one structure are where it earns its cost
(docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch_geometric.utils import scatter

from aiida_rm.engine.elements import MAX_NUMBER
from aiida_rm.engine.potential.radial import bessel, bessel_from_cosines, directions, fade, lengths
from aiida_rm.engine.potential.tables import Tables


@dataclass(frozen=True)
class EquivariantHyperparameters:
    """What fixes the shape of the network; see TrainSettings for the meaning."""

    cutoff: float
    features: int
    layers: int
    radial: int

    def to_plain(self) -> dict[str, object]:
        """For the header of a potential file."""
        return asdict(self)


class Message(nn.Module):
    """What neighbours tell an atom: scalars (A, F) and vectors (A, 3, F) to add to its own."""

    message_scale: Tensor

    def __init__(self, features: int, radial: int) -> None:
        super().__init__()
        self.sender = nn.Sequential(
            nn.Linear(features, features), nn.SiLU(), nn.Linear(features, 3 * features)
        )
        self.filter = nn.Linear(radial, 3 * features, bias=False)
        self.register_buffer("message_scale", torch.ones(()))

    def forward(
        self,
        scalars: Tensor,
        vectors: Tensor,
        edge_index: Tensor,
        radial: Tensor,
        angular: Tensor,
        even: bool,
    ) -> tuple[Tensor, Tensor]:
        """Sum over the neighbours; ``radial`` (E, n) holds the cutoff, ``angular`` is (E, 3)."""
        centre, neighbour = edge_index[0], edge_index[1]
        # index_select: twice as fast as [neighbour], with its derivatives.
        told = self.sender(scalars).index_select(0, neighbour) * self.filter(radial)
        scalar, along, across = told.chunk(3, -1)
        vector = angular[:, :, None] * along[:, None, :]
        vector = vector + vectors.index_select(0, neighbour) * across[:, None, :]
        both = torch.cat([scalar[:, None, :], vector], 1)
        atoms = scalars.shape[0]
        if even:
            total = both.view(atoms, -1, *both.shape[1:]).sum(1)
        else:
            total = scatter(both, centre, dim=0, dim_size=atoms)
        total = total * self.message_scale
        return total[:, 0], total[:, 1:]


class Update(nn.Module):
    """What an atom makes of it, by itself."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mix = nn.Linear(features, 2 * features, bias=False)
        self.gates = nn.Sequential(
            nn.Linear(2 * features, features), nn.SiLU(), nn.Linear(features, 3 * features)
        )

    def forward(self, scalars: Tensor, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars (A, F) and vectors (A, 3, F) to add."""
        left, right = self.mix(vectors).chunk(2, -1)
        norms = torch.sqrt(right.square().sum(1) + 1e-6)
        own, product, turn = self.gates(torch.cat([scalars, norms], -1)).chunk(3, -1)
        return own + product * (left * right).sum(1), turn[:, None, :] * left


class EquivariantNetwork(nn.Module):
    """Energies of atoms from their surroundings and those of their neighbours.

    Shapes: E edges, A atoms, F features, n radial functions.
    """

    def __init__(self, shape: EquivariantHyperparameters) -> None:
        super().__init__()
        self.shape = shape
        self.species = nn.Embedding(MAX_NUMBER + 1, shape.features)
        self.tables = Tables(waves=bessel_from_cosines(shape.radial))
        layers = range(shape.layers)
        self.messages = nn.ModuleList(Message(shape.features, shape.radial) for _ in layers)
        self.updates = nn.ModuleList(Update(shape.features) for _ in layers)
        half = max(1, shape.features // 2)
        last = nn.Linear(half, 1)
        self.readout = nn.Sequential(nn.Linear(shape.features, half), nn.SiLU(), last)
        # Begin near zero: the core alone.
        last.weight.data.mul_(0.1)

    def trained(self) -> list[nn.Parameter]:
        """What training changes."""
        return list(self.parameters())

    @property
    def n_parameters(self) -> int:
        """Numbers that training changes; of the embedding only what an element has."""
        rest = self.species.weight.numel() - self.shape.features
        return sum(p.numel() for p in self.parameters()) - rest

    def forward(
        self,
        vectors: Tensor,
        edge_index: Tensor,
        numbers: Tensor,
        weights: Tensor,
        even: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """(A,) energies and (A, H) the last hidden layer, from edge vectors (E, 3) and more.

        Args:
            vectors: (E, 3) of the edges.
            edge_index: (2, E) sorted by the first row.
            numbers: (A,) of the elements.
            weights: (E,) how far a pair is seen (potential/core.py).
            even: that of Graph.
        """
        distances, cutoff = lengths(vectors), self.shape.cutoff
        radial = bessel(distances, cutoff, self.tables["waves"])
        radial = radial * (weights * fade(distances, cutoff))[:, None]
        angular = directions(vectors)
        scalars = self.species(numbers)
        state = scalars.new_zeros((numbers.shape[0], 3, self.shape.features))
        for message, update in zip(self.messages, self.updates, strict=True):
            scalar, vector = message(scalars, state, edge_index, radial, angular, even)
            scalars, state = scalars + scalar, state + vector
            scalar, vector = update(scalars, state)
            scalars, state = scalars + scalar, state + vector
        hidden: Tensor = self.readout[:-1](scalars)
        energies: Tensor = self.readout[-1](hidden)
        return energies[:, 0], hidden

    @torch.no_grad()
    def standardise(
        self, vectors: Tensor, edge_index: Tensor, numbers: Tensor, weights: Tensor
    ) -> None:
        """Set the scale of the sums over neighbours from a first batch."""
        seen = weights * fade(lengths(vectors), self.shape.cutoff)
        squares = torch.zeros(numbers.shape[0], dtype=seen.dtype, device=seen.device)
        squares = squares.index_add(0, edge_index[0], seen.square())
        for message in self.messages:
            message.get_buffer("message_scale").fill_(1.0 / float(squares.mean().sqrt() + 1e-3))
