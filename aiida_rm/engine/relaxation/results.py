"""What the structures have come to, noted as they leave."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.relaxation.batch import Batch

CONVERGED, OUT_OF_STEPS, EXPLODED, NO_MEMORY = 0, 1, 2, 3
#: Labels of a structure, besides energy_per_atom.
_LABELS = ("energy", "fmax", "steps", "status", "penalty")
#: Those that belong to where a relaxation ended.
_OF_THE_END = {"energy", "fmax", "penalty"}


class Results:
    """Room for all structures; each writes its own."""

    def __init__(self, frames: Frames, penalised: bool) -> None:
        self.frames = frames
        self.positions = np.array(frames.positions)
        self.cells = np.array(frames.cells)
        self.finished = np.zeros(len(frames), bool)
        self.taken = np.zeros(len(frames), bool)
        kinds = {"steps": np.int64, "status": np.int8}
        self.labels = {name: np.zeros(len(frames), kinds.get(name, float)) for name in _LABELS}
        if not penalised:
            del self.labels["penalty"]

    @property
    def converged(self) -> int:
        """How many finished well."""
        return int((self.labels["status"][self.finished] == CONVERGED).sum())

    def note(self, batch: Batch) -> None:
        """Write down the structures that are done; those without a sound end keep their start."""
        rows = _plain(batch.row[batch.done])
        status = _plain(batch.status[batch.done])
        self.finished[rows] = True
        for name, values in self.labels.items():
            values[rows] = _plain(getattr(batch, name)[batch.done])
        # What comes back as it started has no E~: the last one seen is that of another place.
        for name in _OF_THE_END & self.labels.keys():
            self.labels[name][rows[status >= EXPLODED]] = np.nan
        sound = batch.done & (batch.status < EXPLODED)
        atoms = sound.index_select(0, batch.owner)
        rows = rows[status < EXPLODED]
        self.cells[rows] = _plain(batch.cells[sound].double())
        self.positions[self.frames.atoms_of(rows)] = _plain(batch.positions[atoms].double())

    def take(self) -> Frames:
        """Those that finished and were not taken yet, in the order they came in, with labels."""
        rows = np.flatnonzero(self.finished & ~self.taken)
        self.taken[rows] = True
        whole = replace(self.frames, positions=self.positions, cells=self.cells)
        part = whole.select(rows)
        labels = {name: values[rows] for name, values in self.labels.items()}
        labels["energy_per_atom"] = labels["energy"] / part.counts
        return part.with_labels(structure=labels)


def _plain(tensor: Tensor) -> NDArray[Any]:
    return np.asarray(tensor.cpu().numpy())
