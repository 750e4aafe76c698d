"""COV-R and COV-P: by hand, and as the fingerprints of matminer say."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.util import find_spec

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase, to_pymatgen
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.scoring import coverage
from aiida_rm.engine.scoring.coverage import VERSION, cover
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_solids import materials, rock_salt

ON = ScoreSettings(processes=1, smact="off", coverage="on")
NAMES = ("recall", "precision", "amsd_recall", "amsd_precision", "amcd_recall", "amcd_precision")
matminer = pytest.mark.skipif(not find_spec("matminer"), reason="fingerprints are matminer's")


def overlapping() -> Atoms:
    return Atoms("NaCl", [[0, 0, 0], [0, 0, 0.3]], cell=[4, 4, 4], pbc=True)


def test_by_hand() -> None:
    """On a line: a sample may be near in structure to one, in composition to another."""
    ours = np.array([[0.0], [1.0], [9.0]]), np.array([[0.0], [7.0], [0.0]])
    theirs = np.array([[0.1], [5.0]]), np.array([[7.0], [0.5]])
    found = cover(ours, theirs, 4, structure_cutoff=0.4, composition_cutoff=1.0)
    # The first reference is near the first sample in structure, the second one in composition.
    assert found["recall"] == 0.5
    # Of four samples, one of which has no fingerprint, the first is near in both.
    assert found["precision"] == 0.25
    assert found["amsd_recall"] == pytest.approx((0.1 + 4.0) / 2)
    assert found["amsd_precision"] == pytest.approx((0.1 + 0.9 + 4.0) / 3)
    assert found["amcd_recall"] == pytest.approx((0.0 + 0.5) / 2)
    assert found["amcd_precision"] == pytest.approx((0.5 + 0.0 + 0.5) / 3)


def test_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    ours, theirs = (tuple(rng.normal(size=(n, 3)) for _ in range(2)) for n in (23, 17))
    whole = cover(ours, theirs, 23, structure_cutoff=0.7, composition_cutoff=1.0)
    monkeypatch.setattr(coverage, "_ROWS", 5)
    assert cover(ours, theirs, 23, structure_cutoff=0.7, composition_cutoff=1.0) == whole
    assert 0 < whole["recall"] < 1


def test_off_by_default() -> None:
    frames = from_ase([rock_salt()])
    found = score(frames, ScoreSettings(processes=1, smact="off"), frames)[1]["crystals"]
    assert found["coverage"] == {"on": False, "chosen": "by the settings"}


@pytest.mark.parametrize("installed", ["", "0.9.3"])
def test_without_the_pinned_version(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    def version(name: str) -> str:
        if not installed:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(coverage, "version", version)
    frames = from_ase([rock_salt()])
    with pytest.raises(SettingsError, match=r"matminer .*; pip install 'aiida-rm\[coverage\]'"):
        score(frames, ON, frames)
    auto = ScoreSettings(processes=1, smact="off", coverage="auto")
    found = score(frames, auto, frames)[1]["crystals"]["coverage"]
    assert not found["on"]
    assert "aiida-rm[coverage]" in found["chosen"]


def test_without_references() -> None:
    frames = from_ase([rock_salt()])
    for others in (None, from_ase([molecule("CH4")])):
        with pytest.raises(SettingsError, match="no reference crystals; give references"):
            score(frames, ON, others)
    score(from_ase([molecule("H2O")]), ON)


@matminer
def test_copies_cover_and_others_do_not() -> None:
    stirred = rock_salt().repeat(2)
    stirred.positions += np.random.default_rng(0).normal(0, 0.01, stirred.positions.shape)
    frames = from_ase([stirred, bulk("W"), overlapping()])
    references = from_ase([rock_salt(), bulk("C"), molecule("CH4")])
    found = score(frames, ON, references)[1]["crystals"]["coverage"]
    assert (found["version"], found["samples"], found["with_fingerprint"]) == (VERSION, 3, 2)
    assert found["references"] == 2
    assert found["recall"] == pytest.approx(1 / 2)
    assert found["precision"] == pytest.approx(1 / 3)
    nothing = score(from_ase([overlapping()]), ON, references)[1]["crystals"]["coverage"]
    assert all(nothing[name] is None for name in NAMES)


@matminer
def test_as_the_definition_says() -> None:
    """matminer's fingerprints of whole cells, and all pairs, without anything of ours."""
    from matminer.featurizers.composition.composite import ElementProperty
    from matminer.featurizers.site.fingerprint import CrystalNNFingerprint
    from scipy.spatial.distance import cdist

    frames = materials(600)
    half = np.arange(len(frames)) % 2 == 0
    parts = frames.select(np.flatnonzero(half)), frames.select(np.flatnonzero(~half))
    sites = CrystalNNFingerprint.from_preset("ops")
    elements = ElementProperty.from_preset("magpie", impute_nan=False)
    rows = coverage._SCALING.read_text().splitlines()[1:]
    means, widths = np.array([[float(x) for x in row.split(",")[1:]] for row in rows]).T
    structures, compositions = [], []
    for part in parts:
        crystals = [to_pymatgen(part.without_labels(), row) for row in range(len(part))]
        structures.append(
            [np.mean([sites.featurize(c, i) for i in range(len(c))], axis=0) for c in crystals]
        )
        features = np.array([elements.featurize(c.composition) for c in crystals], float)
        compositions.append(np.nan_to_num((features - means) / widths))
    by_structure, by_composition = cdist(*structures), cdist(*compositions)
    cut = {"coverage_structure": 0.9, "coverage_composition": 9.0}
    settings = ScoreSettings(processes=1, smact="off", coverage="on", **cut)
    found = score(parts[0], settings, parts[1])[1]["crystals"]["coverage"]
    for name, axis in (("recall", 0), ("precision", 1)):
        near = (by_structure.min(axis) <= 0.9) & (by_composition.min(axis) <= 9.0)
        assert found[name] == pytest.approx(near.mean())
        assert 0 < near.mean() < 1
        assert found[f"amsd_{name}"] == pytest.approx(by_structure.min(axis).mean())
        assert found[f"amcd_{name}"] == pytest.approx(by_composition.min(axis).mean())
