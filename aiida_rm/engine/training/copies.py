"""New perturbed copies of stable structures for every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.response import copies_to_make, perturb, perturb_copies
from aiida_rm.engine.settings import PerturbSettings


class Copies:
    """What task perturb would make of stable structures, again and again without repetition.

    Row i is always a copy of the same structure. Epoch 0 is the set that task perturb makes;
    every epoch after it takes the next numbers of each structure's copies.
    """

    def __init__(self, stable: Frames, recipe: PerturbSettings) -> None:
        """Prepare.

        Raises:
            FramesError: the structures carry targets.
        """
        if "force" in stable.atom:
            raise FramesError(
                "the frames carry targets already, but 'draw' is 'fresh'; set it to 'stored', or "
                "give the stable structures"
            )
        self.stable = stable.without_labels()
        self.recipe = recipe
        self._jobs = np.array(copies_to_make(max(len(stable), 1), recipe.samples))
        self._stride = int(self._jobs[:, 1].max()) + 1

    def all_of(self, epoch: int) -> Frames:
        """All copies of an epoch, with targets.

        Raises:
            FramesError: the structures cannot be perturbed.
            SettingsError: the recipe needs a library that is not installed.
        """
        with _one_thread():
            return perturb(self.stable, self.recipe, first_copy=epoch * self._stride)

    def some_of(self, epoch: int, rows: NDArray[np.integer[Any]]) -> Frames:
        """The same copies as in :meth:`all_of`, of some rows."""
        jobs = self._jobs[rows] + [0, epoch * self._stride]
        with _one_thread():
            return perturb_copies(self.stable, [(int(p), int(k)) for p, k in jobs], self.recipe)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Copies are the same bytes whoever makes them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
