"""Where a training stands, and what it says of itself while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Metrics = dict[str, float]
#: Seconds between lines of progress within an epoch.
_INTERVAL = 5.0


@dataclass
class Progress:
    """Where a training stands; all of it is in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_error: float = math.inf
    rescues: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Metrics] = field(default_factory=list)

    def count(self, values: Mapping[str, float]) -> None:
        """Add to the sums of the epoch."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    @property
    def clipped(self) -> float:
        """Share of all steps of the finished epochs whose gradient was scaled down."""
        begin, clipped, steps = 0.0, 0.0, 0.0
        for row in self.history:
            clipped += row["clipped"] * (row["step"] - begin)
            steps, begin = row["step"], row["step"]
        return clipped / steps if steps else 0.0

    @property
    def waiting(self) -> float:
        """Share of the time of the finished epochs in which the next batch was not ready."""
        seconds = sum(row["seconds"] for row in self.history)
        waited = sum(row["seconds"] * row["waiting"] for row in self.history)
        return waited / seconds if seconds else 0.0


class Pace:
    """Now and then a line within an epoch, with the speed and the time left."""

    def __init__(
        self, say: Callable[[str], None], epochs: int, per_epoch: int, interval: float = _INTERVAL
    ) -> None:
        """Prepare.

        Args:
            say: takes a line.
            epochs: of the whole training.
            per_epoch: structures in an epoch.
            interval: least time between two lines, in seconds.
        """
        self._say = say
        self._epochs = epochs
        self._per_epoch = per_epoch
        self._interval = interval
        self._began = self._last = time.monotonic()
        self._done = 0

    def count(self, epoch: int, place: int, done: int) -> None:
        """Structures were trained on.

        Args:
            epoch: epochs finished before this one.
            place: structures of this epoch that are done.
            done: those of them that were added since the last call.
        """
        self._done += done
        now = time.monotonic()
        if now - self._last < self._interval:
            return
        self._last = now
        rate = self._done / max(now - self._began, 1e-9)
        left = (self._epochs - epoch) * self._per_epoch - place
        self._say(
            f"epoch {epoch + 1} of {self._epochs}, {100 * place // self._per_epoch} %, "
            f"{rate:.3g} structures/s, about {duration(left / max(rate, 1e-9))} left"
        )


def duration(seconds: float) -> str:
    """A time for people: ``40 s``, ``3 min``, ``5.2 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
