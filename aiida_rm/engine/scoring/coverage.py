"""COV-R and COV-P: how many references have a sample near, and how many samples a reference.

As the scripts of CDVAE (Xie et al., arXiv:2110.06197, 2021) and DiffCSP (Jiao et al.,
arXiv:2309.04475, 2023) compute them, by fingerprints of matminer (Ward et al., Computational
Materials Science 152, 60, 2018), which is optional and pinned: its tables and its order of features
count.
"""

from __future__ import annotations

import csv
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.composition import Composition, compositions_of
from aiida_rm.engine.scoring.pool import Runner, sizes_of
from aiida_rm.engine.scoring.solids import is_crystal
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

VERSION: Final = "0.10.1"
REMEDY: Final = "pip install 'aiida-rm[coverage]' (Python 3.11 or newer)"
#: Means and standard deviations by which CDVAE's script scales the features of a composition.
_SCALING = Path(__file__).parent / "magpie_scaling.csv"
#: Features of a structure: order parameters of its sites.
_STRUCTURE = 61
#: Crystals in a piece of work; a fingerprint takes a tenth of a second.
_FEW = 10
#: Rows of distances at once; bounds the memory (some tens of MB).
_ROWS = 500


@dataclass(frozen=True)
class Coverage:
    """Whether coverage is computed.

    Attributes:
        on: whether it is.
        why: who decided.
    """

    on: bool
    why: str


def choose_coverage(settings: ScoreSettings, frames: Frames, references: Frames | None) -> Coverage:
    """Decide whether coverage is computed.

    Raises:
        SettingsError: there are crystals, and the settings ask for it, but there are no reference
            crystals, or matminer is not there.
    """
    if settings.coverage == "off" or not is_crystal(frames).any():
        return Coverage(False, "by the settings")
    problem, remedy = "", ""
    if references is None or not is_crystal(references).any():
        problem, remedy = "there are no reference crystals", "give references"
    else:
        try:
            found = version("matminer")
        except PackageNotFoundError:
            found = ""
        if found != VERSION:
            problem = f"matminer {found} is not the pinned {VERSION}" if found else ""
            problem, remedy = problem or "matminer is missing", REMEDY
    if not problem:
        why = "by the settings" if settings.coverage == "on" else "auto: matminer is installed"
        return Coverage(True, why)
    if settings.coverage == "auto":
        return Coverage(False, f"auto: {problem}; {remedy}")
    raise SettingsError(f"'coverage' is on, but where the job runs {problem}; {remedy}")


def summarise_coverage(
    scored: Frames,
    references: Frames | None,
    settings: ScoreSettings,
    coverage: Coverage,
    runner: Runner,
) -> dict[str, Any]:
    """COV-R and COV-P of the crystals of a set, as plain numbers.

    A reference is covered when a sample is within 'coverage_structure' of its structure, and a
    sample, not always the same one, within 'coverage_composition' of its composition (so it stands
    in the script); a sample likewise. Samples that are not ``structure_valid``, or without a
    fingerprint, cover nothing and are not covered, but count.

    Returns:
        ``recall`` (COV-R) and ``precision`` (COV-P), and the mean distances of the nearest ones:
        ``amsd_...`` of structures, ``amcd_...`` of compositions.
    """
    found: dict[str, Any] = {"on": coverage.on, "chosen": coverage.why}
    if not coverage.on:
        return found
    assert references is not None
    _check_features()
    chosen = np.asarray(scored.structure["structure_valid"])
    ours = _fingerprints(scored, chosen, "fingerprints", runner)
    theirs = _fingerprints(references, is_crystal(references), "fingerprints of references", runner)
    n_samples = int(np.count_nonzero(is_crystal(scored)))
    found |= {
        "version": VERSION,
        "structure_cutoff": settings.coverage_structure,
        "composition_cutoff": settings.coverage_composition,
        "samples": n_samples,
        "with_fingerprint": len(ours[0]),
        "references": len(theirs[0]),
    }
    names = ("recall", "precision", "amsd_recall", "amsd_precision", "amcd_recall")
    if not len(ours[0]) or not len(theirs[0]):
        return found | dict.fromkeys((*names, "amcd_precision"))
    return found | cover(
        ours,
        theirs,
        n_samples,
        structure_cutoff=settings.coverage_structure,
        composition_cutoff=settings.coverage_composition,
    )


