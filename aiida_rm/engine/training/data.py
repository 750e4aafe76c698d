"""Data for training: checks, the split, and batches packed by atoms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Array, Frames
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.settings import TrainSettings
from aiida_rm.engine.training.graphs import Neighbours, find_neighbours, join_neighbours
from aiida_rm.engine.training.statistics import stable_structures

#: (N,) indices of structures.
Rows = NDArray[np.integer[Any]]
#: Edges whose graphs are kept in memory (11 bytes each); beyond, they are built each time.
_KEPT_EDGES = 60_000_000
#: Noise below this (angstrom) counts as this, or the unperturbed structures would weigh all.
_QUIET = 0.02
#: Structures that tell the constant of an element that is rare.
_FEW = 8


@dataclass(frozen=True)
class Targets:
    """What to learn: forces (A, 3), stress (S, 3, 3), E~ (S,); how much a structure counts (S,)."""

    forces: Tensor
    stress: Tensor
    energy: Tensor
    weights: Tensor


#: Some structures as a graph, with their targets.
Part = tuple[Graph, Targets]


@dataclass(frozen=True)
class Limit:
    """How much of a batch a potential sees at once, which takes most of the memory.

    The structures themselves, and the search for their pairs, are on the device for the whole
    batch.

    Attributes:
        edges: pairs of neighbours in a part, at most (one structure at least); 0: no limit.
        parts: into so many parts of about the same number of pairs, at least.
    """

    edges: int = 0
    parts: int = 1

    def groups(self, sizes: Array) -> list[Rows]:
        """Places of the structures of each part; ``sizes``: pairs of each structure."""
        places = np.arange(len(sizes))
        share = max(1, -(-int(sizes.sum()) // self.parts))
        if self.parts == 1 and not self.edges:
            return [places]
        return pack(places, sizes, min(self.edges or share, share))


WHOLE = Limit()


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
        """Prepare; neighbours are found when they are asked for.

        Args:
            frames: perturbed structures with the labels that :func:`.targets.check_labels` wants.
            cutoff: of the neighbours, in angstrom.
            dtype: of positions and targets on the device.
            device: where batches go.
            noise_weight: structures weigh by their noise to the power of minus this.

        Raises:
            FramesError: ``noise_weight`` is not 0, and the label ``noise`` is missing.
        """
        self.frames = frames
        self._noise_weight = noise_weight
        # Of the whole set, so that a structure weighs the same in any batch.
        self._mean_weight = float(
            np.average(noise_weights(frames, noise_weight), weights=frames.counts)
        )
        self.counts = frames.counts
        self.periodic = np.asarray(frames.pbc.all(axis=1))
        self.cutoff = cutoff
        self.dtype = dtype
        self.device = device
        self._kept: dict[int, Neighbours] = {}
        self._edges = 0

    def batch(self, rows: Rows) -> Part:
        """Graph and targets of some structures."""
        return self.parts(rows)[0]

    def parts(self, rows: Rows, limit: Limit = WHOLE, *, keep: bool = True) -> list[Part]:
        """The same in parts.

        Args:
            rows: which structures; none give no parts.
            limit: of a part.
            keep: whether graphs that had to be built stay in memory.
        """
        if not len(rows):
            return []
        part = self.frames.select(rows)
        missing = [place for place, row in enumerate(rows) if int(row) not in self._kept]
        built: list[Neighbours] = []
        if missing:
            built = find_neighbours(part.select(missing), self.cutoff, self.device)
            if keep:
                self.keep(rows[missing], built)
        found = dict(zip(missing, built, strict=True))
        neighbours = [
            found[place] if place in found else self._kept[int(row)]
            for place, row in enumerate(rows)
        ]
        return self.put(part, neighbours, limit)

    def put(
        self, part: Frames, neighbours: Sequence[Neighbours], limit: Limit = WHOLE
    ) -> list[Part]:
        """Structures whose neighbours are known, on the device, in parts as above."""
        groups = limit.groups(np.array([edges.shape[1] for edges, _ in neighbours]))
        parts = []
        for group in groups:
            some = part if len(groups) == 1 else part.select(group)
            graph = join_neighbours(
                some, [neighbours[int(place)] for place in group], self.dtype, self.device
            )
            parts.append((graph, self._targets(some)))
        return parts

    def keep(self, rows: Rows, neighbours: Sequence[Neighbours]) -> None:
        """Keep the neighbours of some structures in memory while there is room."""
        for row, (edges, shifts) in zip(rows, neighbours, strict=True):
            fits = self._edges + edges.shape[1] <= _KEPT_EDGES
            if fits and int(row) not in self._kept:
                self._kept[int(row)] = (edges.clone(), shifts.clone())
                self._edges += edges.shape[1]

    def keeps(self, rows: Rows) -> bool:
        """Whether the neighbours of all these structures are in memory."""
        return all(int(row) in self._kept for row in rows)

    def scales(self, rows: Rows) -> tuple[float, float]:
        """Mean squared force of an atom (A^2) and stress of a cell (A^-2), both at least 1e-8.

        The targets of these rows; without cells among them, that of the stress is 1.
        """
        part = self.frames.select(rows)
        force = float((part.atom["force"] ** 2).sum(-1).mean())
        stresses = part.structure["stress"][part.pbc.all(axis=1)]
        stress = float((stresses**2).sum((1, 2)).mean()) if len(stresses) else 1.0
        return max(force, 1e-8), max(stress, 1e-8)

    def _targets(self, part: Frames) -> Targets:
        def put(values: Array) -> Tensor:
            return torch.as_tensor(values, dtype=self.dtype, device=self.device)

        return Targets(
            put(part.atom["force"]),
            put(part.structure["stress"]),
            put(part.structure.get("energy", np.zeros(len(part)))),
            put(noise_weights(part, self._noise_weight) / self._mean_weight),
        )


def noise_weights(frames: Frames, power: float) -> Array:
    """(S,) weights of the structures' forces: noise^-power.

    Raises:
        FramesError: the label ``noise`` is missing.
    """
    if power == 0:
        return np.ones(len(frames))
    if "noise" not in frames.structure:
        raise FramesError(
            "the frames have no label 'noise'; run perturb again, or set 'noise_weight' to 0"
        )
    return np.asarray(np.hypot(frames.structure["noise"], _QUIET) ** -power)


def pack(rows: Rows | Sequence[int], counts: Array, limit: int) -> list[Rows]:
    """Cut rows, in order, into batches of at most ``limit`` in all (one structure at least).

    Args:
        rows: (N,) indices of structures.
        counts: atoms (or edges) of every structure there is.
        limit: of a batch.
    """
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


def evenly(rows: Rows, count: int) -> Rows:
    """At most ``count`` of the rows, evenly over all; side by side, they are of few parents."""
    places = np.linspace(0, len(rows) - 1, min(count, len(rows)))
    return np.asarray(rows[places.astype(np.int64)])


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


def gauge(
    potential: Potential, data: TrainingData, rows: Rows, batch_atoms: int, limit: Limit = WHOLE
) -> None:
    """Fit the constant per element so that E~ agrees with its target near the stable structures.

    Far from them the target is a mixture of many homes, which no potential can follow. An element
    that is in no structure near its home is fitted to the homes themselves, at zero. Nothing
    happens where the set has no label ``energy``.

    Args:
        potential: gets the constants, in angstrom^2; its other weights stay.
        data: perturbed structures with their E~.
        rows: (N,) those of them to fit to: of these, the lowest tenth in E~ per atom (64 at least).
        batch_atoms: a quarter of the atoms at once, at most (one structure at least).
        limit: of what is on the device at once.
    """
    if "energy" not in data.frames.structure:
        return
    wanted = np.asarray(data.frames.structure["energy"])[rows] / data.counts[rows]
    lowest = rows[np.argsort(wanted, kind="stable")[: max(64, len(rows) // 10)]]
    lowest = lowest[:: max(1, len(lowest) // 512)]
    potential.element_energy.zero_()
    numbers = np.unique(data.frames.numbers)
    lines, rest = [], []
    for some in pack(lowest, data.counts, 4 * batch_atoms):
        energies = [
            potential(graph).energy.double().cpu().numpy() for graph, _ in data.parts(some, limit)
        ]
        found = np.concatenate(energies)
        part = data.frames.select(some)
        lines.append(_atoms_of_elements(part, numbers))
        rest.append(part.structure["energy"] - found)
    homes = _rare_homes(data.frames, rows, lowest)
    for some in pack(np.arange(len(homes)), homes.counts, 4 * batch_atoms):
        part = homes.select(some)
        graph = build_graph(part, data.cutoff, dtype=data.dtype, device=data.device)
        lines.append(_atoms_of_elements(part, numbers))
        rest.append(-potential.energies(graph).double().cpu().numpy())
    # Per atom, or the largest cells would decide.
    table = np.concatenate(lines)
    sizes = table.sum(1, keepdims=True)
    fit = np.linalg.lstsq(table / sizes, np.concatenate(rest) / sizes[:, 0], rcond=None)[0]
    for number, value in zip(numbers, fit, strict=True):
        potential.element_energy[int(number)] = float(value)


def _atoms_of_elements(part: Frames, numbers: Array) -> Array:
    """(S, Z) how many atoms of each of these elements the structures hold."""
    return np.stack([np.bincount(part.batch, part.numbers == z, len(part)) for z in numbers], 1)


def _rare_homes(frames: Frames, rows: Rows, chosen: Rows) -> Frames:
    """Stable structures of some rows with the elements that no chosen row holds."""
    some: list[int] = []
    if "home" in frames.atom:
        there = np.unique(frames.numbers[frames.atoms_of(chosen)])
        for number in np.setdiff1d(frames.numbers, there):
            holding = rows[np.isin(rows, frames.batch[frames.numbers == number])]
            some += evenly(holding, _FEW).tolist()
    part = frames.select(np.unique(np.array(some, np.int64)))
    return stable_structures(part)[0].without_labels()
