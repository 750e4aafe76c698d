"""Structures that wait: those set aside, because not all had room, and the starts."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.relaxation import lists
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.entry import enter
from aiida_rm.engine.relaxation.memory import Room, exhausted

Answer = TypeVar("Answer")


class TooLargeError(Exception):
    """The memory does not suffice for the only structure of a batch."""


class Queue:
    """Fills batches up to a number of atoms (``room``) and of edges (0: any)."""

    def __init__(
        self,
        frames: Frames,
        room: Room,
        batch_edges: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.frames = frames
        self.counts = frames.counts.tolist()
        self.room = room
        self.batch_edges = batch_edges
        self.dtype = dtype
        self.device = device
        self.aside: list[Batch] = []
        self.next_row = 0

    def fill(self, batch: Batch | None) -> Batch | None:
        """Fill the batch: first with what was set aside, then with new starts."""
        while self.aside:
            waiting = self.aside.pop()
            now = self.fitting(waiting, batch)
            if bool(now.any()):
                batch = _joined(batch, waiting.keep(now))
            if not bool(now.all()):
                self.aside.append(waiting.keep(~now))
                return batch
        room, some = self._left(batch), batch is not None and len(batch)
        rows: list[int] = []
        while self.next_row < len(self.frames):
            size = self.counts[self.next_row]
            if size > room and (rows or some):
                break
            rows.append(self.next_row)
            room -= size
            self.next_row += 1
        if rows:
            batch = _joined(batch, enter(self.frames, rows, self.dtype, self.device))
        return batch

    def fitting(self, batch: Batch, beside: Batch | None = None) -> Tensor:
        """(S,) which structures have room, also beside others; alone, the first always has."""
        atoms, edges = _sizes(beside)
        now = torch.cumsum(batch.counts, 0) + atoms <= self.room.atoms
        if self.batch_edges:
            now = now & (torch.cumsum(batch.edges, 0) + edges <= self.batch_edges)
        if not atoms:
            now[0] = True
        return now

    def can_double(self, batch: Batch) -> bool:
        """Whether as many atoms as are under way have room beside them, and starts wait for it."""
        return self.next_row < len(self.frames) and self._left(batch) >= max(
            len(batch.numbers), self.counts[self.next_row]
        )

    def _left(self, batch: Batch | None) -> int:
        """Atoms that have room beside a batch."""
        atoms, edges = _sizes(batch)
        # An atom has about as many neighbours as those in the batch.
        most = self.batch_edges * atoms // edges if self.batch_edges and edges else self.room.atoms
        return min(self.room.atoms, most) - atoms

    def attempt(
        self,
        batch: Batch,
        cutoff: float,
        skin: float,
        question: Callable[[Batch, Tensor], Answer],
    ) -> tuple[Batch, Answer | None]:
        """Ask something about a batch, if it fits.

        Args:
            batch: gets new lists of neighbours, to ``cutoff + skin``, where it needs them.
            cutoff: in angstrom.
            skin: in angstrom.
            question: takes the batch, and (S,) which structures of it can have no list.

        Returns:
            The batch and the answer; or, where it is too large, a part of it to try next, and
            None: the rest waits.

        Raises:
            TooLargeError: the batch is a single structure and does not fit.
        """
        try:
            hopeless = lists.refresh(batch, cutoff, skin)
            if not self.batch_edges or bool(self.fitting(batch).all()):
                return batch, question(batch, hopeless)
        except (RuntimeError, MemoryError) as error:
            if not exhausted(error):
                raise
        else:
            return self._split(batch), None
        # Only now, without the error, what it held of the memory is free.
        if len(batch) == 1:
            raise TooLargeError
        self.room.halve(len(batch.numbers))
        return self._split(batch), None

    def _split(self, batch: Batch) -> Batch:
        """Go on with those that fit; the others wait."""
        now = self.fitting(batch)
        self.aside.append(batch.keep(~now))
        return batch.keep(now)


def _joined(batch: Batch | None, more: Batch) -> Batch:
    return batch.join(more) if batch is not None and len(batch) else more


def _sizes(batch: Batch | None) -> tuple[int, int]:
    """Atoms and listed edges."""
    return (0, 0) if batch is None else (len(batch.numbers), batch.edge_index.shape[1])
