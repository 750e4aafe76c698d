"""The trained potential as an ASE calculator (needs ase, unlike the rest of the engine)."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, all_changes

from aiida_rm.engine.device import pick_device
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential


class ResponseMatchingCalculator(Calculator):  # type: ignore[misc]
    """E~ ("energy"), -dE~/dx ("forces") and the stress, in the fictitious units of E~.

    E~ is not a physical energy: it ranks structures and drives relaxations.
    """

    implemented_properties: ClassVar[list[str]] = [
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
    ]

    def __init__(self, potential: Potential, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.potential = potential.requires_grad_(False)

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        *,
        dtype: str = "float64",
        device: str = "auto",
        **kwargs: Any,
    ) -> ResponseMatchingCalculator:
        """Load a potential file.

        Raises:
            PotentialError: the file is missing, damaged or foreign.
        """
        chosen = pick_device(device)
        potential = Potential.load(path, dtype=getattr(torch, dtype), device=chosen)
        return cls(potential, **kwargs)

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``.

        Raises:
            PotentialError: an element that the potential never saw.
        """
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        self.potential.require_elements(set(self.atoms.symbols))
        frames = Frames.build(
            [self.atoms.numbers],
            [self.atoms.positions],
            self.atoms.cell.array[None],
            self.atoms.pbc[None],
        )
        weight = self.potential.element_energy
        graph = build_graph(frames, self.potential.cutoff, dtype=weight.dtype, device=weight.device)
        found = self.potential(graph)

        def plain(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
            return np.asarray(tensor.double().cpu().numpy())

        energy = float(found.energy[0])
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": plain(found.atom_energy),
            "forces": plain(found.forces),
        }
        if bool(graph.periodic[0]):
            stress = plain(found.stress[0])
            self.results["stress"] = stress.ravel()[[0, 4, 8, 5, 2, 1]]
