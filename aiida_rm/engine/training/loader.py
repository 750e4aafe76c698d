"""The batches of a training in their order, made ahead by worker processes if there are any."""

from __future__ import annotations

import signal
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from aiida_rm.engine.errors import EngineError, recognise
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.training.copies import Copies
from aiida_rm.engine.training.data import Limit, Part, Rows, TrainingData
from aiida_rm.engine.training.graphs import (
    Packed,
    find_neighbours,
    pack_neighbours,
    unpack_neighbours,
)

#: Batches that each worker is ahead.
_AHEAD = 4
#: Epoch, batch, and the rows of it.
Task = tuple[int, int, Rows]


class Loader:
    """Hands out batches; those that are not in memory come from the workers.

    All epochs are one stream, so that the workers draw the next epoch while this one ends.
    """

    def __init__(
        self,
        data: TrainingData,
        copies: Copies | None,
        plan: Callable[[int], list[Rows]],
        workers: int,
        begin: tuple[int, int],
        epochs: int,
    ) -> None:
        """Start the workers.

        Args:
            data: the set, of epoch 0 if there are ``copies``.
            copies: draws the epochs after that; None: all epochs are the set.
            plan: the rows of each batch of an epoch.
            workers: how many; 0 makes batches when they are asked for.
            begin: epoch and batch to begin with.
            epochs: where to end.
        """
        self.data = data
        self.copies = copies
        self._tasks = _tasks(plan, begin, epochs)
        self._sent: deque[tuple[int, int]] = deque()
        self._stream: Iterator[Any] | None = None
        if workers:
            maker = _Maker(None if copies else data.frames.without_labels(), copies, data.cutoff)
            self._stream = iter(
                DataLoader(
                    maker,
                    batch_size=None,
                    sampler=_Sampler(self._needed()),
                    num_workers=workers,
                    prefetch_factor=_AHEAD,
                    collate_fn=_as_it_is,
                    worker_init_fn=_ignore_signals,
                    multiprocessing_context="spawn",
                )
            )

    def get(self, epoch: int, batch: int, rows: Rows, limit: Limit) -> list[Part]:
        """One batch on the device, in parts.

        Raises:
            EngineError: a worker failed.
            RuntimeError: a worker ended; torch may raise this at any other time, too.
        """
        if not len(rows):
            return []  # more processes than structures in the batch
        if self._sent and self._sent[0] == (epoch, batch):
            self._sent.popleft()
            return self._receive(rows, limit)
        if self.copies is None or epoch == 0:
            return self.data.parts(rows, limit, keep=self.copies is None)
        some = self.copies.some_of(epoch, rows)
        neighbours = find_neighbours(some, self.data.cutoff, self.data.device)
        return self.data.put(some, neighbours, limit)

    def close(self) -> None:
        """End the workers."""
        self._stream = None

    def _receive(self, rows: Rows, limit: Limit) -> list[Part]:
        assert self._stream is not None
        made = next(self._stream)
        if isinstance(made, EngineError):
            raise made
        some, packed = made
        neighbours = unpack_neighbours(packed, self.data.device)
        if some is None:
            self.data.keep(rows, neighbours)
            some = self.data.frames.select(rows)
        return self.data.put(some, neighbours, limit)

    def _needed(self) -> Iterator[Task]:
        """What is not in memory at the time when it is sent to a worker."""
        last, sent = None, True
        for epoch, batch, rows in self._tasks:
            if epoch != last:
                if not sent and self.copies is None:
                    return  # a whole epoch was in memory
                last, sent = epoch, last is None
            # The first copies are there already: time for the workers to start.
            here = epoch == 0 if self.copies else self.data.keeps(rows)
            if len(rows) and not here:
                sent = True
                self._sent.append((epoch, batch))
                yield epoch, batch, rows


class _Sampler(torch.utils.data.Sampler[Task]):
    """Gives DataLoader a stream that is drawn from once."""

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._tasks = tasks

    def __iter__(self) -> Iterator[Task]:
        return self._tasks


class _Maker(Dataset[Any]):
    """What a worker does; it travels to a fresh interpreter, so it holds plain data alone."""

    def __init__(self, frames: Frames | None, copies: Copies | None, cutoff: float) -> None:
        self.frames = frames
        self.copies = copies
        self.cutoff = cutoff

    def __getitem__(self, task: Task) -> tuple[Frames | None, Packed] | EngineError:
        epoch, _, rows = task
        try:
            if self.copies is not None:
                some = self.copies.some_of(epoch, rows)
            else:
                assert self.frames is not None
                some = self.frames.select(rows)
            packed = pack_neighbours(find_neighbours(some, self.cutoff, torch.device("cpu")))
        except Exception as error:  # noqa: BLE001 - the first process decides
            # As a value: DataLoader would wrap it into a page of text.
            known = recognise(error)
            if known is None:
                traceback.print_exc()
                known = EngineError(f"a worker failed: {type(error).__name__}: {error}")
            return known
        return (some if self.copies is not None else None), packed


def _tasks(
    plan: Callable[[int], list[Rows]], begin: tuple[int, int], epochs: int
) -> Iterator[Task]:
    for epoch in range(begin[0], epochs):
        first = begin[1] if epoch == begin[0] else 0
        for batch, rows in enumerate(plan(epoch)):
            if batch >= first:
                yield epoch, batch, rows


def _as_it_is(made: Any) -> Any:
    return made


def _ignore_signals(_worker: int) -> None:
    """A scheduler tells all processes to stop; it is for the first one to end the others."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
