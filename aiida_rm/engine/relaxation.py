"""Relax many structures at once on a potential; they leave as they finish, others enter.

FIRE (Bitzek et al., PRL 97, 170201, 2006) with the same rules and constants as ASE's, but one
time step and one power for every structure. The cell moves by small exponential strains of the
cell as it is now, h <- h exp(dL): the derivative of E~ along dL is exactly V x stress, and a
traceless dL keeps the volume exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import neighbour_list
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation_batch import Batch
from aiida_rm.engine.settings import CELL_MODES, Stage

CONVERGED, OUT_OF_STEPS, EXPLODED = 0, 1, 2

# Constants of FIRE; those of ASE.
_DT, _DT_MAX, _MAX_MOVE, _N_MIN = 0.1, 1.0, 0.2, 5
_GROW, _SHRINK, _ALPHA, _ALPHA_SHRINK = 1.1, 0.5, 0.1, 0.99
#: Forces beyond this mean that the structure exploded.
_EXPLODED_FORCE = 1e6
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

    Args:
        frames: the starts; labels are kept.
        potential: on its device and in its dtype, which the relaxation shares.
        stages: see :class:`settings.Stage`; a molecule's cell never moves.
        batch_atoms: atoms under way together, at most (one structure at least).
        skin: extra radius of neighbour lists, in angstrom.
        should_stop: asked at every step; a reason ends the run with what is finished.
        on_step: told at every step.

    Returns:
        The structures that finished, in the order they came in, with the labels ``energy``,
        ``energy_per_atom``, ``fmax``, ``steps`` and ``status`` (0 converged, 1 out of steps,
        2 exploded: these come back as they started).
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
        self.stages = stages
        self.batch_atoms = batch_atoms
        self.skin = skin
        self.dtype = potential.element_energy.dtype
        self.device = potential.element_energy.device
        self.force_calls = 0
        self.results: dict[int, dict[str, Any]] = {}
        self.queue = iter(range(len(frames)))
        self.waiting: int | None = next(self.queue, None)

        def table(values: list[float], dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        self.fmax = table([stage.fmax for stage in stages], self.dtype)
        self.max_steps = table([stage.max_steps for stage in stages], torch.int64)
        self.cell_mode = table([CELL_MODES.index(stage.cell) for stage in stages], torch.int64)

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

        batch = Batch(
            numbers=whole(part.numbers),
            positions=real(part.positions),
            velocities=real(np.zeros((atoms, 3))),
            counts=whole(part.counts),
            cells=real(part.cells),
            pbc=torch.as_tensor(part.pbc, device=self.device),
            cell_velocities=real(np.zeros((count, 3, 3))),
            row=whole(rows),
            stage=whole(np.zeros(count)),
            steps=whole(np.zeros(count)),
            stage_steps=whole(np.zeros(count)),
            dt=real(np.full(count, _DT)),
            alpha=real(np.full(count, _ALPHA)),
            downhill=whole(np.zeros(count)),
            started=flags(False),
            done=flags(False),
            status=whole(np.zeros(count)),
            energy=real(np.zeros(count)),
            fmax=real(np.full(count, np.inf)),
            edge_index=whole(np.zeros((2, 0))),
            shifts=real(np.zeros((0, 3))),
            listed_positions=real(part.positions),
            listed_cells=real(part.cells),
            stale=flags(True),
        )
        self._jitter(batch)
        return batch

    def _jitter(self, batch: Batch) -> None:
        """Apply jitter stages at once to structures that have reached one."""
        starts = torch.cumsum(batch.counts, 0) - batch.counts
        for place in range(len(batch)):
            while not batch.done[place] and self.stages[int(batch.stage[place])].kind == "jitter":
                stage = int(batch.stage[place])
                row = int(batch.row[place])
                labels = self.frames.structure
                # Tied to the start, not to the batch: the same in any company.
                identity = [
                    int(labels["seed"][row]) if "seed" in labels else 0,
                    int(labels["index"][row]) if "index" in labels else row,
                    stage,
                    3,
                ]
                count = int(batch.counts[place])
                rng = np.random.default_rng(np.random.SeedSequence(identity))
                moves = self.stages[stage].amplitude * (2 * rng.random((count, 3)) - 1)
                atoms = slice(int(starts[place]), int(starts[place]) + count)
                batch.positions[atoms] += torch.as_tensor(moves).to(batch.positions)
                self._next_stage(batch, place)

    def _next_stage(self, batch: Batch, place: int) -> None:
        if int(batch.stage[place]) + 1 == len(self.stages):
            batch.done[place] = True
            return
        batch.stage[place] += 1
        batch.stage_steps[place] = 0
        batch.started[place] = False
        batch.dt[place], batch.alpha[place], batch.downhill[place] = _DT, _ALPHA, 0

    def _step(self, batch: Batch) -> None:
        """One force call for all, then each structure moves, changes stage, or is done."""
        self._refresh_lists(batch)
        owner = batch.batch
        graph = batch.graph().within(self.potential.cutoff)
        found = self.potential(graph)
        self.force_calls += 1
        mode = self.cell_mode[batch.stage]
        virial = found.stress * torch.linalg.det(batch.cells).abs()[:, None, None]
        pull = -virial / batch.counts[:, None, None]
        one = torch.eye(3, dtype=self.dtype, device=self.device)
        trace = torch.diagonal(pull, dim1=1, dim2=2).mean(-1)[:, None, None] * one
        pull = torch.where((mode == 1)[:, None, None], pull - trace, pull)
        pull = torch.where((graph.periodic & (mode > 0))[:, None, None], pull, 0.0 * pull)

        largest = torch.zeros(len(batch), dtype=self.dtype, device=self.device)
        largest = largest.scatter_reduce(
            0, owner, torch.linalg.vector_norm(found.forces, dim=1), "amax"
        )
        largest = torch.maximum(largest, torch.linalg.vector_norm(pull, dim=2).amax(1))
        # Positions count, too: an atom at NaN has no neighbours, so no force.
        sums = batch.positions.sum(1) + batch.cells.sum((1, 2))[owner]
        lost = torch.zeros_like(largest).index_add(0, owner, (~torch.isfinite(sums)).to(largest))
        exploded = ~torch.isfinite(largest + found.energy) | (largest > _EXPLODED_FORCE)
        exploded |= lost > 0
        running = ~batch.done
        batch.energy = torch.where(running, found.energy, batch.energy)
        batch.fmax = torch.where(running, largest, batch.fmax)

        relaxed = largest < self.fmax[batch.stage]
        spent = batch.stage_steps >= self.max_steps[batch.stage]
        over = running & (relaxed | spent | exploded)
        last = batch.stage == len(self.stages) - 1
        verdict = torch.where(relaxed, CONVERGED, OUT_OF_STEPS)
        batch.status = torch.where(over, torch.where(exploded, EXPLODED, verdict), batch.status)
        batch.done |= over & (last | exploded)
        for place in torch.nonzero(over & ~batch.done)[:, 0].tolist():
            self._next_stage(batch, place)
        if bool((over & ~batch.done).any()):
            self._jitter(batch)
        self._move(batch, found.forces, pull, owner, running & ~over)

    def _move(
        self, batch: Batch, forces: Tensor, pull: Tensor, owner: Tensor, moving: Tensor
    ) -> None:
        """FIRE's step for the structures in ``moving``; the others stay."""

        def dot(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
            cells = (c * d).sum((1, 2))
            return cells.index_add(0, owner, (a * b).sum(1))

        power = dot(forces, batch.velocities, pull, batch.cell_velocities)
        downhill = batch.started & (power > 0)
        speed = dot(
            batch.velocities, batch.velocities, batch.cell_velocities, batch.cell_velocities
        ).sqrt()
        force = dot(forces, forces, pull, pull).sqrt().clamp(min=1e-30)
        mix = torch.where(downhill, batch.alpha * speed / force, torch.zeros_like(speed))
        keep = torch.where(downhill, 1 - batch.alpha, torch.zeros_like(speed))
        grown = downhill & (batch.downhill > _N_MIN)
        uphill = batch.started & ~downhill
        batch.dt = torch.where(grown, (batch.dt * _GROW).clamp(max=_DT_MAX), batch.dt)
        batch.dt = torch.where(uphill, batch.dt * _SHRINK, batch.dt)
        batch.alpha = torch.where(grown, batch.alpha * _ALPHA_SHRINK, batch.alpha)
        batch.alpha = torch.where(uphill, torch.full_like(batch.alpha, _ALPHA), batch.alpha)
        batch.downhill = torch.where(downhill, batch.downhill + 1, 0)
        batch.started = batch.started | moving

        on = moving.to(self.dtype)
        forces, pull = forces * on[owner, None], pull * on[:, None, None]
        push = (mix + batch.dt) * on
        batch.velocities = (keep * on)[owner, None] * batch.velocities + push[owner, None] * forces
        batch.cell_velocities = (keep * on)[:, None, None] * batch.cell_velocities + (
            push[:, None, None] * pull
        )
        moves = batch.dt[owner, None] * batch.velocities
        strains = batch.dt[:, None, None] * batch.cell_velocities
        length = dot(moves, moves, strains, strains).sqrt()
        shorten = (_MAX_MOVE / length.clamp(min=_MAX_MOVE)).nan_to_num(0.0)
        moves = moves * shorten[owner, None]
        strains = strains * (shorten / batch.counts)[:, None, None]
        deformation = torch.linalg.matrix_exp(strains)
        batch.cells = torch.bmm(batch.cells, deformation)
        batch.positions = torch.bmm(batch.positions[:, None], deformation[owner])[:, 0] + moves
        batch.steps = batch.steps + moving
        batch.stage_steps = batch.stage_steps + moving

    def _refresh_lists(self, batch: Batch) -> None:
        """Make new lists for structures whose atoms moved too far since the last ones."""
        owner = batch.batch
        periodic = batch.pbc.any(1)
        one = torch.eye(3, dtype=self.dtype, device=self.device).expand(len(batch), 3, 3)
        fixed = ~batch.pbc.all(1)[:, None, None]
        deformation = torch.linalg.solve(
            torch.where(fixed, one, batch.listed_cells), torch.where(fixed, one, batch.cells)
        )
        carried = torch.bmm(batch.listed_positions[:, None], deformation[owner])[:, 0]
        away = torch.zeros(len(batch), dtype=self.dtype, device=self.device).scatter_reduce(
            0, owner, torch.linalg.vector_norm(batch.positions - carried, dim=1), "amax"
        )
        strain = torch.where(
            periodic, torch.linalg.matrix_norm(deformation - one), torch.zeros_like(away)
        )
        reach = self.potential.cutoff + self.skin
        # A pair beyond the list has come no nearer than this.
        safe = (1 - strain) * reach - 2 * away >= self.potential.cutoff
        stale = (batch.stale | ~safe) & ~batch.done
        if not bool(stale.any()):
            return
        atoms = stale[owner]
        index = torch.nonzero(atoms)[:, 0]
        edges, shifts = neighbour_list(
            batch.positions[atoms].double(),
            batch.cells[stale].double(),
            batch.pbc[stale],
            batch.counts[stale],
            reach,
        )
        old = ~atoms[batch.edge_index[0]]
        edge_index = torch.cat([batch.edge_index[:, old], index[edges]], 1)
        order = torch.argsort(edge_index[0], stable=True)
        batch.edge_index = edge_index[:, order]
        batch.shifts = torch.cat([batch.shifts[old], shifts.to(self.dtype)])[order]
        batch.listed_positions = torch.where(
            atoms[:, None], batch.positions, batch.listed_positions
        )
        batch.listed_cells = torch.where(stale[:, None, None], batch.cells, batch.listed_cells)
        batch.stale = batch.stale & ~stale

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
