"""What a task says of itself while it runs."""

from __future__ import annotations

import time

from aiida_rm.engine.job import Job

#: Seconds between lines of progress.
_INTERVAL = 1.0


class Ticker:
    """Lines of progress, at most one a second."""

    def __init__(self, job: Job, stage: str) -> None:
        """Nothing is counted yet."""
        self.job = job
        self.stage = stage
        self._last = 0.0

    def count(self, finished: int, total: int, *, last: bool = False, **more: float) -> None:
        """So many are finished; ``last`` is told however soon it comes."""
        now = time.monotonic()
        if now - self._last < _INTERVAL and finished < total and not last:
            return
        self._last = now
        self.job.metric(
            {
                "stage": self.stage,
                "finished": finished,
                "total": total,
                "seconds": self.job.seconds,
                **more,
            }
        )
        self.job.say(f"{self.stage}: {finished} of {total}")
