"""Parser of rm.generate."""

from __future__ import annotations

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import GENERATED
from aiida_rm.parsers.frames import FramesParser


class GenerateParser(FramesParser):
    """Attach the generated structures."""

    TASK = "generate"
    STRUCTURE_LABELS = tuple(GENERATED)

    def check(self, frames: Frames) -> str | None:
        """A finished job has made what it was asked for, but for the impossible."""
        wanted = self.settings.n_structures
        impossible = self.summary.get("impossible")
        given_up = len(impossible) if isinstance(impossible, list) else 0
        if len(frames) > wanted or (self.finished and len(frames) + given_up != wanted):
            return f"they hold {len(frames)} structures, {wanted} were asked for"
        return None
