"""Send structures through the stages in batches that others enter as some leave."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.parts import Parts
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import cell, committee, fire, hop, langevin, lbfgs, moves
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.field import Field, evaluate
from aiida_rm.engine.relaxation.memory import Room
from aiida_rm.engine.relaxation.penalty import PenaltyFunction
from aiida_rm.engine.relaxation.queue import Queue, TooLargeError
from aiida_rm.engine.relaxation.results import (
    CONVERGED,
    EXPLODED,
    NO_MEMORY,
    OUT_OF_STEPS,
    Results,
)
from aiida_rm.engine.relaxation.schedule import HOP, JITTER, LANGEVIN, Schedule
from aiida_rm.engine.settings import Stage

#: Finished structures stay until they are this share of the batch: leaving costs a copy.
_LEAVE_SHARE = 0.1


@dataclass(frozen=True)
class RelaxStatus:
    """For a progress line.

    Attributes:
        finished: structures that are done.
        converged: those of them that converged.
        active: structures in the batch.
        total: structures in all.
        force_calls: so far, each for a whole batch.
        batch_halved: how often the memory ran out, so that the batch was halved.
    """

    finished: int
    converged: int
    active: int
    total: int
    force_calls: int
    batch_halved: int


def relax(
    frames: Frames,
    potential: Potential,
    stages: tuple[Stage, ...],
    *,
    batch_atoms: int = 0,
    batch_edges: int = 0,
    skin: float = 0.5,
    penalty: PenaltyFunction | None = None,
    floor: float = -math.inf,
    members: Sequence[Potential] = (),
    should_stop: Callable[[], str | None] = lambda: None,
    on_step: Callable[[RelaxStatus], None] = lambda _status: None,
    parts: Parts | None = None,
) -> Frames:
    """Send every structure through the stages.

    A structure's random numbers depend on its labels ``seed`` and ``index`` (or 0 and its place)
    and on the stage, so it goes the same way in any batch.

    Args:
        frames: the starts; labels are kept.
        potential: on its device and in its dtype, which the relaxation shares.
        stages: see :class:`settings.Stage`; a molecule's cell never moves. The last one is of kind
            relax.
        batch_atoms: atoms under way together, at most (one structure at least); 0: 1,024 on a
            processor, on a GPU as many as fit.
        batch_edges: pairs of neighbours together, at most (one structure at least); 0: no limit.
        skin: extra radius of neighbour lists, in angstrom.
        penalty: added to E~, in angstrom^2 (relaxation/penalty.py).
        floor: a structure whose E~ per atom (angstrom^2) is lower is not believed: it exploded.
        members: of a committee, on the same device and in the same dtype: what a cycle of hop has
            come to is judged by the mean E~ of the potential and them, and by their mean latent
            distance where a stage weighs it.
        should_stop: asked at every step; a reason ends the run with what is finished.
        on_step: told at every step.
        parts: gets what is finished whenever it is due.

    Returns:
        The structures that finished, without those that ``parts`` got on the way, in the order
        they came in, with the labels

        - ``energy``: E~ alone, in angstrom^2; ``energy_per_atom``: the same over the atoms;
        - ``penalty``, if there is one, in angstrom^2;
        - ``fmax``: the largest force of an atom, in angstrom, or row of the slope along N x strain
          of the cell, in angstrom^2, whichever number is larger;
        - ``steps``: of all stages;
        - ``status``: 0 converged, 1 out of steps, 2 exploded, 3 too large for the memory. The last
          two come back as they started, where their energy, penalty and fmax are not known (NaN).

    Raises:
        SettingsError: the penalty fails, or does not return one energy for each structure.
        RuntimeError: torch fails for another reason than a lack of memory.
    """
    room = Room(batch_atoms, potential.element_energy.device)
    whole = _Relaxation(frames, potential, stages, room, batch_edges, skin, penalty, floor, members)
    return whole.run(should_stop, on_step, parts)


class _Relaxation:
    def __init__(
        self,
        frames: Frames,
        potential: Potential,
        stages: tuple[Stage, ...],
        room: Room,
        batch_edges: int,
        skin: float,
        penalty: PenaltyFunction | None,
        floor: float,
        members: Sequence[Potential],
    ) -> None:
        self.total = len(frames)
        self.potential = potential.requires_grad_(False)
        self.room = room
        self.skin = skin
        self.penalty = penalty
        self.floor = floor
        self.members = members
        self.reach = max(one.cutoff for one in (potential, *members))
        dtype, device = potential.element_energy.dtype, potential.element_energy.device
        self.queue = Queue(frames, room, batch_edges, dtype, device)
        self.schedule = Schedule(stages, dtype, device)
        self.force_calls = 0
        self.results = Results(frames, penalty is not None)

    def run(
        self,
        should_stop: Callable[[], str | None],
        on_step: Callable[[RelaxStatus], None],
        parts: Parts | None,
    ) -> Frames:
        batch = self._next(None)
        while batch is not None and len(batch):
            batch = self._step(batch)
            on_step(self._status(batch))
            stop = should_stop()
            finished = int(batch.done.sum())
            many = finished == len(batch) or finished > _LEAVE_SHARE * len(batch)
            # Refill early while the limit of a GPU still grows: the larger one would otherwise be
            # used only after the first structures leave.
            grown = self.room.measuring and self.queue.can_double(batch)
            if stop or many or grown:
                self.results.note(batch)
                if stop:
                    for waiting in self.queue.aside:
                        self.results.note(waiting)
                    break
                batch = self._next(batch.keep(~batch.done))
            elif parts is not None and finished and parts.due():
                self.results.note(batch)
            if parts is not None and parts.due():
                parts.add(self.results.take())
        return self.results.take()

    def _next(self, batch: Batch | None) -> Batch | None:
        """The batch with others in the room that there is."""
        batch = self.queue.fill(batch)
        if batch is not None:
            self._jitter(batch)
        return batch

    def _status(self, batch: Batch) -> RelaxStatus:
        return RelaxStatus(
            finished=int(self.results.finished.sum()),
            converged=self.results.converged,
            active=len(batch),
            total=self.total,
            force_calls=self.force_calls,
            batch_halved=self.room.halved,
        )

    def _step(self, batch: Batch) -> Batch:
        """One force call for all, then each structure moves, changes stage, or is done.

        Returns the batch, or what is left of it where not all fit into the memory.
        """
        try:
            batch, found = self.queue.attempt(batch, self.reach, self.skin, self._evaluate)
        except TooLargeError:
            batch.status = torch.full_like(batch.status, NO_MEMORY)
            batch.done = torch.ones_like(batch.done)
            return batch
        if found is None:
            return batch
        field, ended, ready = found
        self.force_calls += 1
        self.room.measure(len(batch.numbers))
        moving = ~batch.done & ~ended
        self._conclude(batch, field, ready)
        self._move(batch, field, moving)
        return batch

    def _evaluate(self, batch: Batch, hopeless: Tensor) -> tuple[Field, Tensor, Tensor]:
        """The field; (S,) which have come to an end; and (S,) which of these may be judged now."""
        field = evaluate(batch, self.potential, self.schedule, self.penalty, self.floor)
        field = replace(field, broken=field.broken | hopeless)
        ended = self._ended(batch, field)
        field, ready = self._ask_committee(batch, field, ended)
        return field, ended, ready

    def _ended(self, batch: Batch, field: Field) -> Tensor:
        """(S,) which have come to the end of a descent, a stage, or the way."""
        spent = batch.stage_steps >= self.schedule.max_steps[batch.stage]
        return ~batch.done & (self._relaxed(batch, field) | spent | field.broken)

    def _relaxed(self, batch: Batch, field: Field) -> Tensor:
        heated = self.schedule.kind[batch.stage] == LANGEVIN
        return (field.largest < self.schedule.fmax[batch.stage]) & ~heated

    def _ask_committee(self, batch: Batch, field: Field, ended: Tensor) -> tuple[Field, Tensor]:
        """The field with what descents of hop are judged by, and which of ``ended`` may be now.

        Those at the end of such a descent wait until they are ``committee.WAITING_SHARE`` of what
        is under way.
        """
        potentials, schedule = (self.potential, *self.members), self.schedule
        if "hop" not in schedule.kinds or not (self.members or schedule.latent):
            return field, ended
        hopping = ended & (schedule.kind[batch.stage] == HOP)
        if not committee.enough(hopping, ~batch.done):
            return field, ended & ~hopping
        weight = schedule.latent_weight[batch.stage]
        field = committee.replace_value(batch, hopping, field, potentials, weight, self.floor)
        return field, ended

    def _conclude(self, batch: Batch, field: Field, ended: Tensor) -> None:
        """Those in ``ended`` begin another cycle or the next stage, or get their verdict.

        Its masks (S,):

        - ``hopping``: those in ``ended`` that are at the end of a descent of hop. Each of them is
          either in ``again``, for another cycle, or in ``finished``.
        - ``over``: those in ``ended`` but not in ``again``; their stage ends.
        - ``lost``: those in ``over`` that exploded. They are done; the others in ``over`` go to
          the next stage, or are done after the last.
        """
        running = ~batch.done
        batch.energy = torch.where(running, field.energy, batch.energy)
        batch.penalty = torch.where(running, field.penalty, batch.penalty)
        batch.fmax = torch.where(running, field.largest, batch.fmax)
        relaxed = self._relaxed(batch, field)
        hopping = ended & (self.schedule.kind[batch.stage] == HOP)
        over, lost = ended, ended & field.broken
        if "hop" in self.schedule.kinds and bool(hopping.any()):
            finished = hop.end_cycle(batch, hopping, field, self.schedule)
            # What a cycle breaks is taken back, as long as there are others.
            lost = (lost & ~hopping) | (finished & batch.best_value.isinf())
            again = hopping & ~finished
            batch.stage_steps = torch.where(again, 0, batch.stage_steps)
            fire.restart(batch, again)
            over = (over & ~hopping) | finished
        verdict = torch.where(relaxed, CONVERGED, OUT_OF_STEPS)
        batch.status = torch.where(over, torch.where(lost, EXPLODED, verdict), batch.status)
        batch.done = batch.done | lost
        self._next_stage(batch, over & ~lost)
        self._jitter(batch)

    def _next_stage(self, batch: Batch, over: Tensor) -> None:
        """Those in ``over`` begin the next stage, or are done after the last."""
        batch.done = batch.done | (over & (batch.stage == self.schedule.last))
        on = over & ~batch.done
        batch.stage = batch.stage + on
        batch.stage_steps = torch.where(on, 0, batch.stage_steps)
        batch.cycle = torch.where(on, 0, batch.cycle)
        fire.restart(batch, on)
        if "hop" in self.schedule.kinds:
            hop.begin(batch, on)

    def _jitter(self, batch: Batch) -> None:
        """Apply jitter stages at once to structures that have reached one."""
        while "jitter" in self.schedule.kinds:
            reached = ~batch.done & (self.schedule.kind[batch.stage] == JITTER)
            if not bool(reached.any()):
                return
            moves.jitter(batch, reached, self.schedule)
            self._next_stage(batch, reached)

    def _move(self, batch: Batch, field: Field, moving: Tensor) -> None:
        """One step of those in ``moving``, by the rules of their stage; the others stay."""
        schedule, forces, pull = self.schedule, field.forces, field.pull
        heated = schedule.kind[batch.stage] == LANGEVIN
        by_fire = schedule.by_fire[batch.stage]
        steps = [(torch.zeros_like(forces), torch.zeros_like(pull))]
        if "lbfgs" in schedule.optimizers:
            steps.append(lbfgs.step(batch, forces, pull, moving & ~heated & ~by_fire))
        if "fire" in schedule.optimizers:
            steps.append(fire.step(batch, forces, pull, moving & ~heated & by_fire))
        if "langevin" in schedule.kinds:
            steps.append(langevin.step(batch, forces, pull, moving & heated, schedule))
        shifts, strains = (torch.stack(parts).sum(0) for parts in zip(*steps, strict=True))
        cell.deform(batch, shifts, strains)
        batch.steps = batch.steps + moving
        batch.stage_steps = batch.stage_steps + moving
