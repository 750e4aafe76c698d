"""Penalties as a user might write them; the tests name them by their import path."""

from __future__ import annotations

from typing import Any

import torch
from ase.calculators.calculator import Calculator
from ase.calculators.lj import LennardJones

from aiida_rm.engine.neighbors import Graph

constant = 3


class Soft(LennardJones):  # type: ignore[misc]
    """Lennard-Jones at a larger distance."""

    def __init__(self, **given: Any) -> None:
        super().__init__(sigma=1.0, epsilon=0.01, rc=2.4, smooth=True, **given)


class OnlyEnergy(Calculator):  # type: ignore[misc]
    """A calculator without forces."""

    implemented_properties = ("energy",)

    def calculate(self, *given: Any) -> None:
        super().calculate(*given)
        self.results = {"energy": 0.0}


class Fussy(Soft):
    """Fails for whatever holds an atom above a height."""

    def calculate(self, atoms: Any = None, *given: Any, **more: Any) -> None:
        if atoms.positions[:, 2].max() > 50:
            raise RuntimeError("SCF did not converge")
        super().calculate(atoms, *given, **more)


def flat(graph: Graph, strength: float = 1.0, height: float = 0.0) -> torch.Tensor:
    """A spring of every atom to a plane."""
    squares = strength * (graph.positions[:, 2] - height).square()
    return squares.new_zeros(graph.n_structures).index_add(0, graph.batch, squares)


def pairs(graph: Graph, length: float = 1.6) -> torch.Tensor:
    """Springs along all edges: they pull at the cell, too."""
    squares = (torch.linalg.vector_norm(graph.edge_vectors(), dim=1) - length).square()
    owner = graph.batch[graph.edge_index[0]]
    return squares.new_zeros(graph.n_structures).index_add(0, owner, 0.01 * squares)


def large(graph: Graph) -> torch.Tensor:
    """The cell alone."""
    return -torch.linalg.det(graph.cells).log()


def column(graph: Graph) -> torch.Tensor:
    """A wrong shape."""
    return flat(graph)[:, None]


def number(_graph: Graph) -> float:
    """A wrong kind."""
    return 0.0


def broken(_graph: Graph) -> torch.Tensor:
    """An error of its own."""
    raise ZeroDivisionError("too bad")


def nothing(graph: Graph) -> torch.Tensor:
    """The same for all."""
    return torch.full((graph.n_structures,), 2.0)
