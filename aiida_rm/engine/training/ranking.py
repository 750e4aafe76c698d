"""E~ of the training set itself: what the E~ of a new structure is compared with."""

from __future__ import annotations

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.training.data import pack
from aiida_rm.engine.training.statistics import stable_structures

#: Stable structures whose E~ is found, evenly taken from all.
_MOST = 2000


def energy_percentiles(potential: Potential, frames: Frames, batch_atoms: int) -> list[float]:
    """E~ per atom of the stable structures, in square angstrom, at 0, 1, ... 100 percent.

    Args:
        potential: a trained one, on its device.
        frames: perturbed structures with their homes, or the stable ones.
        batch_atoms: atoms at once, at most (one structure at least).

    Returns:
        101 values in ascending order; none where the set does not hold its stable structures.
    """
    if "force" in frames.atom and "home" not in frames.atom:
        return []
    stable = stable_structures(frames)[0].without_labels()
    rows = np.linspace(0, len(stable) - 1, min(len(stable), _MOST)).astype(np.int64)
    stable = stable.select(rows)
    energy = potential.element_energy
    found = []
    for some in pack(np.arange(len(stable)), stable.counts, batch_atoms):
        graph = build_graph(
            stable.select(some), potential.cutoff, dtype=energy.dtype, device=energy.device
        )
        found.append(potential(graph).energy.double().cpu().numpy() / stable.counts[some])
    values = np.percentile(np.concatenate(found), np.arange(101))
    # Rounding must not turn two of them around.
    return [round(float(value), 7) for value in np.maximum.accumulate(values)]
