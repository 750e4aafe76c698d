"""Parser of rm.perturb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.parsers.frames import FramesParser


class PerturbParser(FramesParser):
    """Attach the perturbed structures with their targets: force, stress, energy."""

    TASK = "perturb"
    KINDS: ClassVar[Mapping[str, str]] = {"energy": "f", "parent": "i"}
    STRUCTURE_LABELS = ("stress",)
    ATOM_LABELS = ("force",)

    def check(self, frames: Frames) -> str | None:
        """Each structure must come from one of the input, and its targets must be finite."""
        frames.check()
        parents = frames.structure["parent"]
        count = len(self.node.inputs.frames.get_frames())
        if parents.min() < 0 or parents.max() >= count:
            return f"the label parent points outside the {count} structures of the input"
        if not np.isfinite(frames.atom["force"]).all():
            return "a target force is not a finite number"
        return None
