"""The gradient of a training step as one compiled program, with the plain one to fall back on.

Both derivatives, by the edges and by the weights, are traced through ``torch.func``: this is one
program without an autograd graph, for which torch.compile needs no more than sizes that vary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from aiida_rm.engine.errors import first_line
from aiida_rm.engine.neighbors import Graph, even_places
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.potential import predict
from aiida_rm.engine.training.data import Targets
from aiida_rm.engine.training.loss import add_gradient, weighted_loss

#: A batch with its targets, and the factors of :func:`weighted_loss`.
Example = tuple[Graph, Targets, Tensor]
#: Sizes that vary from batch to batch: atoms (and edges of each), or structures.
_VARYING = {
    "numbers": (0,),
    "positions": (0,),
    "batch": (0,),
    "neighbours": (0, 1),
    "shifts": (0, 1),
    "cells": (0,),
    "periodic": (0,),
    "forces": (0,),
    "stress": (0,),
    "energy": (0,),
    "weights": (0,),
}
#: Largest difference to the plain gradient, over the largest entry.
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}


class CompiledGradient:
    """:func:`loss.add_gradient` of one model, compiled; or as it is, once anything goes wrong."""

    def __init__(
        self, model: Potential, weights: Sequence[nn.Parameter], say: Callable[[str], None]
    ) -> None:
        """Prepare; nothing is compiled yet.

        Args:
            model: the potential in training; its tensors may change in place alone.
            weights: those of its parameters that are trained.
            say: takes a line.
        """
        self._model, self._weights, self._say = model, list(weights), say
        energies = Energies(model)
        tensors = {**dict(energies.named_parameters()), **dict(energies.named_buffers())}
        names = {id(tensor): name for name, tensor in tensors.items()}
        # Detached, they share memory with what the optimiser changes.
        self._free = {names[id(weight)]: weight.detach() for weight in self._weights}
        self._fixed = {n: t.detach() for n, t in tensors.items() if n not in self._free}
        # Helper processes are worth it for the many kernels of a GPU alone.
        here = next(iter(self._free.values())).device.type == "cpu"
        options: dict[str, Any] | None = {"compile_threads": 1} if here else None
        self._run: Any = torch.compile(_program(energies), fullgraph=True, options=options)

    @property
    def works(self) -> bool:
        """Whether it is (still) the compiled program that runs."""
        return self._run is not None

    def compile(self, examples: Sequence[Example]) -> None:
        """Compile, and see that the numbers are those of the plain gradient.

        Args:
            examples: batches, two of different sizes if there are; the first decides for which
                machine code, so it should not depend on where a training is resumed.
        """
        began = time.monotonic()
        self._say("compiling the training step: a minute or more")
        plain = partial(add_gradient, self._model, self._weights)
        for example in examples:
            wanted, found = self._alone(plain, example), self._alone(self, example)
            limit = _TOLERANCE[wanted.dtype] * float(wanted.abs().max())
            if not bool((found - wanted).abs().max() <= limit):
                self.give_up("its gradient differs")
            if not self.works:
                return
        self._say(f"compiled in {time.monotonic() - began:.0f} s")

    def __call__(self, graph: Graph, targets: Targets, factors: Tensor) -> Tensor:
        """Add the derivatives of the loss by the weights to what they have; the loss."""
        if self.works:
            try:
                batch = even_batch(graph, targets)
                with torch.no_grad():
                    gradient, loss = self._run(self._free, self._fixed, batch, factors)
            except Exception as error:  # noqa: BLE001 - compilers fail in many ways
                self.give_up(first_line(error))
            else:
                for name, weight in zip(self._free, self._weights, strict=True):
                    part = gradient[name]
                    weight.grad = part if weight.grad is None else weight.grad + part
                return cast("Tensor", loss)
        return add_gradient(self._model, self._weights, graph, targets, factors)

    def give_up(self, reason: str) -> None:
        """From now on as it is."""
        if self.works:
            self._say(f"the training step is not compiled ({reason}); training goes on without")
        self._run = None

    def _alone(self, way: Callable[..., Tensor], example: Example) -> Tensor:
        """All derivatives in a row, and the loss."""
        for weight in self._weights:
            weight.grad = None
        loss = way(*example)
        parts = [torch.zeros_like(w) if w.grad is None else w.grad for w in self._weights]
        for weight in self._weights:
            weight.grad = None
        return torch.cat([*(part.flatten() for part in parts), loss.reshape(1)])


class Energies(nn.Module):
    """What functional_call needs: a module whose call is the energy."""

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, vectors: Tensor, graph: Graph) -> tuple[Tensor, Tensor]:
        """Sum of the energies, and the energies (A,), of a batch of :func:`even_batch`."""
        atoms, _ = self.potential.atom_energies(vectors, graph)
        # The core of an edge that fills has no slope, but an energy.
        centre, neighbour = graph.edge_index[0], graph.edge_index[1]
        filled = (centre == neighbour) & (graph.shifts == 0).all(-1)
        cores = 0.5 * self.potential.core_strength * filled.to(atoms.dtype)
        atoms = atoms - torch.zeros_like(atoms).index_add(0, centre, cores)
        return atoms.sum(), atoms


def _program(energies: Energies) -> Callable[..., Any]:
    def loss_of(
        free: dict[str, Tensor], fixed: dict[str, Tensor], batch: dict[str, Tensor], factors: Tensor
    ) -> Tensor:
        graph, targets = unpack(batch)

        def energy(vectors: Tensor) -> Any:
            return torch.func.functional_call(energies, {**fixed, **free}, (vectors, graph))

        vectors = graph.edge_vectors()
        slope, atoms = torch.func.grad(energy, has_aux=True)(vectors)
        return weighted_loss(predict(graph, vectors, atoms, slope), graph, targets, factors)

    return torch.func.grad_and_value(loss_of)


def even_batch(graph: Graph, targets: Targets) -> dict[str, Tensor]:
    """The same batch with equally many edges (at least 2) an atom, and an empty structure more.

    What is filled in is an edge of no length from an atom to itself, which nobody sees
    (potential/core.py), and a lone atom without weight: no size is below 2, which would call for
    another program.
    """
    atoms = graph.numbers.shape[0] + 1
    place, width = even_places(graph.edge_index[0], atoms, least=2)
    neighbours = torch.arange(atoms, device=place.device).repeat_interleave(width)
    shifts = graph.shifts.new_zeros((atoms * width, 3))
    batch = {
        "numbers": _with(graph.numbers, 1),
        "positions": _with(graph.positions, 0),
        "batch": _with(graph.batch, graph.n_structures),
        "neighbours": neighbours.index_copy(0, place, graph.edge_index[1]).view(atoms, width),
        "shifts": shifts.index_copy(0, place, graph.shifts).view(atoms, width, 3),
        "cells": _with(graph.cells, 0),
        "periodic": _with(graph.periodic, False),
        "forces": _with(targets.forces, 0),
        "stress": _with(targets.stress, 0),
        "energy": _with(targets.energy, 0),
        "weights": _with(targets.weights, 0),
    }
    for name, sizes in _VARYING.items():
        for size in sizes:
            torch._dynamo.mark_dynamic(batch[name], size)
    return batch


def _with(rows: Tensor, value: float) -> Tensor:
    """One more row."""
    return torch.cat([rows, rows.new_full((1, *rows.shape[1:]), value)])


def unpack(batch: dict[str, Tensor]) -> tuple[Graph, Targets]:
    """Graph and targets of what :func:`even_batch` made."""
    atoms, width = batch["neighbours"].shape
    centre = torch.arange(atoms, device=batch["neighbours"].device)[:, None].expand(atoms, width)
    graph = Graph(
        numbers=batch["numbers"],
        positions=batch["positions"],
        cells=batch["cells"],
        periodic=batch["periodic"],
        batch=batch["batch"],
        edge_index=torch.stack([centre.flatten(), batch["neighbours"].flatten()]),
        shifts=batch["shifts"].flatten(0, 1),
        even=True,
    )
    return graph, Targets(batch["forces"], batch["stress"], batch["energy"], batch["weights"])
