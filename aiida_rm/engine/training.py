"""Train a potential on forces and stress; stop and resume without a trace.

Everything drawn at random is a function of the seed and the epoch, so a checkpoint is only
weights, optimiser and counters: an interrupted and resumed run gives the same bytes as an
uninterrupted one (same machine, same number of threads).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.device import pick_device
from aiida_rm.engine.errors import DivergenceError, PotentialError, StateError
from aiida_rm.engine.files import SCHEMA_VERSION
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import (
    Potential,
    read_safetensors,
    write_safetensors,
)
from aiida_rm.engine.potential.core import largest_core
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training_data import (
    Targets,
    TrainingData,
    check_labels,
    gauge,
    pack,
    split,
)
from aiida_rm.engine.training_digest import OTHER_TRAINING, training_digest
from aiida_rm.engine.training_model import first_model

Metrics = dict[str, float]
#: Metrics that are means over the batches of an epoch.
_MEANS = ("loss", "gradient_norm", "clipped", "learning_rate")


@dataclass
class Progress:
    """Where a training stands; all of it is in the checkpoint."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best_epoch: int = 0
    best_error: float = math.inf
    sums: dict[str, float] = field(default_factory=dict)
    history: list[Metrics] = field(default_factory=list)


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


class Trainer:
    """One training: model, optimiser, averages and counters."""

    def __init__(
        self,
        frames: Frames,
        settings: TrainSettings,
        initial: Potential | None = None,
    ) -> None:
        """Prepare a training.

        Args:
            frames: perturbed structures with the labels of :func:`response.perturb`.
            settings: all knobs.
            initial: start from these weights instead of random ones.

        Raises:
            FramesError: labels are missing or unusable.
            PotentialError: ``initial`` has another shape or core.
        """
        core = check_labels(frames)
        self.settings = settings
        self.device = pick_device(settings.device)
        self.dtype = getattr(torch, settings.dtype)
        self.digest = training_digest(frames, settings)
        reach = max(settings.cutoff, largest_core(frames.numbers, core[0]))
        self.data = TrainingData(frames, reach, self.dtype, self.device, settings.noise_weight)
        self.train_rows, self.validation_rows = split(frames, settings)
        self.model = first_model(self.data, self.train_rows, settings, core, initial)
        self.average = deepcopy(self.model)
        self.best = deepcopy(self.model)
        for copy in (self.average, self.best):
            copy.requires_grad_(False)
        self.weights = self.model.network.trained()
        self.optimizer = torch.optim.Adam(self.weights, lr=settings.learning_rate)
        self.progress = Progress()
        # So that forces and stress weigh alike whatever their units.
        self.scales = self.data.scales(self.train_rows)

    def run(
        self,
        should_stop: Callable[[], str | None] = lambda: None,
        on_epoch: Callable[[Metrics], None] = lambda _metrics: None,
        checkpoint: Path | None = None,
    ) -> TrainOutcome:
        """Train until the epochs are over or ``should_stop`` gives a reason.

        Raises:
            DivergenceError: the loss is NaN or infinite; the last checkpoint stays on disk.
        """
        s, p = self.settings, self.progress
        saved = time.monotonic()
        reason = "completed"
        while p.epoch < s.epochs:
            began, rows_done = time.monotonic(), 0
            order = np.random.default_rng([s.seed, p.epoch]).permutation(self.train_rows)
            batches = pack(order, self.data.counts, s.batch_atoms)
            while p.batch < len(batches):
                rows = batches[p.batch]
                self._step(rows, (p.epoch + p.batch / len(batches)) / s.epochs)
                p.batch, p.step, rows_done = p.batch + 1, p.step + 1, rows_done + len(rows)
                stop = should_stop()
                if stop:
                    if checkpoint:
                        self.save(checkpoint)
                    return TrainOutcome(self.finished_potential(), stop, p)
                if checkpoint and time.monotonic() - saved > s.checkpoint_seconds:
                    self.save(checkpoint)
                    saved = time.monotonic()
            metrics = self._end_epoch(time.monotonic() - began, rows_done)
            on_epoch(metrics)
            if s.patience and p.epoch - p.best_epoch >= s.patience:
                reason = "early_stopping"
                break
        return TrainOutcome(self.finished_potential(), reason, p)

    def _step(self, rows: np.ndarray[Any, Any], done: float) -> None:
        s, p = self.settings, self.progress
        rate = learning_rate(s, p.step, done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        graph, targets = self.data.batch(rows)
        loss, _ = self.loss(self.model, graph, targets, training=True)
        if not torch.isfinite(loss):
            raise DivergenceError(
                f"the loss became {loss.item()} in epoch {p.epoch + 1}; lower 'learning_rate' "
                f"(it is {s.learning_rate:g}) or 'clip_norm'"
            )
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        norm = float(torch.nn.utils.clip_grad_norm_(self.weights, s.clip_norm))
        self.optimizer.step()
        # A young average forgets faster, or the random start would linger in it.
        decay = min(s.ema_decay, (1 + p.step) / (10 + p.step))
        with torch.no_grad():
            for mean, new in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(new, 1 - decay)
        for name, value in (
            ("batches", 1.0),
            ("loss", float(loss.detach())),
            ("gradient_norm", norm),
            ("clipped", float(norm > s.clip_norm)),
            ("learning_rate", rate),
        ):
            p.sums[name] = p.sums.get(name, 0.0) + value

    def loss(
        self, model: Potential, graph: Graph, targets: Targets, *, training: bool
    ) -> tuple[Tensor, dict[str, float]]:
        """Weighted squared errors over the variance of the targets; and their plain sums."""
        s = self.settings
        prediction = model(graph, create_graph=training)
        force_error = (prediction.forces - targets.forces).square().sum(-1)
        stress_error = (prediction.stress - targets.stress).square().sum((1, 2))
        stress_error = stress_error[graph.periodic]
        weighted = force_error * targets.weights[graph.batch]
        loss = s.force_weight * weighted.mean() / self.scales[0]
        if len(stress_error):
            loss = loss + s.stress_weight * stress_error.mean() / self.scales[1]
        sums = {}
        if not training:
            sums = {
                "atoms": float(len(force_error)),
                "cells": float(len(stress_error)),
                "force": float(force_error.sum().detach()),
                "stress": float(stress_error.sum().detach()),
            }
        return loss, sums

    def evaluate(self, rows: np.ndarray[Any, Any]) -> Metrics:
        """Errors of the average weights on some rows of the data.

        Returns:
            ``force_error`` and ``stress_error``: squared error over the variance of the target
            (1: as good as predicting none); ``force_rmse`` (per component), ``stress_rmse``.
        """
        total: dict[str, float] = {}
        for some in pack(rows, self.data.counts, 4 * self.settings.batch_atoms):
            graph, targets = self.data.batch(some)
            for name, value in self.loss(self.average, graph, targets, training=False)[1].items():
                total[name] = total.get(name, 0.0) + value
        atoms, cells = max(total.get("atoms", 0.0), 1.0), max(total.get("cells", 0.0), 1.0)
        force, stress = total.get("force", 0.0) / atoms, total.get("stress", 0.0) / cells
        return {
            "force_error": force / self.scales[0],
            "stress_error": stress / self.scales[1],
            "force_rmse": math.sqrt(force / 3),
            "stress_rmse": math.sqrt(stress / 9),
        }

    def _end_epoch(self, seconds: float, rows_done: int) -> Metrics:
        s, p = self.settings, self.progress
        rows = self.validation_rows if len(self.validation_rows) else self.train_rows[:256]
        errors = self.evaluate(rows)
        error = s.force_weight * errors["force_error"] + s.stress_weight * errors["stress_error"]
        p.epoch, p.batch = p.epoch + 1, 0
        if error < p.best_error:
            p.best_error, p.best_epoch = error, p.epoch
            self.best.load_state_dict(self.average.state_dict())
        batches = max(p.sums.get("batches", 0.0), 1.0)
        metrics = {
            "epoch": p.epoch,
            "epochs": s.epochs,
            "step": p.step,
            **{name: p.sums.get(name, 0.0) / batches for name in _MEANS},
            "validation_loss": error,
            **errors,
            "structures_per_second": rows_done / max(seconds, 1e-9),
            "seconds": seconds,
        }
        p.sums = {}
        p.history.append(metrics)
        return metrics

    def finished_potential(self) -> Potential:
        """The best average weights, with E~ of the stable structures put at zero."""
        best = deepcopy(self.best if self.progress.best_epoch else self.average)
        gauge(best, self.data, self.train_rows, self.settings.batch_atoms)
        best.notes = {
            **best.notes,
            "training": {
                "epochs": self.progress.epoch,
                "steps": self.progress.step,
                "best_epoch": self.progress.best_epoch,
            },
        }
        return best

    def save(self, path: Path) -> None:
        """Write everything that :meth:`restore` needs; atomically."""
        p = self.progress
        tensors: dict[str, Tensor] = {}
        for name, model in self._models().items():
            tensors |= {f"{name}.{k}": v.detach().cpu() for k, v in model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v.detach().cpu() for k, v in state.items()}
        keys = sorted(p.history[0]) if p.history else []
        if keys:
            rows = [[row[key] for key in keys] for row in p.history]
            tensors["history"] = torch.tensor(rows, dtype=torch.float64)
        header = {
            "schema": SCHEMA_VERSION,
            "kind": "training_state",
            "digest": self.digest,
            "epoch": p.epoch,
            "batch": p.batch,
            "step": p.step,
            "best_epoch": p.best_epoch,
            "best_error": p.best_error if math.isfinite(p.best_error) else None,
            "sums": p.sums,
            "history": keys,
            "elements": list(self.model.elements),
        }
        write_safetensors(path, tensors, header)

    def restore(self, path: Path) -> None:
        """Continue where a saved training stood.

        Raises:
            StateError: the file is damaged, or belongs to other data or settings.
        """
        try:
            tensors, header = read_safetensors(path, "training_state")
        except PotentialError as error:
            raise StateError(str(error)) from error
        if header.get("digest") != self.digest:
            raise StateError(OTHER_TRAINING)
        try:
            for name, model in self._models().items():
                model.load_state_dict(_below(tensors, f"{name}."))
            state = self.optimizer.state_dict()
            state["state"] = {
                index: _below(tensors, f"adam.{index}.")
                for index in range(len(state["param_groups"][0]["params"]))
                if f"adam.{index}.step" in tensors
            }
            self.optimizer.load_state_dict(state)
            keys, rows = header["history"], tensors.get("history", torch.zeros((0, 0))).tolist()
            best = header["best_error"]
            self.progress = Progress(
                epoch=int(header["epoch"]),
                batch=int(header["batch"]),
                step=int(header["step"]),
                best_epoch=int(header["best_epoch"]),
                best_error=math.inf if best is None else float(best),
                sums={str(k): float(v) for k, v in header["sums"].items()},
                history=[dict(zip(keys, row, strict=True)) for row in rows],
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"'{path.name}' is damaged: {error}") from error

    def _models(self) -> dict[str, Potential]:
        return {"model": self.model, "average": self.average, "best": self.best}


def learning_rate(settings: TrainSettings, step: int, done: float) -> float:
    """Linear warm-up times a cosine over the whole training; ``done`` runs from 0 to 1."""
    warm = min(1.0, (step + 1) / (settings.warmup_steps + 1))
    floor = settings.final_rate
    cosine = floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * warm * cosine


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
