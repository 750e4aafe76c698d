"""Labels of crystals that their geometry alone gives, and what all their labels add up to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.geometry import Geometry
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: The field's limits: no distance below, in angstrom, and no cell smaller, in cubic angstrom.
FIELD_DISTANCE: Final = 0.5
FIELD_VOLUME: Final = 0.1
#: One atomic mass unit per cubic angstrom in g/cm3 (CODATA 2018).
_DENSITY: Final = 1.66053906660


def is_crystal(frames: Frames) -> NDArray[np.bool_]:
    """(structures,) whether all three directions are periodic."""
    return np.asarray(np.asarray(frames.pbc).all(axis=1))


def structure_labels(
    frames: Frames, shapes: Sequence[Geometry], settings: ScoreSettings
) -> dict[str, Array]:
    """Validity and density of the crystals of a set; false and NaN for what is none.

    Args:
        frames: the set.
        shapes: the geometry of each structure.
        settings: the stricter limits.

    Returns:
        The labels

        - ``structure_valid``: as CDVAE (Xie et al., arXiv:2110.06197, 2021) and DiffCSP (Jiao et
          al., arXiv:2309.04475, 2023) define it, a distance below 0.5 A or a cell below 0.1 A^3
          is not valid; here an atom's own periodic images count, too;
        - ``structure_strict``: and 'strict_ratio' and 'strict_volume' hold;
        - ``density``: in g/cm3, by the standard atomic weights.
    """
    crystals = is_crystal(frames)
    finite = np.array([shape.finite for shape in shapes], bool).reshape(len(frames))
    distances = np.array([shape.min_distance for shape in shapes], float)
    ratios = np.array([shape.min_radii_ratio for shape in shapes], float)
    volumes = np.array([shape.volume_per_atom for shape in shapes], float)
    valid = crystals & finite & (distances >= FIELD_DISTANCE)
    valid &= volumes * frames.counts >= FIELD_VOLUME
    low, high = settings.strict_volume
    strict = valid & (ratios >= settings.strict_ratio) & (volumes >= low) & (volumes <= high)
    return {
        "structure_valid": valid,
        "structure_strict": strict,
        "density": np.where(crystals & finite, _densities(frames, volumes), np.nan),
    }


def _densities(frames: Frames, volumes: Array) -> Array:
    from ase.data import atomic_masses

    known = np.append(atomic_masses, np.nan)
    numbers = np.minimum(np.asarray(frames.numbers, int), len(atomic_masses))
    owners = np.repeat(np.arange(len(frames)), frames.counts)
    masses = np.bincount(owners, known[numbers], minlength=len(frames))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(_DENSITY * masses / (volumes * frames.counts))


def summarise_crystals(
    scored: Frames, settings: ScoreSettings, others: dict[str, Any]
) -> dict[str, Any]:
    """What the labels of the crystals add up to, as plain numbers; {} without crystals.

    ``others`` is what is said besides.
    """
    rows = np.flatnonzero(is_crystal(scored))
    if not len(rows):
        return {}
    labels = scored.select(rows).structure
    density = np.asarray(labels["density"])[np.asarray(labels["structure_valid"])]
    found: dict[str, Any] = {
        "n_crystals": len(rows),
        **{
            name: int(np.count_nonzero(labels[name]))
            for name in ("structure_valid", "structure_strict")
        },
        "density_median": float(np.median(density)) if len(density) else None,
    }
    for name, symprec in (
        ("spacegroup", settings.symprec),
        ("spacegroup_loose", settings.symprec_loose),
    ):
        groups = np.asarray(labels[name])
        found[name] = {
            "symprec": symprec,
            "different": len(set(groups[groups > 0].tolist())),
            "above_1": int(np.count_nonzero(groups > 1)),
        }
    return {"crystals": {**found, **others}}
