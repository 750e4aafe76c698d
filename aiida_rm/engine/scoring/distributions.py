"""Crystals beside the references': validity of those, and distances between distributions."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.measuring import measure_all
from aiida_rm.engine.scoring.pool import Runner
from aiida_rm.engine.scoring.solids import is_crystal
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: What is compared; ``energy_per_atom`` only where both sets have it.
PROPERTIES: Final = ("density", "n_elements", "n_atoms", "volume_per_atom", "energy_per_atom")


def summarise_distributions(
    scored: Frames,
    references: Frames | None,
    settings: ScoreSettings,
    runner: Runner,
    *,
    judged: bool,
) -> dict[str, Any]:
    """The references' own validity, and how far the properties are from theirs.

    Wasserstein distances (scipy) of density and number of elements are those of CDVAE (Xie et al.,
    arXiv:2110.06197, 2021): of the samples that are valid in structure and composition, to all
    references. Its script draws 1,000 of them; here all count.

    Args:
        scored: the set, with its labels.
        references: what it is compared with.
        settings: what is valid.
        runner: that shares the work.
        judged: whether compositions were; else structures alone decide what is valid.

    Returns:
        Plain numbers under ``references`` and ``wasserstein``; {} where either set is without
        crystals. A distance without samples is None.
    """
    if references is None or not is_crystal(references).any() or not is_crystal(scored).any():
        return {}
    measured = measure_all(references, settings, runner, "measure references", symmetry=False)[0]
    known = references.with_labels(
        structure={name: measured[name] for name in ("density", "volume_per_atom")}
    )
    crystals = is_crystal(references)
    own: dict[str, Any] = {"n_crystals": int(np.count_nonzero(crystals))}
    for name in ("structure_valid", "structure_strict"):
        own[name] = int(np.count_nonzero(measured[name]))
        own[f"{name}_share"] = float(measured[name][crystals].mean())
    own["density_median"] = float(np.median(measured["density"][crystals]))
    chosen = np.asarray(scored.structure["structure_valid"])
    if judged:
        chosen = chosen & np.asarray(scored.structure["composition_valid"])
    ours, theirs = _properties(scored, chosen), _properties(known, crystals)
    return {
        "references": own,
        "wasserstein": {
            "samples": int(np.count_nonzero(chosen)),
            "valid_in": ["structure", "composition"] if judged else ["structure"],
            "references": own["n_crystals"],
            **{
                name: _distance(ours[name], theirs[name])
                for name in PROPERTIES
                if name in ours and name in theirs
            },
        },
    }


def _properties(frames: Frames, chosen: Array) -> dict[str, Array]:
    rows = np.flatnonzero(chosen)
    numbers = np.asarray(frames.numbers)
    # Each pair of a structure and an element once.
    owners = np.repeat(np.arange(len(frames)), frames.counts)
    pairs = np.unique(np.stack([owners, numbers.astype(int)]), axis=1)
    found = {
        "n_elements": np.bincount(pairs[0], minlength=len(frames))[rows],
        "n_atoms": np.asarray(frames.counts)[rows],
    }
    for name in ("density", "volume_per_atom", "energy_per_atom"):
        if name in frames.structure:
            found[name] = np.asarray(frames.structure[name], float)[rows]
    return found


def _distance(ours: Array, theirs: Array) -> float | None:
    """The first Wasserstein distance of what is finite; None without any."""
    from scipy.stats import wasserstein_distance

    ours, theirs = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    if not len(ours) or not len(theirs):
        return None
    return float(wasserstein_distance(ours, theirs))
