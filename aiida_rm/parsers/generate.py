"""Parser of rm.generate."""

from __future__ import annotations

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import COMMITTEE, GENERATED
from aiida_rm.parsers.frames import FramesParser


class GenerateParser(FramesParser):
    """Attach the generated structures."""

    TASK = "generate"
    STRUCTURE_LABELS = tuple(GENERATED)

    @property
    def has_committee(self) -> bool:
        """Whether several potentials were to judge."""
        links = self.node.base.links.get_incoming()
        return any(name.startswith("committee__") for name in links.all_link_labels())

    def check(self, frames: Frames) -> str | None:
        """A finished job has made what it was asked for, but for the impossible."""
        absent = [name for name in COMMITTEE if name not in frames.structure]
        if self.has_committee and (absent or "force_deviation" not in frames.atom):
            return "they lack what the committee had to say; has the engine this plugin's version?"
        wanted = self.settings.n_structures
        impossible = self.summary.get("impossible")
        given_up = len(impossible) if isinstance(impossible, list) else 0
        if len(frames) > wanted or (self.finished and len(frames) + given_up != wanted):
            return f"they hold {len(frames)} structures, {wanted} were asked for"
        return None
