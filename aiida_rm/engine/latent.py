"""Labels that say how far generated structures are from what potentials learnt from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import latent_distances
from aiida_rm.engine.search import Knowledge

Array = NDArray[Any]


def latent_labels(
    frames: Frames,
    potentials: Sequence[Potential],
    ranking_weight: float,
    *,
    batch_atoms: int = 0,
    batch_edges: int = 0,
) -> dict[str, Array]:
    """``latent_distance``, ``latent_percentile`` and ``ranking`` of relaxed structures.

    Args:
        frames: with the labels of :func:`driver.relax`.
        potentials: a committee, or one; means are over those that remember their training set.
        ranking_weight: angstrom^2 a unit of distance; ``ranking`` is E~ per atom and this times it.
        batch_atoms: as in :func:`driver.relax`.
        batch_edges: as in :func:`driver.relax`.

    Returns:
        (S,) of each. Distances are NaN where no potential knows any; then ``ranking`` is NaN, too,
        but for E~ per atom alone where none remembers anything.
    """
    energies = frames.structure["energy_per_atom"]
    aware = [one for one in potentials if one.environments is not None]
    if not aware:
        unknown = np.full(len(frames), np.nan)
        return {"latent_distance": unknown, "latent_percentile": unknown, "ranking": energies}
    # What has no E~ came back as it started.
    which = np.isfinite(frames.structure["energy"])
    apart = latent_distances(frames, aware, which, batch_atoms=batch_atoms, batch_edges=batch_edges)
    known = [Knowledge.from_notes(one.notes) for one in aware]
    percents = np.stack([one.latent_percentile(row) for one, row in zip(known, apart, strict=True)])
    # A potential that remembers no atom of an element has no say; where none does, it is unknown.
    there = np.isfinite(apart)
    count = np.where(there.any(0), there.sum(0), np.nan)
    distance, percent = (np.where(there, a, 0.0).sum(0) / count for a in (apart, percents))
    return {
        "latent_distance": distance,
        "latent_percentile": percent,
        "ranking": energies + ranking_weight * distance,
    }
