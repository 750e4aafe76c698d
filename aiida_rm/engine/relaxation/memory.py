"""How many atoms go together: as many as asked for, or as fit; fewer when the memory runs out."""

from __future__ import annotations

import torch

from aiida_rm.engine.errors import OutOfMemoryError, recognise

#: Atoms together on a processor: more are no faster there (docs/benchmarks.md).
_ON_PROCESSOR = 1024
#: On a GPU: where measuring begins, and where more are no faster.
_FIRST, _MOST = 4096, 131_072
#: Share of the GPU's memory that a batch may take.
_SHARE = 0.7


class Room:
    """The limit of atoms, and what moved it.

    Attributes:
        atoms: so many together at most.
        halved: how often the memory ran out.
    """

    def __init__(self, atoms: int, device: torch.device) -> None:
        self.device = device
        self.halved = 0
        self.measuring = atoms == 0 and device.type == "cuda"
        self.atoms = atoms or (_FIRST if self.measuring else _ON_PROCESSOR)

    def halve(self, atoms: int) -> None:
        """The memory ran out with so many ``atoms``."""
        self.halved += 1
        self.measuring = False
        self.atoms = max(1, min(self.atoms, atoms) // 2)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def measure(self, atoms: int) -> None:
        """After a step with so many ``atoms``: grow towards what fits, at most twofold."""
        if not self.measuring:
            return
        used = torch.cuda.max_memory_allocated(self.device)
        total = torch.cuda.get_device_properties(self.device).total_memory
        fit = int(atoms * _SHARE * total / max(used, 1))
        self.atoms = max(min(fit, 2 * self.atoms, _MOST), min(self.atoms, fit), 1)
        torch.cuda.reset_peak_memory_stats(self.device)


def exhausted(error: Exception) -> bool:
    """Whether this error means that the memory did not suffice."""
    return isinstance(recognise(error), OutOfMemoryError)
