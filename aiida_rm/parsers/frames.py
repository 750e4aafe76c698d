"""Attach the folder of frames that a job wrote."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import problem_of_labels
from aiida_rm.parsers.base import EngineParser


class FramesParser(EngineParser):
    """A parser of a job whose output is a set of structures."""

    #: Labels with one value a structure, and their kinds; labels with several.
    KINDS: ClassVar[Mapping[str, str]] = {}
    STRUCTURE_LABELS: ClassVar[tuple[str, ...]] = ()
    ATOM_LABELS: ClassVar[tuple[str, ...]] = ()

    def collect(self, folder: Path) -> str | None:
        """Attach `frames` when they are whole and are those that the job was to make."""
        path = folder / files.OUTPUT_FRAMES
        if not path.is_dir():
            return f"the folder '{files.OUTPUT_FRAMES}' did not come back"
        return self.attach(lambda: Frames.load(path), lambda _: FramesData.from_folder(path))

    def attach(
        self, load: Callable[[], Frames | None], store: Callable[[Frames], FramesData]
    ) -> str | None:
        """Attach `frames` when what is loaded is whole and right; else say why not."""
        try:
            frames = load()
            if frames is None:
                return "no structures came back"
            problem = self._labels(frames) or self.check(frames)
            if problem is not None:
                return problem
            node = store(frames)
        except (FramesError, OSError, ValueError, TypeError, EOFError) as error:
            return str(error)
        self.out("frames", node)
        return None

    @abstractmethod
    def check(self, frames: Frames) -> str | None:
        """Say why the structures cannot be those of this job, or None."""

    def _labels(self, frames: Frames) -> str | None:
        absent = [name for name in self.STRUCTURE_LABELS if name not in frames.structure]
        absent += [name for name in self.ATOM_LABELS if name not in frames.atom]
        if absent:
            return f"the structures lack the labels {', '.join(absent)}"
        return problem_of_labels(frames.structure, self.KINDS)
