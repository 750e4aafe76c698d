"""A training on disk: everything that going on needs, in one safetensors file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import PotentialError, StateError, brief
from aiida_rm.engine.files import SCHEMA_VERSION
from aiida_rm.engine.potential import Potential, read_safetensors, write_safetensors
from aiida_rm.engine.training.digest import OTHER_TRAINING
from aiida_rm.engine.training.progress import Progress

_COUNTERS = ("epoch", "batch", "step", "best_epoch", "rescues")


def save_state(
    path: Path,
    digest: str,
    models: Mapping[str, Potential],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    previous: Path | None = None,
) -> None:
    """Write weights, optimiser and counters; atomically.

    What was at ``path`` is kept as ``previous``.

    Raises:
        DiskError: the file cannot be written.
    """
    p = progress
    tensors: dict[str, Tensor] = {}
    for name, model in models.items():
        tensors |= {f"{name}.{k}": v.detach().cpu() for k, v in model.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v.detach().cpu() for k, v in state.items()}
    keys = sorted(p.history[0]) if p.history else []
    if keys:
        rows = [[row[key] for key in keys] for row in p.history]
        tensors["history"] = torch.tensor(rows, dtype=torch.float64)
    header: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "kind": "training_state",
        "digest": digest,
        "epoch": p.epoch,
        "batch": p.batch,
        "step": p.step,
        "best_epoch": p.best_epoch,
        "best_error": p.best_error if math.isfinite(p.best_error) else None,
        "rescues": p.rescues,
        "sums": p.sums,
        "history": keys,
        "elements": list(models["model"].elements),
    }
    write_safetensors(path, tensors, header, previous)


def load_state(
    path: Path,
    digest: str,
    models: Mapping[str, Potential],
    optimizer: torch.optim.Optimizer,
) -> Progress:
    """Read what :func:`save_state` wrote into the models and the optimiser.

    Raises:
        StateError: the file is damaged, or belongs to other data or settings.
    """
    try:
        tensors, header = read_safetensors(path, "training_state")
    except PotentialError as error:
        raise StateError(str(error)) from error
    if header.get("digest") != digest:
        raise StateError(OTHER_TRAINING)
    for name, model in models.items():
        for part, tensor in _below(tensors, f"{name}.").items():
            own = model.state_dict().get(part)
            if own is not None and own.shape != tensor.shape:
                raise StateError(
                    f"'{path.name}' is of a network of another size; a training that began with a "
                    "potential wants that one again to go on"
                )
    try:
        progress = _progress_of(header, tensors)
        states = optimizer.state_dict()
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        states["state"] = {
            index: _adam_of(_below(tensors, f"adam.{index}."), weight)
            for index, weight in enumerate(weights)
            if f"adam.{index}.step" in tensors
        }
        for name, model in models.items():
            model.load_state_dict(_below(tensors, f"{name}."))
            model.elements = _elements_of(header)
        optimizer.load_state_dict(states)
    except (KeyError, TypeError, ValueError, RuntimeError, OverflowError, AttributeError) as error:
        raise StateError(f"'{path.name}' is damaged: {brief(error)}") from error
    return progress


def _progress_of(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Progress:
    keys, rows = header["history"], tensors.get("history", torch.zeros((0, 0))).tolist()
    best = header["best_error"]
    counters = {name: int(header[name]) for name in _COUNTERS}
    if min(counters.values()) < 0:
        raise ValueError(f"it counts below zero: {counters}")
    if not all(isinstance(key, str) for key in keys):
        raise TypeError("its history has no names")
    return Progress(
        **counters,
        best_error=math.inf if best is None else float(best),
        sums={str(k): float(v) for k, v in header["sums"].items()},
        history=[dict(zip(keys, row, strict=True)) for row in rows],
    )


def _elements_of(header: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a warm start, too, whose potential is not asked for again."""
    elements = tuple(header["elements"])
    if not elements or any(symbol not in SYMBOLS[1:] for symbol in elements):
        raise ValueError("it names no known elements")
    return elements


def _adam_of(state: dict[str, Tensor], weight: Tensor) -> dict[str, Tensor]:
    """What Adam keeps of one weight; torch would take any shape, and fail later."""
    for name, value in state.items():
        if value.shape != (() if name == "step" else weight.shape):
            raise ValueError(f"Adam's '{name}' is not of the weight's shape")
    return state


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