def cover(
    ours: tuple[Array, Array],
    theirs: tuple[Array, Array],
    n_samples: int,
    *,
    structure_cutoff: float,
    composition_cutoff: float,
) -> dict[str, float]:
    """Coverage from fingerprints.

    Args:
        ours: (samples, features) of structures and of compositions, scaled.
        theirs: (references, features), likewise.
        n_samples: of all samples, those without a fingerprint, too.
        structure_cutoff: largest Euclidean distance of structures.
        composition_cutoff: that of compositions.
    """
    precision, recall = zip(
        *(_nearest(*pair) for pair in zip(ours, theirs, strict=True)), strict=True
    )
    cutoffs = (structure_cutoff, composition_cutoff)
    near = [
        np.all([gaps <= cutoff for gaps, cutoff in zip(both, cutoffs, strict=True)], axis=0)
        for both in (recall, precision)
    ]
    return {
        "recall": float(near[0].mean()),
        "precision": float(near[1].sum() / n_samples),
        "amsd_recall": float(recall[0].mean()),
        "amsd_precision": float(precision[0].mean()),
        "amcd_recall": float(recall[1].mean()),
        "amcd_precision": float(precision[1].mean()),
    }


def _nearest(ours: Array, theirs: Array) -> tuple[Array, Array]:
    """For each of ours the distance of the nearest of theirs, and the other way round."""
    from scipy.spatial.distance import cdist

    one, two = np.full(len(ours), np.inf), np.full(len(theirs), np.inf)
    for first in range(0, len(ours), _ROWS):
        gaps = cdist(ours[first : first + _ROWS], theirs)
        one[first : first + _ROWS] = gaps.min(axis=1)
        two = np.minimum(two, gaps.min(axis=0))
    return one, two


def _fingerprints(frames: Frames, chosen: Array, stage: str, runner: Runner) -> tuple[Array, Array]:
    """Of the chosen crystals that have one: structures', and compositions', scaled."""
    rows = np.flatnonzero(chosen).tolist()
    bare = frames.without_labels()
    parts = [rows[first : first + _FEW] for first in range(0, len(rows), _FEW)]
    work = [bare.select(part) for part in parts]
    done = runner.run(stage, _fingerprint_chunk, work, sizes_of(parts))
    if not done:
        return np.zeros((0, 0)), np.zeros((0, 0))
    structures, compositions = (np.concatenate(pieces) for pieces in zip(*done, strict=True))
    good = np.isfinite(structures).all(axis=1)
    return structures[good], compositions[good]


def _fingerprint_chunk(frames: Frames) -> tuple[Array, Array]:
    structures = [structure_fingerprint(to_pymatgen(frames, index)) for index in range(len(frames))]
    compositions = [composition_fingerprint(what) for what in compositions_of(frames).values()]
    return np.array(structures), np.array(compositions)


def structure_fingerprint(structure: Any) -> Array:
    """(61,) the mean over all sites of matminer's CrystalNNFingerprint, preset ``ops``.

    NaN where there is none.
    """
    featurizer = _site_featurizer()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sites = [featurizer.featurize(structure, site) for site in range(len(structure))]
    except Exception:  # noqa: BLE001 - CrystalNN fails in many ways on odd neighbourhoods
        return np.full(_STRUCTURE, np.nan)
    return np.asarray(np.mean(sites, axis=0))


def composition_fingerprint(composition: Composition) -> Array:
    """(132,) matminer's ElementProperty, preset ``magpie``, scaled; what is unknown is 0."""
    from pymatgen.core import Composition as Formula

    features = _composition_featurizer().featurize(Formula(dict(composition)))
    _, means, widths = _scaling()
    return np.nan_to_num((np.array(features, float) - means) / widths, nan=0.0)


@functools.cache
def _site_featurizer() -> Any:
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint

    return CrystalNNFingerprint.from_preset("ops")


@functools.cache
def _composition_featurizer() -> Any:
    from matminer.featurizers.composition.composite import ElementProperty

    # As in the versions that the field's numbers were made with.
    return ElementProperty.from_preset("magpie", impute_nan=False)


@functools.cache
def _scaling() -> tuple[list[str], Array, Array]:
    """Names of the features, means, standard deviations."""
    with _SCALING.open(encoding="utf-8", newline="") as handle:
        lines: Sequence[Sequence[str]] = list(csv.reader(handle))[1:]
    figures = np.array([[float(mean), float(width)] for _, mean, width in lines])
    return [name for name, _, _ in lines], figures[:, 0], figures[:, 1]


def _check_features() -> None:
    """Refuse a matminer with other features, whatever version it says to be."""
    same = _composition_featurizer().feature_labels() == _scaling()[0]
    if not same or len(_site_featurizer().feature_labels()) != _STRUCTURE:
        raise SettingsError(
            f"'coverage' is on, but matminer's features are not those of {VERSION}; {REMEDY}"
        )
