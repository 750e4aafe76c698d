"""Send structures through the stages in batches that others enter as some leave."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import cell, fire, hop, langevin, lists, moves, noise
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.field import Field, evaluate
from aiida_rm.engine.relaxation.schedule import HOP, JITTER, LANGEVIN, Schedule
from aiida_rm.engine.settings import Stage

CONVERGED, OUT_OF_STEPS, EXPLODED = 0, 1, 2

#: Finished structures stay until they are this share of the batch: leaving costs a copy.
_LEAVE_SHARE = 0.1


@dataclass(frozen=True)
class RelaxStatus:
    """For a progress line: structures done, in the batch, in all; force calls so far."""

    finished: int
    converged: int
    active: int
    total: int
    force_calls: int


def relax(
    frames: Frames,
    potential: Potential,
    stages: tuple[Stage, ...],
    *,
    batch_atoms: int = 1024,
    skin: float = 0.5,
    should_stop: Callable[[], str | None] = lambda: None,
    on_step: Callable[[RelaxStatus], None] = lambda _status: None,
) -> Frames:
    """Send every structure through the stages.

    A structure's random numbers depend on its labels ``seed`` and ``index`` (or 0 and its place)
    and on the stage, so it goes the same way in any batch.

    Args:
        frames: the starts; labels are kept.
        potential: on its device and in its dtype, which the relaxation shares.
        stages: see :class:`settings.Stage`; a molecule's cell never moves. The last one is of kind
            fire.
        batch_atoms: atoms under way together, at most (one structure at least).
        skin: extra radius of neighbour lists, in angstrom.
        should_stop: asked at every step; a reason ends the run with what is finished.
        on_step: told at every step.

    Returns:
        The structures that finished, in the order they came in, with the labels ``energy`` (E~
        alone), ``energy_per_atom``, ``fmax``, ``steps`` (of all stages) and ``status`` (0
        converged, 1 out of steps, 2 exploded: these come back as they started).
    """
    return _Relaxation(frames, potential, stages, batch_atoms, skin).run(should_stop, on_step)


class _Relaxation:
    def __init__(
        self,
        frames: Frames,
        potential: Potential,
        stages: tuple[Stage, ...],
        batch_atoms: int,
        skin: float,
    ) -> None:
        self.frames = frames
        self.potential = potential.requires_grad_(False)
        self.batch_atoms = batch_atoms
        self.skin = skin
        self.dtype = potential.element_energy.dtype
        self.device = potential.element_energy.device
        self.schedule = Schedule(stages, self.dtype, self.device)
        self.force_calls = 0
        self.results: dict[int, dict[str, Any]] = {}
        self.queue = iter(range(len(frames)))
        self.waiting: int | None = next(self.queue, None)

    def run(
        self,
        should_stop: Callable[[], str | None],
        on_step: Callable[[RelaxStatus], None],
    ) -> Frames:
        batch = self._enter(None)
        while batch is not None and len(batch):
            self._step(batch)
            converged = sum(r["status"] == CONVERGED for r in self.results.values())
            on_step(
                RelaxStatus(
                    finished=len(self.results),
                    converged=converged,
                    active=len(batch),
                    total=len(self.frames),
                    force_calls=self.force_calls,
                )
            )
            if should_stop():
                self._leave(batch)
                break
            finished = int(batch.done.sum())
            if finished and (finished >= _LEAVE_SHARE * len(batch) or finished == len(batch)):
                batch = self._enter(self._leave(batch))
        return self._collect()

    def _enter(self, batch: Batch | None) -> Batch | None:
        """Fill the batch from the queue."""
        room = self.batch_atoms - (0 if batch is None else len(batch.numbers))
        rows: list[int] = []
        while self.waiting is not None:
            size = int(self.frames.counts[self.waiting])
            empty = not rows and (batch is None or not len(batch))
            if size > room and not empty:
                break
            rows.append(self.waiting)
            room -= size
            self.waiting = next(self.queue, None)
        if rows:
            fresh = self._start(rows)
            batch = fresh if batch is None else batch.join(fresh)
        return batch

    def _start(self, rows: list[int]) -> Batch:
        part = self.frames.select(rows)
        count, atoms = len(rows), part.n_atoms

        def real(value: Any) -> Tensor:
            return torch.as_tensor(np.asarray(value), dtype=self.dtype, device=self.device)

        def whole(value: Any) -> Tensor:
            return torch.as_tensor(np.asarray(value), dtype=torch.int64, device=self.device)

        def flags(value: bool) -> Tensor:
            return torch.full((count,), value, device=self.device)

        zeros, none = real(np.zeros(count)), whole(np.zeros(count))
        positions, cells = real(part.positions), real(part.cells)
        labels = part.structure
        seeds = labels.get("seed", np.zeros(count, np.int64))
        batch = Batch(
            numbers=whole(part.numbers),
            positions=positions,
            velocities=real(np.zeros((atoms, 3))),
            counts=whole(part.counts),
            cells=cells,
            pbc=torch.as_tensor(part.pbc, device=self.device),
            cell_velocities=real(np.zeros((count, 3, 3))),
            row=whole(rows),
            key=noise.hashed(none, whole(seeds), whole(labels.get("index", rows))),
            stage=none,
            steps=none,
            stage_steps=none,
            cycle=none,
            dt=torch.full_like(zeros, fire.START_DT),
            alpha=torch.full_like(zeros, fire.START_ALPHA),
            downhill=none,
            started=flags(False),
            done=flags(False),
            status=none,
            energy=zeros,
            fmax=torch.full_like(zeros, torch.inf),
            kept_positions=positions,
            kept_atom_energy=positions[:, 0],
            kept_cells=cells,
            kept_value=zeros,
            best_positions=positions,
            best_cells=cells,
            best_value=zeros,
            edge_index=whole(np.zeros((2, 0))),
            shifts=real(np.zeros((0, 3))),
            listed_positions=positions,
            listed_cells=cells,
            stale=flags(True),
        )
        self._jitter(batch)
        return batch

    def _step(self, batch: Batch) -> None:
        """One force call for all, then each structure moves, changes stage, or is done."""
        hopeless = lists.refresh(batch, self.potential.cutoff, self.skin)
        field = evaluate(batch, self.potential, self.schedule)
        self.force_calls += 1
        field = replace(field, broken=field.broken | hopeless)
        moving = self._judge(batch, field)
        self._move(batch, field, moving)

    def _judge(self, batch: Batch, field: Field) -> Tensor:
        """Who has come to the end of a descent, a stage, or the way; returns who moves on."""
        kind = self.schedule.kind[batch.stage]
        running = ~batch.done
        batch.energy = torch.where(running, field.energy, batch.energy)
        batch.fmax = torch.where(running, field.largest, batch.fmax)
        relaxed = (field.largest < self.schedule.fmax[batch.stage]) & (kind != LANGEVIN)
        spent = batch.stage_steps >= self.schedule.max_steps[batch.stage]
        ended = running & (relaxed | spent | field.broken)
        over, lost = ended, ended & field.broken
        if "hop" in self.schedule.kinds:
            hopping = ended & (kind == HOP)
            # What a later cycle breaks is taken back.
            lost = lost & ~(hopping & (batch.cycle > 0))
            hopping = hopping & ~lost
            finished = hop.judge(batch, hopping, field, self.schedule)
            again = hopping & ~finished
            batch.stage_steps = torch.where(again, 0, batch.stage_steps)
            fire.restart(batch, again)
            over = (over & ~hopping) | finished
        verdict = torch.where(relaxed, CONVERGED, OUT_OF_STEPS)
        batch.status = torch.where(over, torch.where(lost, EXPLODED, verdict), batch.status)
        batch.done = batch.done | lost
        self._next_stage(batch, over & ~lost)
        self._jitter(batch)
        return running & ~ended

    def _next_stage(self, batch: Batch, over: Tensor) -> None:
        """Those in ``over`` begin the next stage, or are done after the last."""
        batch.done = batch.done | (over & (batch.stage == self.schedule.last))
        on = over & ~batch.done
        batch.stage = batch.stage + on
        batch.stage_steps = torch.where(on, 0, batch.stage_steps)
        batch.cycle = torch.where(on, 0, batch.cycle)
        fire.restart(batch, on)

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
        heated = self.schedule.kind[batch.stage] == LANGEVIN
        shifts, strains = fire.step(batch, field.forces, field.pull, moving & ~heated)
        if "langevin" in self.schedule.kinds:
            more = langevin.step(batch, field.forces, field.pull, moving & heated, self.schedule)
            shifts, strains = shifts + more[0], strains + more[1]
        cell.deform(batch, shifts, strains)
        batch.steps = batch.steps + moving
        batch.stage_steps = batch.stage_steps + moving

    def _leave(self, batch: Batch) -> Batch:
        """Take the finished structures out and note their results."""
        starts = (torch.cumsum(batch.counts, 0) - batch.counts).tolist()
        counts = batch.counts.tolist()
        positions = batch.positions.double().cpu().numpy()
        cells = batch.cells.double().cpu().numpy()
        for place in torch.nonzero(batch.done)[:, 0].tolist():
            row = int(batch.row[place])
            where = positions[starts[place] : starts[place] + counts[place]]
            cell = cells[place]
            if int(batch.status[place]) == EXPLODED:
                # Its start again: a set holds finite numbers only.
                start = self.frames[row]
                where, cell = start.positions, start.cells[0]
            self.results[row] = {
                "positions": where.copy(),
                "cell": cell.copy(),
                "energy": float(batch.energy[place]),
                "fmax": float(batch.fmax[place]),
                "steps": int(batch.steps[place]),
                "status": int(batch.status[place]),
            }
        return batch.keep(~batch.done)

    def _collect(self) -> Frames:
        rows = sorted(self.results)
        part = self.frames.select(rows)
        if not rows:
            return part
        found = [self.results[row] for row in rows]
        energy = np.array([r["energy"] for r in found])
        moved = replace(
            part,
            positions=np.concatenate([r["positions"] for r in found]),
            cells=np.stack([r["cell"] for r in found]),
        )
        return moved.with_labels(
            structure={
                "energy": energy,
                "energy_per_atom": energy / moved.counts,
                "fmax": np.array([r["fmax"] for r in found]),
                "steps": np.array([r["steps"] for r in found], np.int64),
                "status": np.array([r["status"] for r in found], np.int8),
            }
        )
