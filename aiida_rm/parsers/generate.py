"""Parser of rm.generate."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import COMMITTEE, GENERATED, problem_of_labels
from aiida_rm.engine.parts import load_parts
from aiida_rm.parsers.frames import FramesParser


class GenerateParser(FramesParser):
    """Attach the structures that were finished, also of a job that was cut short."""

    TASK = "generate"
    KINDS = GENERATED

    @property
    def has_committee(self) -> bool:
        """Whether several potentials were to judge."""
        links = self.node.base.links.get_incoming()
        return any(name.startswith("committee__") for name in links.all_link_labels())

    #: Whether some structures came back in parts; the others can be made by another job.
    can_go_on = False

    def collect(self, folder: Path) -> str | None:
        """Attach `frames`; those of a job that was killed are in parts."""
        problem = super().collect(folder)
        parts = folder / files.FINISHED_FRAMES
        if problem is None or self.finished or not parts.is_dir():
            return problem
        self.can_go_on = self.attach(lambda: load_parts(parts), FramesData) is None
        return problem

    def check(self, frames: Frames) -> str | None:
        """A finished job has made what it was asked for, but for the impossible."""
        strange = problem_of_labels(frames.structure, COMMITTEE) is not None
        if self.has_committee and (strange or "force_deviation" not in frames.atom):
            return "they lack what the committee had to say; has the engine this plugin's version?"
        wanted = self.settings.n_structures
        found, asked = frames.structure["index"], self.settings.all_indices
        if len(np.unique(found)) != len(found) or not np.isin(found, asked).all():
            return "they are not those that were asked for: the label index says so"
        impossible = self.summary.get("impossible")
        given_up = len(impossible) if isinstance(impossible, list) else 0
        if len(frames) > wanted or (self.finished and len(frames) + given_up != wanted):
            return f"they hold {len(frames)} structures, {wanted} were asked for"
        return None
