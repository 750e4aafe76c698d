"""Pieces of work for several processes, and how far they got."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from aiida_rm.engine.processes import cores, process_pool
from aiida_rm.engine.settings import ScoreSettings

Progress = Callable[[dict[str, Any]], None]
T = TypeVar("T")
R = TypeVar("R")

#: Structures in a piece of work; small enough for progress, large enough for its overhead.
CHUNK = 50


class Runner:
    """Runs pieces of work, in a pool or here, and reports how far it got."""

    def __init__(self, pool: ProcessPoolExecutor | None, progress: Progress | None) -> None:
        self._pool = pool
        self._progress = progress
        self._start = time.monotonic()

    def run(
        self,
        stage: str,
        function: Callable[[T], R],
        work: Sequence[T],
        sizes: Sequence[int],
        *,
        before: int = 0,
        total: int | None = None,
    ) -> list[R]:
        """Apply a top-level function to pieces; the results have the order of the pieces.

        ``sizes`` counts the structures of each piece; where a stage takes several runs,
        ``before`` counts those already done, of ``total``.
        """
        finished = before
        total = sum(sizes) if total is None else total
        results = []
        for index, result in self._done(function, work):
            results.append((index, result))
            finished += sizes[index]
            self._report(stage, finished, total)
        return [result for _, result in sorted(results, key=lambda item: item[0])]

    def _done(self, function: Callable[[T], R], work: Sequence[T]) -> Iterator[tuple[int, R]]:
        if self._pool is None:
            yield from ((index, function(piece)) for index, piece in enumerate(work))
            return
        futures = {self._pool.submit(function, piece): index for index, piece in enumerate(work)}
        for future in as_completed(futures):
            yield futures[future], future.result()

    def _report(self, stage: str, finished: int, total: int) -> None:
        if self._progress is not None:
            seconds = round(time.monotonic() - self._start, 3)
            self._progress(
                {"stage": stage, "finished": finished, "total": total, "seconds": seconds}
            )


@contextmanager
def workers(settings: ScoreSettings, n_structures: int) -> Iterator[ProcessPoolExecutor | None]:
    """A pool of processes, or None when one is enough."""
    processes = settings.processes or cores()
    processes = min(processes, -(-n_structures // CHUNK))
    if processes <= 1:
        yield None
        return
    remedy = "set 'processes' lower or score fewer structures at once"
    with process_pool(processes, remedy) as pool:
        yield pool


def chunks(items: Sequence[T]) -> list[Sequence[T]]:
    """Pieces of :data:`CHUNK` items."""
    return [items[first : first + CHUNK] for first in range(0, len(items), CHUNK)]


def sizes_of(parts: Sequence[Sequence[Any]]) -> list[int]:
    """Their lengths."""
    return [len(part) for part in parts]
