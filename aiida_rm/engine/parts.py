"""Structures on disk as they are finished, so that a job that is killed loses only the others."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from aiida_rm.engine.errors import DiskError, FramesError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.output import say


class Parts:
    """A growing set of structures: each part is a folder of its own, which appears when whole.

    Attributes:
        parts: all parts so far, also those that found no room on the disk.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        finish: Callable[[Frames], Frames] = lambda frames: frames,
    ) -> None:
        """Begin without parts; those of an earlier run in the same folder are removed.

        Args:
            folder: where the parts go.
            seconds: time between two parts on the disk.
            finish: what is still to be done with the structures of a part, all at once.
        """
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.seconds = seconds
        self.finish = finish
        self.parts: list[Frames] = []
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time for another part."""
        return time.monotonic() - self._last >= self.seconds

    def add(self, frames: Frames, *, last: bool = False) -> None:
        """Finish these structures and save them; the last ones are not saved here.

        A full disk is no reason to stop: what is in memory may find room at the end.
        """
        if len(frames):
            part = self.finish(frames)
            if len(part):
                self.parts.append(part)
                if not last:
                    self._save(part)
        self._last = time.monotonic()

    def _save(self, part: Frames) -> None:
        try:
            part.save(self.folder / f"part_{len(self.parts):06d}")
        except DiskError as error:
            say(f"what was finished so far is not on the disk: {error}")

    def joined(self) -> Frames | None:
        """All structures, by their label ``index``; None without any."""
        return join(self.parts)

    def remove(self) -> None:
        """The whole is on the disk: the parts are needed no more."""
        shutil.rmtree(self.folder, ignore_errors=True)


def join(parts: list[Frames]) -> Frames | None:
    """All structures, by their label ``index``; None without any.

    Raises:
        FramesError: they do not belong together.
    """
    if not parts:
        return None
    whole = concatenate(parts)
    if "index" not in whole.structure:
        raise FramesError("the structures lack the label 'index'")
    return whole.select(np.argsort(whole.structure["index"], kind="stable"))


def load_parts(folder: Path) -> Frames | None:
    """What a run that was killed had finished, by the label ``index``; None without any.

    A part that cannot be read is left out, for its structures can be made again.
    """
    parts = []
    for path in sorted(folder.glob("part_*")):
        try:
            part = Frames.load(path)
            part.check()
        except (FramesError, OSError, ValueError, TypeError, EOFError):
            continue
        parts.append(part)
    return join(parts)
