"""A user's own energy, added to E~: a torch function or an ASE calculator, by import path."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.errors import SettingsError, first_line
from aiida_rm.engine.imports import import_by_path
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.relaxation.memory import exhausted


@dataclass(frozen=True)
class Penalty:
    """What is added for S structures with A atoms.

    Attributes:
        energy: (S,).
        forces: (A, 3) minus its slope along the positions.
        virial: (S, 3, 3) its slope along a strain of cell and atoms together.
    """

    energy: Tensor
    forces: Tensor
    virial: Tensor


PenaltyFunction = Callable[[Graph], Penalty]


def load_penalty(path: str, weight: float, arguments: str) -> PenaltyFunction:
    """The penalty behind ``package.module:name``.

    A function ``name(graph, **arguments)`` gets a :class:`Graph` with the edges within the
    potential's cutoff, and returns (S,) energies that depend on ``graph.positions``,
    ``graph.cells`` or ``graph.edge_vectors()`` through torch. A class is an ASE calculator: made
    with the arguments, it is asked for one structure after the other.

    Args:
        path: as above.
        weight: multiplies it.
        arguments: keyword arguments, as JSON.

    Raises:
        SettingsError: it cannot be imported, or is neither.
    """
    found = import_by_path("penalty", path)
    values = json.loads(arguments)
    if inspect.isclass(found) and hasattr(found, "get_potential_energy"):
        return _Calculator(path, partial(_called, path, found, **values), weight)
    if inspect.isclass(found) or not callable(found):
        raise SettingsError(
            f"'penalty': '{path}' is neither a function of a graph nor a class of ASE calculators"
        )
    return _Function(path, found, weight, values)


def _called(path: str, function: Callable[..., Any], *given: Any, **values: Any) -> Any:
    """What the user's code returns, or its error with its name."""
    try:
        return function(*given, **values)
    except Exception as error:
        if exhausted(error):
            raise
        raise SettingsError(
            f"'penalty': '{path}' failed with {first_line(error)}; mend it, or its "
            "'penalty_arguments'"
        ) from error


@dataclass(frozen=True)
class _Function:
    path: str
    function: Callable[..., Tensor]
    weight: float
    values: dict[str, Any]

    def __call__(self, graph: Graph) -> Penalty:
        with torch.enable_grad():
            # Strain of positions and cells together: its slope is the virial.
            strain = torch.zeros_like(graph.cells).requires_grad_(True)
            positions = graph.positions.detach().requires_grad_(True)
            own = strain.index_select(0, graph.batch)
            moved = graph.moved(
                positions + torch.bmm(positions[:, None], own)[:, 0],
                graph.cells + torch.bmm(graph.cells, strain),
            )
            energy = _called(self.path, self.function, moved, **self.values)
            self._check(energy, graph)
            energy = self.weight * energy
            slopes: tuple[Tensor | None, ...] = (None, None)
            if energy.requires_grad:
                slopes = torch.autograd.grad(energy.sum(), (positions, strain), allow_unused=True)
        forces = torch.zeros_like(positions) if slopes[0] is None else -slopes[0]
        virial = torch.zeros_like(strain) if slopes[1] is None else slopes[1]
        return Penalty(
            energy=energy.detach().to(graph.positions),
            forces=forces.detach(),
            virial=(0.5 * (virial + virial.transpose(1, 2))).detach(),
        )

    def _check(self, energy: Any, graph: Graph) -> None:
        shape = tuple(energy.shape) if isinstance(energy, Tensor) else type(energy).__name__
        if shape != (graph.n_structures,):
            raise SettingsError(
                f"'penalty': '{self.path}' returned {shape} for {graph.n_structures} structures; "
                "it must return a tensor with one energy for each, of shape (S,)"
            )


@dataclass
class _Calculator:
    """One structure after the other.

    A structure it fails for gets an energy that is no number, and so counts as broken; that it
    fails for all at the beginning is an error.
    """

    path: str
    make: Callable[[], Any]
    weight: float
    works: bool = False

    def __post_init__(self) -> None:
        self.calculator = self.make()

    def __call__(self, graph: Graph) -> Penalty:
        from ase import Atoms

        found, trouble = [], None
        owner = graph.batch.cpu().numpy()
        numbers = graph.numbers.cpu().numpy()
        positions = graph.positions.detach().double().cpu().numpy()
        cells = graph.cells.detach().double().cpu().numpy()
        periodic = graph.periodic.cpu().numpy()
        for index, cell in enumerate(cells):
            atoms = Atoms(
                numbers[owner == index],
                positions[owner == index],
                cell=cell,
                pbc=bool(periodic[index]),
            )
            try:
                found.append(_called(self.path, self._of, atoms))
                self.works = True
            except SettingsError as error:
                trouble = error
                found.append((np.nan, np.zeros((len(atoms), 3)), np.zeros((3, 3))))
                self.calculator = self.make()  # it may be in any state
        if trouble and not self.works:
            raise trouble
        energies, forces, virials = zip(*found, strict=True)

        def weighted(values: Any) -> Tensor:
            return self.weight * torch.as_tensor(np.asarray(values)).to(graph.positions)

        return Penalty(
            energy=weighted(energies),
            forces=weighted(np.concatenate(forces)),
            virial=weighted(np.stack(virials)),
        )

    def _of(self, atoms: Any) -> tuple[float, Any, Any]:
        """Energy, forces and virial of a structure."""
        atoms.calc = self.calculator
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        virial = np.zeros((3, 3))
        if atoms.pbc.all():
            virial = atoms.get_stress(voigt=False) * atoms.get_volume()
        return energy, forces, virial
