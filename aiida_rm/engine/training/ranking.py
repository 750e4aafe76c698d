"""The training set itself as the potential sees it: what a new structure is compared with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.frames import Array, Frames
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.environments import Environments
from aiida_rm.engine.training.data import evenly, pack
from aiida_rm.engine.training.statistics import enough_to_remember, stable_structures

#: Stable structures that are looked at, evenly taken from all.
_MOST = 2000
#: One of so many gives no environments: how far it is from those of the others is the measure.
_ASIDE = 7


def energy_percentiles(potential: Potential, frames: Frames, batch_atoms: int) -> list[float]:
    """E~ per atom of the stable structures, in square angstrom, at 0, 1, ... 100 percent.

    Args:
        potential: a trained one, on its device.
        frames: perturbed structures with their homes, or the stable ones.
        batch_atoms: atoms at once, at most (one structure at least).

    Returns:
        101 values in ascending order; none where the set does not hold its stable structures.
    """
    stable = _stable(frames)
    if stable is None:
        return []
    found = []
    for some in pack(evenly(np.arange(len(stable)), _MOST), stable.counts, batch_atoms):
        energies = potential(_graph(potential, stable.select(some))).energy
        found.append(energies.double().cpu().numpy() / stable.counts[some])
    return _percentiles(np.concatenate(found))


def environments_of(
    potential: Potential, frames: Frames, count: int, batch_atoms: int
) -> tuple[Environments | None, list[float]]:
    """Atoms of the stable structures, and how far from them others of these structures are.

    Args:
        potential: a trained one, on its device.
        frames: perturbed structures with their homes, or the stable ones.
        count: atoms at most, as equally many of each element as there are; 0: none.
        batch_atoms: atoms at once, at most (one structure at least).

    Returns:
        the atoms; and the latent distance, the mean of its atoms, of every seventh structure, at
        0, 1, ... 100 percent. These give none of the atoms, but for elements that are nowhere
        else, which do not count. None and no values where there are fewer than 100 stable
        structures, or ``count`` is less than four of each element.
    """
    stable = _stable(frames)
    if stable is None or not enough_to_remember(stable, count):
        return None, []
    aside = np.zeros(len(stable), bool)
    aside[::_ASIDE] = True
    atoms = _equal_shares(stable.numbers, aside[stable.batch], count)
    rows, at = np.unique(stable.batch[atoms], return_inverse=True)
    part = stable.select(rows)
    hidden = torch.cat(
        [
            _hidden(potential, part.select(s))
            for s in pack(range(len(part)), part.counts, batch_atoms)
        ]
    )
    places = part.ptr[at] + atoms - stable.ptr[rows[at]]
    numbers = torch.as_tensor(stable.numbers[atoms], dtype=torch.int64, device=hidden.device)
    known = Environments.of(hidden[torch.as_tensor(places, device=hidden.device)], numbers)
    elsewhere = np.isin(stable.numbers, stable.numbers[~aside[stable.batch]])
    found = []
    for some in pack(evenly(np.flatnonzero(aside), _MOST), stable.counts, batch_atoms):
        graph = _graph(potential, stable.select(some))
        apart = known.distances(potential.hidden(graph), graph.numbers).double().cpu().numpy()
        owner, counted = graph.batch.cpu().numpy(), elsewhere[stable.atoms_of(some)]
        sums = np.bincount(owner, apart * counted, len(some))
        found.append(sums / np.bincount(owner, counted, len(some)).clip(1))
    values = np.concatenate(found)
    # Without a number somewhere it knows nothing that it could compare.
    return (known, _percentiles(values)) if np.isfinite(values).all() else (None, [])


def counts_of(known: Environments | None) -> dict[str, int]:
    """How many atoms of each element, by symbol."""
    return {SYMBOLS[z]: count for z, count in known.counts.items()} if known else {}


def _stable(frames: Frames) -> Frames | None:
    if "force" in frames.atom and "home" not in frames.atom:
        return None
    return stable_structures(frames)[0].without_labels()


def _equal_shares(numbers: Array, aside: Array, count: int) -> Array:
    """Places of ``count`` atoms, as equally many of each element as there are, in order.

    Those in ``aside`` (A,) are taken only of elements that are nowhere else.
    """
    places = []
    for z in np.unique(numbers):
        own = np.flatnonzero((numbers == z) & ~aside)
        places.append(own if len(own) else np.flatnonzero(numbers == z))
    places.sort(key=len)
    chosen = []
    for left, own in zip(range(len(places), 0, -1), places, strict=True):
        share = max(1, count // left)
        chosen.append(evenly(own, share))
        count -= len(chosen[-1])
    return np.sort(np.concatenate(chosen))


def _graph(potential: Potential, frames: Frames) -> Graph:
    weight = potential.element_energy
    return build_graph(frames, potential.cutoff, dtype=weight.dtype, device=weight.device)


def _hidden(potential: Potential, frames: Frames) -> Tensor:
    return potential.hidden(_graph(potential, frames))


def _percentiles(values: Array) -> list[float]:
    percents = np.percentile(values, np.arange(101))
    # Rounding must not turn two of them around.
    return [round(float(value), 7) for value in np.maximum.accumulate(percents)]
