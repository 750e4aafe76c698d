"""The geometry of many structures, as labels: distances, volumes, coordination, space groups."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.crystals import spacegroup
from aiida_rm.engine.scoring.geometry import Geometry, measure
from aiida_rm.engine.scoring.pool import Runner, chunks, sizes_of
from aiida_rm.engine.scoring.solids import structure_labels
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]


def measure_all(
    frames: Frames,
    settings: ScoreSettings,
    runner: Runner,
    stage: str = "measure",
    *,
    symmetry: bool = True,
) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Geometry, validity and space group (0 without ``symmetry``).

    Returns:
        Labels of structures, labels of atoms, and (structures, FINGERPRINT_SIZE) fingerprints.
    """
    total = len(frames)
    parts = chunks(list(range(total)))
    bare = frames.without_labels()
    work = [(bare.select(part), settings, symmetry) for part in parts]
    done = runner.run(stage, _measure_chunk, work, sizes_of(parts))
    shapes = [shape for chunk in done for shape, *_ in chunk]
    converged = np.ones(total, bool)
    if "status" in frames.structure:
        converged = np.asarray(frames.structure["status"]) == 0
    valid = np.array([is_valid(shape, settings) for shape in shapes], bool).reshape(total)
    if settings.require_converged:
        valid &= converged
    groups = np.array([numbers for chunk in done for _, *numbers in chunk], np.int16)
    tight, loose = np.where(valid[:, None], groups.reshape(total, 2), 0).T.astype(np.int16)
    labels: dict[str, Array] = {
        "valid": valid,
        "converged": converged,
        "min_distance": np.array([shape.min_distance for shape in shapes], float),
        "min_radii_ratio": np.array([shape.min_radii_ratio for shape in shapes], float),
        "volume_per_atom": np.array([shape.volume_per_atom for shape in shapes], float),
        "spacegroup": tight,
        "spacegroup_loose": loose,
        **structure_labels(frames, shapes, settings),
        "rdf": np.array([shape.rdf for shape in shapes], np.float32).reshape(
            total, settings.rdf_bins
        ),
    }
    neighbors = [shape.coordination for shape in shapes]
    for name, function, kind in (
        ("min", np.min, np.int16),
        ("max", np.max, np.int16),
        ("mean", np.mean, np.float64),
    ):
        values = [function(item) if len(item) else 0 for item in neighbors]
        labels[f"coordination_{name}"] = np.array(values, kind)
    each = np.concatenate(neighbors) if neighbors else np.zeros(0)
    prints = np.array([shape.fingerprint for shape in shapes], np.float32)
    return labels, {"coordination": each.astype(np.int16)}, prints


def _measure_chunk(
    work: tuple[Frames, ScoreSettings, bool],
) -> list[tuple[Geometry, int, int]]:
    frames, settings, symmetry = work
    found = []
    for index in range(len(frames)):
        shape = measure(
            frames,
            index,
            bond_length=settings.bond_length,
            rdf_max=settings.rdf_max,
            rdf_bins=settings.rdf_bins,
        )
        tight = loose = 0
        if symmetry and is_valid(shape, settings):
            tight = spacegroup(frames, index, settings.symprec)
            loose = spacegroup(frames, index, settings.symprec_loose)
        found.append((shape, tight, loose))
    return found


def is_valid(shape: Geometry, settings: ScoreSettings) -> bool:
    """Whether a geometry passes the limits of the settings (convergence apart)."""
    if not shape.finite or shape.min_distance < settings.min_distance:
        return False
    if shape.volume_per_atom < settings.min_volume:  # NaN, a molecule, is not smaller
        return False
    return not settings.coordination or bool(
        np.isin(shape.coordination, settings.coordination).all()
    )
