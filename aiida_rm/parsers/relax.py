"""Parser of rm.relax."""

from __future__ import annotations

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import RELAXED
from aiida_rm.parsers.frames import FramesParser
from aiida_rm.referees.functions import check_judged


class RelaxParser(FramesParser):
    """Attach the relaxed structures with energies and verdicts, row by row as given."""

    TASK = "relax"
    KINDS = RELAXED

    def check(self, frames: Frames) -> str | None:
        """The structures must be those of the input, in its order."""
        given = self.node.inputs.frames.get_frames()
        same = np.array_equal(frames.ptr, given.ptr) and np.array_equal(
            frames.numbers, given.numbers
        )
        if not same:
            return "the structures are not those of the input"
        return check_judged(frames, len(given))
