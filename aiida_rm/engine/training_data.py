"""Data for training: checks, the split, batches packed by atoms, and what the set is like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.settings import TrainSettings

Rows = np.ndarray[Any, Any]
#: Edges whose graphs are kept in memory (11 bytes each); beyond, they are built each time.
_KEPT_EDGES = 60_000_000
#: Noise below this (angstrom) counts as this, or the unperturbed structures would weigh all.
_QUIET = 0.02


@dataclass(frozen=True)
class Targets:
    """Forces (A, 3) and stress (S, 3, 3) to learn, and how much each structure counts (S,)."""

    forces: Tensor
    stress: Tensor
    weights: Tensor


class TrainingData:
    """Perturbed frames as graphs with targets on a device."""

    def __init__(
        self,
        frames: Frames,
        cutoff: float,
        dtype: torch.dtype,
        device: torch.device,
        noise_weight: float = 0.0,
    ) -> None:
        self.frames = frames
        self.weights = noise_weights(frames, noise_weight)
        self.counts = frames.counts
        self.cutoff = cutoff
        self.dtype = dtype
        self.device = device
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}
        self._edges = 0

    def batch(self, rows: Rows) -> tuple[Graph, Targets]:
        """Graph and targets of some structures."""
        part = self.frames.select(rows)
        missing = [int(row) for row in rows if int(row) not in self._kept]
        graph = self._join(part, rows) if not missing else self._build(part, rows)
        forces = torch.as_tensor(part.atom["force"], dtype=self.dtype, device=self.device)
        stress = torch.as_tensor(part.structure["stress"], dtype=self.dtype, device=self.device)
        weights = torch.as_tensor(self.weights[rows], dtype=self.dtype, device=self.device)
        return graph, Targets(forces, stress, weights)

    def scales(self, rows: Rows) -> tuple[float, float]:
        """Mean squared target of forces (per atom) and stress (per cell), at least 1e-8."""
        part = self.frames.select(rows)
        force = float((part.atom["force"] ** 2).sum(-1).mean())
        stress = part.structure["stress"][part.pbc.all(axis=1)]
        spread = float((stress**2).sum((1, 2)).mean()) if len(stress) else 1.0
        return max(force, 1e-8), max(spread, 1e-8)

    def _build(self, part: Frames, rows: Rows) -> Graph:
        graph = build_graph(part, self.cutoff, dtype=self.dtype, device=self.device)
        if self._edges + graph.edge_index.shape[1] <= _KEPT_EDGES:
            owner = graph.batch[graph.edge_index[0]]
            sizes = torch.bincount(owner, minlength=len(part)).tolist()
            local = (graph.edge_index - torch.as_tensor(part.ptr[:-1]).to(owner)[owner]).int()
            edge_parts = torch.split(local, sizes, 1)
            shift_parts = torch.split(graph.shifts.to(torch.int8), sizes)
            for row, edges, shifts in zip(rows, edge_parts, shift_parts, strict=True):
                if int(row) not in self._kept:
                    self._kept[int(row)] = (edges.clone(), shifts.clone())
                    self._edges += edges.shape[1]
        return graph

    def _join(self, part: Frames, rows: Rows) -> Graph:
        kept = [self._kept[int(row)] for row in rows]
        starts = part.ptr[:-1].tolist()
        edges = [edge.long() + start for (edge, _), start in zip(kept, starts, strict=True)]

        def put(array: Rows, dtype: torch.dtype) -> Tensor:
            return torch.as_tensor(array, dtype=dtype, device=self.device)

        return Graph(
            numbers=put(part.numbers, torch.int64),
            positions=put(part.positions, self.dtype),
            cells=put(part.cells, self.dtype),
            periodic=put(np.asarray(part.pbc.all(axis=1)), torch.bool),
            batch=put(part.batch, torch.int64),
            edge_index=torch.cat(edges, 1),
            shifts=torch.cat([shift for _, shift in kept]).to(self.dtype),
        )


def noise_weights(frames: Frames, power: float) -> Rows:
    """(S,) weights of the structures' forces, noise^-power, of mean 1 over the atoms.

    Raises:
        FramesError: the label ``noise`` is missing.
    """
    if power == 0:
        return np.ones(len(frames))
    if "noise" not in frames.structure:
        raise FramesError(
            "the frames have no label 'noise'; run perturb again, or set 'noise_weight' to 0"
        )
    weights = np.hypot(frames.structure["noise"], _QUIET) ** -power
    return np.asarray(weights * frames.n_atoms / (weights * frames.counts).sum())


def pack(rows: Rows | Sequence[int], counts: Rows, limit: int) -> list[Rows]:
    """Cut rows, in order, into batches of at most ``limit`` atoms (one structure at least)."""
    batches, begin, atoms = [], 0, 0
    rows = np.asarray(rows)
    for place, size in enumerate(counts[rows]):
        if place > begin and atoms + size > limit:
            batches.append(rows[begin:place])
            begin, atoms = place, 0
        atoms += int(size)
    if len(rows):
        batches.append(rows[begin:])
    return batches


def check_labels(frames: Frames) -> tuple[float, float]:
    """Refuse frames without targets; give the radius and strength of their core repulsion.

    Raises:
        FramesError: a label is missing or of the wrong shape.
    """
    frames.check()
    force, stress = frames.atom.get("force"), frames.structure.get("stress")
    if force is None or force.shape != (frames.n_atoms, 3):
        raise FramesError("the frames have no atom label 'force' (A, 3); run perturb on them first")
    if stress is None or stress.shape != (len(frames), 3, 3):
        raise FramesError("the frames have no label 'stress' (S, 3, 3); run perturb on them first")
    if not (np.isfinite(force).all() and np.isfinite(stress).all()):
        raise FramesError("the target forces or stresses are not all finite; run perturb again")
    core = []
    for name in ("core_scale", "core_strength"):
        values = np.unique(frames.structure.get(name, np.zeros(0)))
        if len(values) != 1:
            raise FramesError(
                f"the label '{name}' is missing or differs between structures; perturb all of "
                "them with the same core repulsion"
            )
        core.append(float(values[0]))
    return core[0], core[1]


def split(frames: Frames, settings: TrainSettings) -> tuple[Rows, Rows]:
    """Rows for training and for validation; whole families (one parent) where there are many."""
    rng = np.random.default_rng([settings.seed, 1])
    parents = np.asarray(frames.structure.get("parent", np.arange(len(frames))))
    families = np.unique(parents)
    if len(families) >= 20:
        held = rng.permutation(families)[: round(settings.validation_fraction * len(families))]
        mask = np.isin(parents, held)
    else:
        mask = np.zeros(len(frames), bool)
        count = min(round(settings.validation_fraction * len(frames)), len(frames) - 1)
        mask[rng.permutation(len(frames))[:count]] = True
    return np.flatnonzero(~mask), np.flatnonzero(mask)


def describe_training_set(frames: Frames) -> dict[str, Any]:
    """Composition and elemental volumes (least squares), which random starts draw on.

    Returns:
        ``composition`` mean share of each element, ``elemental_volumes`` cubic angstrom an
        atom of each element (empty for molecules).
    """
    numbers = np.unique(frames.numbers)
    table = np.stack(
        [np.bincount(frames.batch, frames.numbers == z, len(frames)) for z in numbers], 1
    )
    shares = (table / table.sum(1, keepdims=True)).mean(0)
    symbols = [SYMBOLS[z] for z in numbers]
    volumes = np.asarray(frames.structure.get("reference_volume", frames.volumes))
    known = np.isfinite(volumes)
    found: dict[str, float] = {}
    if known.any():
        mean = float((volumes[known] / table[known].sum(1)).mean())
        # A faint pull towards the mean volume keeps rare elements positive.
        pull = 1e-3 * np.sqrt(known.sum())
        rows = np.concatenate([table[known], pull * np.eye(len(numbers))])
        wanted = np.concatenate([volumes[known], np.full(len(numbers), pull * mean)])
        fit = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        found = {s: float(max(v, 0.1 * mean)) for s, v in zip(symbols, fit, strict=True)}
    return {
        "composition": {s: float(x) for s, x in zip(symbols, shares, strict=True)},
        "elemental_volumes": found,
    }


def gauge(potential: Potential, data: TrainingData, rows: Rows, batch_atoms: int) -> None:
    """Fit the constant per element so that E~ agrees with its target near the stable structures.

    Far from them the target is a mixture of many homes, which no potential can follow.
    """
    if "energy" not in data.frames.structure:
        return
    wanted = np.asarray(data.frames.structure["energy"])[rows] / data.counts[rows]
    rows = rows[np.argsort(wanted, kind="stable")[: max(64, len(rows) // 10)]]
    rows = rows[:: max(1, len(rows) // 512)]
    potential.element_energy.zero_()
    numbers = np.unique(data.frames.numbers)
    lines, rest = [], []
    for some in pack(rows, data.counts, 4 * batch_atoms):
        graph, _ = data.batch(some)
        found = potential(graph).energy.double().cpu().numpy()
        part = data.frames.select(some)
        lines.append(
            np.stack([np.bincount(part.batch, part.numbers == z, len(part)) for z in numbers], 1)
        )
        rest.append(part.structure["energy"] - found)
    # Per atom, or the largest cells would decide.
    table = np.concatenate(lines)
    sizes = table.sum(1, keepdims=True)
    fit = np.linalg.lstsq(table / sizes, np.concatenate(rest) / sizes[:, 0], rcond=None)[0]
    for number, value in zip(numbers, fit, strict=True):
        potential.element_energy[int(number)] = float(value)
