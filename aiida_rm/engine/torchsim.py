"""The trained potential as a model of TorchSim (https://github.com/torchsim; tried with 0.3)."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from aiida_rm.engine.device import pick_device
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.neighbors import Graph, neighbour_list
from aiida_rm.engine.potential import Potential


def torchsim_model(
    path: str | os.PathLike[str], *, dtype: str = "float64", device: str = "auto"
) -> Any:
    """A ``torch_sim.models.interface.ModelInterface`` of a potential file.

    It gives ``energy`` (n_systems,), ``forces`` (n_atoms, 3) and ``stress`` (n_systems, 3, 3) in
    the fictitious units of E~, which ranks structures and drives relaxations and is no energy in
    eV: choose tolerances accordingly.

    Args:
        path: the potential.
        dtype: float32 or float64; states must have the same.
        device: auto, cpu or cuda.

    Raises:
        PotentialError: TorchSim is not installed, or the file is missing, damaged or foreign.
    """
    try:
        from torch_sim.models.interface import ModelInterface
    except ImportError as error:
        raise PotentialError(
            f"TorchSim cannot be imported ({error}); `pip install 'aiida-rm[torchsim]'`"
        ) from error

    class ResponseMatchingModel(ModelInterface):  # type: ignore[misc]
        """E~, for TorchSim's relaxations and dynamics."""

        def __init__(self, potential: Potential) -> None:
            super().__init__()
            self.potential = potential.requires_grad_(False)
            weight = potential.element_energy
            self._device, self._dtype = weight.device, weight.dtype
            self._compute_forces = self._compute_stress = True

        def forward(self, state: Any, **_: Any) -> dict[str, Tensor]:
            """All properties of a batch of systems."""
            found = self.potential(graph_of(state, self.potential.cutoff))
            return {
                "energy": found.energy.detach(),
                "forces": found.forces.detach(),
                "stress": found.stress.detach(),
            }

    chosen = pick_device(device)
    return ResponseMatchingModel(Potential.load(path, dtype=getattr(torch, dtype), device=chosen))


def graph_of(state: Any, cutoff: float) -> Graph:
    """The neighbour graph of a state of TorchSim, or a table of its tensors.

    Cells of TorchSim have the lattice vectors as columns; ours, as rows.
    """

    def get(name: str) -> Any:
        return state[name] if isinstance(state, dict) else getattr(state, name)

    positions, batch = get("positions"), get("system_idx")
    cells = get("cell").transpose(1, 2).contiguous()
    count = cells.shape[0]
    pbc = torch.as_tensor(get("pbc"), device=positions.device).reshape(-1).expand(3)
    counts = torch.bincount(batch, minlength=count)
    edge_index, shifts = neighbour_list(
        positions.detach().double(),
        cells.detach().double(),
        pbc.expand(count, 3),
        counts,
        cutoff,
    )
    return Graph(
        numbers=get("atomic_numbers").long(),
        positions=positions.detach(),
        cells=cells.detach(),
        periodic=pbc.all().expand(count),
        batch=batch.long(),
        edge_index=edge_index,
        shifts=shifts.to(positions.dtype),
    )
