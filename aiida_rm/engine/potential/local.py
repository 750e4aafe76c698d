"""A strictly local, body-ordered, invariant network: no message passing, few parameters.

Each atom's surroundings are expanded in radial functions and solid harmonics (a neighbour
density), contracted to invariants of two, three and four bodies, and read out by a small
perceptron: the atomic cluster expansion (Drautz, Phys. Rev. B 99, 014104, 2019) with a learnt
radial basis. From one structure, small and local generalises best (docs/benchmarks.md).
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor, nn

from aiida_rm.engine.elements import MAX_NUMBER
from aiida_rm.engine.neighbors import even_places
from aiida_rm.engine.potential.harmonics import (
    gaunt,
    harmonics_from_monomials,
    monomials,
    triples,
)
from aiida_rm.engine.potential.radial import (
    bessel_from_cosines,
    cosines,
    directions,
    fade,
    lengths,
)
from aiida_rm.engine.potential.tables import Tables

_EMBEDDINGS = ("sender.weight", "centre.weight")


@dataclass(frozen=True)
class LocalHyperparameters:
    """What fixes the shape of the network; see TrainSettings for the meaning."""

    cutoff: float
    channels: int
    radial: int
    l_max: int
    hidden: tuple[int, ...]
    element_channels: int

    def to_plain(self) -> dict[str, object]:
        """For the header of a potential file."""
        return {**asdict(self), "hidden": list(self.hidden)}


class LocalNetwork(nn.Module):
    """Energies of atoms from their surroundings within the cutoff.

    Shapes: E edges, A atoms, k element channels, n radial functions, c channels, m harmonics.
    """

    feature_mean: Tensor
    feature_scale: Tensor
    density_scale: Tensor

    def __init__(self, shape: LocalHyperparameters) -> None:
        super().__init__()
        self.shape = shape
        self.sender = nn.Embedding(MAX_NUMBER + 1, shape.element_channels)
        self.centre = nn.Embedding(MAX_NUMBER + 1, shape.element_channels)
        columns = shape.element_channels * shape.radial
        self.mix = nn.Parameter(
            torch.randn(shape.l_max + 1, columns, shape.channels) / columns**0.5
        )
        self.couplings = triples(shape.l_max)
        self.tables = Tables(
            waves=bessel_from_cosines(shape.radial),
            harmonics=harmonics_from_monomials(shape.l_max),
            **{f"coefficients_{n}": gaunt(*lll) for n, lll in enumerate(self.couplings)},
        )
        features = shape.channels * (1 + shape.l_max + len(self.couplings))
        self.register_buffer("density_scale", torch.ones(()))
        self.register_buffer("feature_mean", torch.zeros(features))
        self.register_buffer("feature_scale", torch.ones(features))
        widths = [features + shape.element_channels, *shape.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear(widths[-1], 1)
        self.deep = nn.Sequential(*layers, last)
        self.linear = nn.Linear(features, 1, bias=False)
        # Begin near zero: the core alone.
        nn.init.zeros_(self.linear.weight)
        last.weight.data.mul_(0.1)
        if shape.element_channels == 1:
            # One element, or one channel: a constant is all that an embedding can say.
            nn.init.ones_(self.sender.weight)
            nn.init.zeros_(self.centre.weight)

    def trained(self) -> list[nn.Parameter]:
        """What training changes: all but the embedding of a single channel."""
        fixed = ("sender.", "centre.") if self.shape.element_channels == 1 else ()
        return [p for name, p in self.named_parameters() if not name.startswith(fixed)]

    @property
    def n_parameters(self) -> int:
        """Numbers that training changes."""
        return sum(p.numel() for p in self.trained())

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
        features = self.features(vectors, edge_index, numbers, weights, even)
        features = (features - self.feature_mean) * self.feature_scale
        hidden: Tensor = self.deep[:-1](torch.cat([features, self.centre(numbers)], -1))
        deep: Tensor = self.deep[-1](hidden)
        linear: Tensor = self.linear(features)
        return (deep + linear)[:, 0], hidden

    def features(
        self,
        vectors: Tensor,
        edge_index: Tensor,
        numbers: Tensor,
        weights: Tensor,
        even: bool = False,
    ) -> Tensor:
        """(A, F) invariants of the surroundings of each atom, not yet standardised."""
        density = self.density(vectors, edge_index, numbers, weights, even)
        # Linear and the same for all atoms: on the weights, which are few.
        waves = self.tables["waves"] * self.density_scale
        mixing = torch.unflatten(self.mix, 1, (-1, self.shape.radial))
        mixing = torch.matmul(waves.T, mixing).flatten(1, 2)
        # Components first and atoms last: long rows, and large products of matrices.
        sizes = [2 * ell + 1 for ell in range(self.shape.l_max + 1)]
        pairs = zip(torch.split(density, sizes), mixing.unbind(), strict=True)
        blocks = [torch.matmul(part, mix) for part, mix in pairs]
        invariants = [blocks[0][0]]
        invariants += [block.square().sum(0) for block in blocks[1:]]
        for n, (i, j, k) in enumerate(self.couplings):
            tensor = self.tables[f"coefficients_{n}"].flatten(0, 1)
            pair = (blocks[i][:, None] * blocks[j][None]).flatten(0, 1)
            coupled = torch.matmul(tensor.T, pair.flatten(1)).view_as(blocks[k])
            invariants.append((coupled * blocks[k]).sum(0))
        return torch.cat(invariants, -1)

    def density(
        self,
        vectors: Tensor,
        edge_index: Tensor,
        numbers: Tensor,
        weights: Tensor,
        even: bool = False,
    ) -> Tensor:
        """(m, A, k n): sum over neighbours of harmonic x element x :func:`cosines`."""
        centre, neighbour = edge_index[0], edge_index[1]
        distances, cutoff, orders = lengths(vectors), self.shape.cutoff, self.shape.radial
        radial = cosines(distances, cutoff, orders) * (weights * fade(distances, cutoff))
        if self.shape.element_channels > 1:
            kinds = numbers.index_select(0, neighbour)
            species = self.sender.weight.T.index_select(1, kinds)
            radial = (species[:, None] * radial).flatten(0, 1)
        angular = monomials(directions(vectors).T.contiguous(), self.shape.l_max)
        # Padded to the atom with most neighbours, the sum is one batched matrix product.
        rows, atoms = torch.cat([radial, angular]), numbers.shape[0]
        padded = rows.view(rows.shape[0], atoms, -1) if even else pad(rows, centre, atoms)
        left, right = torch.split(padded, [radial.shape[0], angular.shape[0]])
        summed = torch.bmm(right.transpose(0, 1), left.permute(1, 2, 0))
        # What is linear in the sums, and the same for all edges, waits for them.
        summed = summed.transpose(0, 1).flatten(1)
        return torch.matmul(self.tables["harmonics"], summed).view(-1, atoms, radial.shape[0])

    @torch.no_grad()
    def standardise(
        self, vectors: Tensor, edge_index: Tensor, numbers: Tensor, weights: Tensor
    ) -> None:
        """Set the scales of densities and features from a first batch."""
        density = self.density(vectors, edge_index, numbers, weights)
        waves = self.tables["waves"].T
        density = torch.matmul(torch.unflatten(density, -1, (-1, self.shape.radial)), waves)
        self.density_scale.fill_(1.0 / float(density.square().mean().sqrt() + 1e-6))
        features = self.features(vectors, edge_index, numbers, weights)
        self.feature_mean.copy_(features.mean(0))
        self.feature_scale.copy_(1.0 / (features.std(0, unbiased=False) + 1e-3))

    def widened(self, channels: int) -> LocalNetwork:
        """The same function of the elements it knows, with more element channels for others."""
        if channels == self.shape.element_channels:
            return self
        wide = LocalNetwork(replace(self.shape, element_channels=channels)).to(self.mix)
        tensors = self.state_dict()
        for name, fresh in wide.state_dict().items():
            given = tensors[name]
            if fresh.shape != given.shape:
                # The new channels: untouched in the embeddings, without effect in the weights.
                whole = fresh.clone() if name in _EMBEDDINGS else torch.zeros_like(fresh)
                whole[tuple(slice(0, size) for size in given.shape)] = given
                tensors[name] = whole
        wide.load_state_dict(tensors)
        return wide


def pad(rows: Tensor, centre: Tensor, atoms: int) -> Tensor:
    """(R, A, N) from one column an edge (R, E), sorted by centre; N: most neighbours, or 1."""
    place, width = even_places(centre, atoms)
    table = rows.new_zeros((len(rows), atoms * width)).index_copy_(1, place, rows)
    return table.view(len(rows), atoms, width)
