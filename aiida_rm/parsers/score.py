"""Parser of rm.score."""

from __future__ import annotations

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import SCORED
from aiida_rm.parsers.frames import FramesParser


class ScoreParser(FramesParser):
    """Attach the structures with their verdicts; they must be those of the input."""

    TASK = "score"
    STRUCTURE_LABELS = tuple(SCORED)

    def check(self, frames: Frames) -> str | None:
        """The structures must be those of the input, in its order."""
        given = self.node.inputs.frames.get_frames()
        if not (
            np.array_equal(frames.ptr, given.ptr) and np.array_equal(frames.numbers, given.numbers)
        ):
            return "the structures are not those of the input"
        return None
