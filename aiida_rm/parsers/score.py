"""Parser of rm.score."""

from __future__ import annotations

from typing import Any

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import SCORED
from aiida_rm.parsers.frames import FramesParser

#: What the task gives anew, whatever stood there.
NEW = {*SCORED, "rdf"}


class ScoreParser(FramesParser):
    """Attach the structures with their verdicts; they must be those of the input."""

    TASK = "score"
    KINDS = SCORED

    def check(self, frames: Frames) -> str | None:
        """The structures must be those of the input, in its order, with all its other labels."""
        given = self.node.inputs.frames.get_frames()
        same = all(
            _same(getattr(frames, name), getattr(given, name))
            for name in ("ptr", "numbers", "positions", "cells", "pbc")
        )
        if not same:
            return "the structures are not those of the input"
        kept = {name: old for name, old in given.structure.items() if name not in NEW}
        changed = [
            name
            for name, old in kept.items()
            if name not in frames.structure or not _same(frames.structure[name], old)
        ]
        return f"the labels {', '.join(changed)} are not those of the input" if changed else None


def _same(one: Any, two: Any) -> bool:
    """Whether two arrays hold the same; NaN is NaN."""
    kinds = {one.dtype.kind, two.dtype.kind}
    return len(kinds) == 1 and np.array_equal(one, two, equal_nan=kinds == {"f"})
