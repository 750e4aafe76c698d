"""Train a potential on forces and stress; stop and resume without a trace.

Everything drawn at random is a function of the seed and the epoch, so a checkpoint is only
weights, optimiser and counters: an interrupted and resumed run gives the same bytes as an
uninterrupted one (same processor, same number of threads; on a GPU, whose sums have no order, to
rounding).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.device import pick_device
from aiida_rm.engine.errors import DiskError, DivergenceError
from aiida_rm.engine.files import PREVIOUS_STATE
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.core import largest_core
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training.compiled import CompiledGradient
from aiida_rm.engine.training.copies import Copies
from aiida_rm.engine.training.data import (
    Limit,
    Part,
    Rows,
    Targets,
    TrainingData,
    evenly,
    gauge,
    pack,
    split,
)
from aiida_rm.engine.training.digest import training_digest
from aiida_rm.engine.training.distributed import Team
from aiida_rm.engine.training.errors import SUMS, add_errors, mean_errors
from aiida_rm.engine.training.held_out import held_out
from aiida_rm.engine.training.loader import Loader
from aiida_rm.engine.training.loss import add_gradient
from aiida_rm.engine.training.model import first_model
from aiida_rm.engine.training.progress import Metrics, Pace, Progress
from aiida_rm.engine.training.ranking import counts_of, energy_percentiles, environments_of
from aiida_rm.engine.training.state import load_state, save_state
from aiida_rm.engine.training.targets import check_labels, check_learnable

#: Metrics that are means over the batches of an epoch.
_MEANS = ("loss", "gradient_norm", "clipped", "learning_rate")


@dataclass(frozen=True)
class TrainOutcome:
    """What a training came to.

    Attributes:
        potential: the best average weights so far.
        stop_reason: completed, early_stopping, or what ``should_stop`` said.
        progress: counters and learning curves.
    """

    potential: Potential
    stop_reason: str
    progress: Progress

    @property
    def finished(self) -> bool:
        """Whether nothing is left to be done."""
        return self.stop_reason in ("completed", "early_stopping")


class Trainer:
    """One training: model, optimiser, averages and counters."""

    def __init__(
        self,
        frames: Frames,
        settings: TrainSettings,
        initial: Potential | None = None,
        team: Team | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            frames: perturbed structures with the labels of :func:`response.perturb`; the stable
                ones where ``draw`` is ``fresh``.
            settings: all knobs.
            initial: start from these weights instead of random ones.
            team: the processes that train together.

        Raises:
            FramesError: labels are missing or unusable, or there where stable structures belong.
            PotentialError: ``initial`` has another shape or core.
        """
        self.team = team or Team()
        self.settings = settings
        self.digest = training_digest(frames, settings)
        self.copies: Copies | None = None
        if settings.draw == "fresh":
            self.copies = Copies(frames, settings.recipe)
            frames = self.copies.all_of(epoch=0)
        core = check_labels(frames, energy=settings.energy_weight > 0)
        check_learnable(settings, len(frames.elements), molecules=not frames.pbc.any())
        self.device = pick_device(settings.device)
        self.dtype = getattr(torch, settings.dtype)
        reach = max(settings.cutoff, largest_core(frames.numbers, core[0]))
        self.data = TrainingData(frames, reach, self.dtype, self.device, settings.noise_weight)
        self.limit = Limit(settings.batch_edges, settings.batch_parts)
        self.train_rows, self.validation_rows = split(frames, settings)
        self.model = first_model(self.data, self.train_rows, settings, core, initial)
        self.average = deepcopy(self.model)
        self.best = deepcopy(self.model)
        for copy in (self.average, self.best):
            copy.requires_grad_(False)
        self.weights = self.model.network.trained()
        self.optimizer = torch.optim.Adam(self.weights, lr=settings.learning_rate)
        self.progress = Progress()
        self._say: Callable[[str], None] = lambda _line: None
        # So that forces and stress weigh alike whatever their units.
        self.scales = self.data.scales(self.train_rows)
        self._add_gradient: Callable[[Graph, Targets, Tensor], Tensor] = partial(
            add_gradient, self.model, self.weights
        )

    def run(
        self,
        should_stop: Callable[[], str | None] = lambda: None,
        on_epoch: Callable[[Metrics], None] = lambda _metrics: None,
        checkpoint: Path | None = None,
        say: Callable[[str], None] = lambda _line: None,
    ) -> TrainOutcome:
        """Train until the epochs are over or ``should_stop`` gives a reason to any process.

        Args:
            should_stop: a reason to stop now, or None.
            on_epoch: takes the metrics of an epoch.
            checkpoint: where the first process saves the state; the one before it stays beside.
            say: takes a line about the speed, now and then.

        Raises:
            DivergenceError: the loss is NaN or infinite, and ``rescues`` are used up; the last
                checkpoint stays on disk.
            EngineError: another process failed.
        """
        s, p = self.settings, self.progress
        self._say = say
        file = checkpoint if self.team.leads else None
        if s.compile and p.epoch < s.epochs:
            self._compile()
        saved, reason = time.monotonic(), "completed"
        pace = Pace(say, s.epochs, len(self.train_rows))
        loader = Loader(
            self.data, self.copies, self._own_batches, s.workers, (p.epoch, p.batch), s.epochs
        )
        try:
            while p.epoch < s.epochs:
                began, waited, trained = time.monotonic(), 0.0, 0
                batches = self._batches(p.epoch)
                place = sum(len(rows) for rows in batches[: p.batch])
                for rows in batches[p.batch :]:
                    asked = time.monotonic()
                    parts = loader.get(p.epoch, p.batch, self._own(rows), self.limit)
                    waited += time.monotonic() - asked
                    done = (p.epoch + p.batch / len(batches)) / s.epochs
                    stop = self._step(rows, done, parts, should_stop())
                    trained, place = trained + len(rows), place + len(rows)
                    p.batch, p.step = p.batch + 1, p.step + 1
                    if stop:
                        if file:
                            self.save(file)
                        return TrainOutcome(self.finished_potential(), stop, p)
                    if file and time.monotonic() - saved > s.checkpoint_seconds:
                        self._checkpoint(file)
                        saved = time.monotonic()
                    pace.count(p.epoch, place, len(rows))
                on_epoch(self._end_epoch(time.monotonic() - began, waited, trained))
                if s.patience and p.epoch - p.best_epoch >= s.patience:
                    reason = "early_stopping"
                    break
        finally:
            loader.close()
        return TrainOutcome(self.finished_potential(), reason, p)

    def _batches(self, epoch: int) -> list[Rows]:
        """The batches of all processes together: a function of the seed and the epoch."""
        s = self.settings
        order = np.random.default_rng([s.seed, epoch]).permutation(self.train_rows)
        return pack(order, self.data.counts, s.batch_atoms)

    def _own(self, rows: Rows) -> Rows:
        own: Rows = rows[self.team.share(self.data.counts[rows])]
        return own

    def _own_batches(self, epoch: int) -> list[Rows]:
        return [self._own(rows) for rows in self._batches(epoch)]

    def _step(
        self, rows: Rows, done: float, parts: list[Part] | None = None, stop: str | None = None
    ) -> str | None:
        """One step on a batch.

        Where the loss or its gradient is no number, the same batch is tried again after a rescue,
        with the same parts: these are data, which no weights change. There are ``rescues`` of
        them at most; the next one raises.

        Args:
            rows: the batch of all processes.
            done: from 0 to 1, where the training stands.
            parts: the share of this process; None makes it.
            stop: a reason for this process to stop.

        Returns:
            A reason for all of them.

        Raises:
            DivergenceError: the rescues are used up.
            EngineError: another process failed.
        """
        s, p = self.settings, self.progress
        rate = learning_rate(s, p.step, done) * 0.5**p.rescues
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        factors = self._factors(rows)
        self.optimizer.zero_grad(set_to_none=True)
        mine = torch.zeros((), dtype=self.dtype, device=self.device)
        if parts is None:
            parts = self.data.parts(self._own(rows), self.limit)
        for graph, targets in parts:
            mine += self._add_gradient(graph, targets, factors)
        loss, stopping = self.team.sum_gradients(self.weights, [mine, float(stop is not None)])
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, s.clip_norm))
        if not math.isfinite(loss + norm):
            self._rescue(loss, norm)
            return self._step(rows, done, parts, stop)
        self.optimizer.step()
        # A young average forgets faster, or the random start would linger in it.
        decay = min(s.ema_decay, (1 + p.step) / (10 + p.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        clipped = float(norm > s.clip_norm)
        values = {"loss": loss, "gradient_norm": norm, "clipped": clipped, "learning_rate": rate}
        p.count({"batches": 1.0, **values})
        return self.team.agree(stop) if stopping else None

    def _rescue(self, loss: float, norm: float) -> None:
        """Back to the best weights, on with half the learning rate; all processes alike.

        Raises:
            DivergenceError: it was done often enough.
        """
        s, p = self.settings, self.progress
        found = f"the loss became {loss} and its gradient {norm} in epoch {p.epoch + 1}"
        if p.rescues >= s.rescues:
            remedy = f"lower 'learning_rate' (it is {s.learning_rate:g}) or 'clip_norm'"
            raise DivergenceError(f"{found}, after {p.rescues} rescues; {remedy}")
        p.rescues += 1
        p.sums = {}  # with the epoch's last finite losses, which may have been huge
        self.model.load_state_dict(self.best.state_dict())
        self.average.load_state_dict(self.best.state_dict())
        self.optimizer.state.clear()
        way = f"with half the learning rate, rescue {p.rescues} of {s.rescues}"
        self._say(f"{found}; going on from the weights of epoch {p.best_epoch} {way}")

    def _factors(self, rows: Rows) -> Tensor:
        """Of the errors of a batch: a mean, over the targets' mean square for forces and stress."""
        s = self.settings
        atoms, cells = int(self.data.counts[rows].sum()), int(self.data.periodic[rows].sum())
        factors = [
            s.force_weight / (atoms * self.scales[0]),
            s.stress_weight / (max(cells, 1) * self.scales[1]),
        ]
        if s.energy_weight:
            factors.append(s.energy_weight / len(rows))
        return torch.tensor(factors, dtype=self.dtype, device=self.device)

    def _compile(self) -> None:
        """Compile the gradient; all processes, or none."""
        compiled = CompiledGradient(self.model, self.weights, self._say)
        batches = self._batches(0)
        # The same for every process and after every start.
        chosen = [batches[0], batches[-1]][: len(batches)]
        keep = self.copies is None
        compiled.compile(
            [
                (*self.data.parts(rows, self.limit, keep=keep)[0], factors)
                for rows, factors in ((rows, self._factors(rows)) for rows in chosen)
            ]
        )
        (ready,) = self.team.sum([float(compiled.works)])
        if ready < self.team.size:
            compiled.give_up("another process could not")
        self._add_gradient = compiled

    def evaluate(self, rows: Rows) -> Metrics:
        """Errors of the average weights on some rows of the data (training/errors.py)."""
        sums = dict.fromkeys(SUMS, 0.0)
        for some in pack(rows, self.data.counts, 4 * self.settings.batch_atoms):
            for graph, targets in self.data.parts(self._own(some), self.limit):
                add_errors(sums, self.average(graph), graph, targets, self.settings)
        total = dict(zip(SUMS, self.team.sum(sums[name] for name in SUMS), strict=True))
        return mean_errors(total, self.settings, self.scales)

    def _end_epoch(self, seconds: float, waited: float, trained: int) -> Metrics:
        s, p = self.settings, self.progress
        rows = self.validation_rows if len(self.validation_rows) else evenly(self.train_rows, 256)
        errors = self.evaluate(rows)
        p.epoch, p.batch = p.epoch + 1, 0
        if errors["validation_loss"] < p.best_error:
            p.best_error, p.best_epoch = errors["validation_loss"], p.epoch
            self.best.load_state_dict(self.average.state_dict())
        batches = max(p.sums.get("batches", 0.0), 1.0)
        (waiting,) = self.team.sum([waited / max(seconds, 1e-9) / self.team.size])
        metrics = {
            "epoch": p.epoch,
            "epochs": s.epochs,
            "step": p.step,
            **{name: p.sums.get(name, 0.0) / batches for name in _MEANS},
            **errors,
            "structures_per_second": trained / max(seconds, 1e-9),
            "waiting": waiting,
            "gpu": float(self.device.type == "cuda"),
            "seconds": seconds,
        }
        p.sums = {}
        p.history.append(metrics)
        return metrics

    def finished_potential(self) -> Potential:
        """The average weights to hand out, with E~ of the stable structures put at zero."""
        chosen = self.settings.weights == "best" and self.progress.best_epoch
        best = deepcopy(self.best if chosen else self.average)
        gauge(best, self.data, self.train_rows, self.settings.batch_atoms, self.limit)
        frames, atoms = self.data.frames, self.settings.batch_atoms // self.settings.batch_parts
        known = environments_of(best, frames, self.settings.environments, atoms)
        best.environments, distances = known
        best.notes = {
            **best.notes,
            "energy_percentiles": energy_percentiles(best, frames, atoms),
            "latent_percentiles": distances,
            "environments": counts_of(best.environments),
            "training": {
                "epochs": self.progress.epoch,
                "steps": self.progress.step,
                "best_epoch": self.progress.best_epoch,
            },
        }
        return best

    def held_out(self, potential: Potential) -> Frames | None:
        """What a potential says of the structures kept for validation; None without any."""
        rows, s = self.validation_rows, self.settings
        if not len(rows):
            return None
        return held_out(potential, self.data, rows, s.batch_atoms, self.limit)

    def save(self, path: Path) -> None:
        """Write everything that :meth:`restore` needs; atomically."""
        previous = path.with_name(PREVIOUS_STATE)
        save_state(path, self.digest, self._models(), self.optimizer, self.progress, previous)

    def _checkpoint(self, path: Path) -> None:
        """Save; a full disk is no reason to stop, there may be room at the end."""
        try:
            self.save(path)
        except DiskError as error:
            self._say(f"training goes on without a checkpoint: {error}")

    def restore(self, path: Path) -> None:
        """Continue where a saved training stood.

        Raises:
            StateError: the file is damaged, or belongs to other data or settings.
        """
        self.progress = load_state(path, self.digest, self._models(), self.optimizer)

    def _models(self) -> dict[str, Potential]:
        return {"model": self.model, "average": self.average, "best": self.best}


def learning_rate(settings: TrainSettings, step: int, done: float) -> float:
    """Linear warm-up times a cosine over the whole training; ``done`` runs from 0 to 1."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    floor = settings.final_rate
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * warm * cosine
