"""Parser of rm.generate."""

from __future__ import annotations

from aiida_rm.engine.frames import Frames
from aiida_rm.parsers.frames import FramesParser


class GenerateParser(FramesParser):
    """Attach the generated structures."""

    TASK = "generate"
    STRUCTURE_LABELS = ("index", "seed", "energy_per_atom", "fmax", "steps", "status")

    def check(self, frames: Frames) -> str | None:
        """A finished job has made as many structures as it was asked for."""
        wanted = self.settings.n_structures
        if len(frames) == 0:
            return "there are no structures in them"
        if len(frames) > wanted or (self.finished and len(frames) != wanted):
            return f"they hold {len(frames)} structures, {wanted} were asked for"
        return None
