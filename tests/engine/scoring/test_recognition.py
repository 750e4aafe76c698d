"""Match to known structures at two tolerances, per sample and per known structure."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase, to_pymatgen
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.scoring.known import carbon_allotropes
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_solids import rock_salt

ONE = ScoreSettings(processes=1)


def allotropes(*names: str) -> Frames:
    every = carbon_allotropes()
    found = every.structure["name"].tolist()
    return every.select(np.array([found.index(name) for name in names]))


def stretched(atoms: Atoms, factor: float) -> Atoms:
    copy = atoms.copy()
    copy.set_cell(atoms.cell * [1, 1, factor], scale_atoms=True)
    return copy


def test_two_tolerances() -> None:
    cubic = bulk("C", "diamond", a=3.567, cubic=True)
    frames = from_ase([cubic, stretched(cubic, 1.5), stretched(cubic, 3.0)])
    scored, summary = score(frames, ONE, known=allotropes("diamond"))
    assert scored.structure["match"].tolist() == ["diamond", "", ""]
    assert scored.structure["match_loose"].tolist() == ["diamond", "diamond", ""]
    rmsd = scored.structure["match_rmsd_loose"]
    assert rmsd[0] == pytest.approx(0, abs=1e-6)
    assert np.isfinite(rmsd).tolist() == [True, True, False]
    found = summary["crystals"]["recognition"]
    assert (found["known"], found["compositions"], found["samples"]) == (1, 1, 3)
    assert found["match"]["per_sample"] == pytest.approx(1 / 3)
    assert found["match_loose"]["per_sample"] == pytest.approx(2 / 3)
    assert found["match_loose"]["tolerances"] == {"ltol": 0.3, "stol": 0.5, "angle_tol": 10.0}
    assert found["by_composition"] == {
        "C": {
            "known": 1, "samples": 3, "matched": 1, "found": 1, "matched_loose": 2,
            "found_loose": 1,
        }
    }  # fmt: skip


def test_polymorphs_that_repeat() -> None:
    """METRe counts known structures, any of k their compositions; cRMSE has 'stol' for the rest."""
    lost = bulk("C", "diamond", a=3.567)
    lost.positions[0] = np.nan
    moved = bulk("C", "diamond", a=3.567)
    moved.positions[1] += 0.05
    frames = from_ase([moved, bulk("C", "diamond", a=3.6), lost, rock_salt(), molecule("CH4")])
    known = allotropes("diamond", "lonsdaleite", "clathrate-I", "T-carbon")
    summary = score(frames, ONE, known=known)[1]
    found = summary["crystals"]["recognition"]
    assert (found["known"], found["compositions"], found["samples"]) == (4, 1, 3)
    for kind, stol in (("match", 0.3), ("match_loose", 0.5)):
        assert found[kind]["per_sample"] == pytest.approx(2 / 3)
        assert found[kind]["any_of_k"] == 1
        assert found[kind]["metre"] == 0.25
        assert found[kind]["rmsd"] == pytest.approx(0, abs=1e-6)
        assert found[kind]["crmse"] == pytest.approx(3 * stol / 4)


def test_nothing_to_recognise() -> None:
    assert "recognition" not in score(from_ase([rock_salt()]), ONE)[1]["crystals"]
    summary = score(from_ase([rock_salt()]), ONE, known=allotropes("diamond"))[1]
    found = summary["crystals"]["recognition"]
    assert found["samples"] == 0
    assert found["by_composition"] == {}
    assert found["match"]["per_sample"] is found["match"]["rmsd"] is None
    assert (found["match"]["metre"], found["match"]["crmse"]) == (0, 0.3)


def suite() -> Frames:
    folder = os.environ.get("AIIDA_RM_DATA", "")
    path = Path(folder) / "suite15.extxyz"
    if not folder or not path.is_file():
        pytest.skip("AIIDA_RM_DATA names no folder with suite15.extxyz")
    frames = read_dataset(path).frames.without_labels()
    return frames.with_labels(structure={"name": frames.formulas()})


def test_as_the_matcher_says() -> None:
    """pymatgen's matcher on all pairs of whole cells, without anything of ours."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    known = suite()
    rng = np.random.default_rng(0)
    atoms = []
    for index in range(len(known)):
        copy = Atoms(
            known[index].numbers, known[index].positions, cell=known.cells[index], pbc=True
        )
        copy.set_cell(copy.cell * rng.uniform(0.9, 1.15, 3)[:, None], scale_atoms=True)
        copy.positions += rng.normal(0, rng.choice([0.05, 0.9]), copy.positions.shape)
        atoms.append(copy)
    frames = from_ase(atoms)
    scored, summary = score(frames, ONE, known=known)
    valid = scored.structure["valid"]
    for kind, (ltol, stol, angle_tol) in (("", (0.2, 0.3, 5)), ("_loose", (0.3, 0.5, 10))):
        matcher = StructureMatcher(ltol=ltol, stol=stol, angle_tol=angle_tol)
        expected = []
        for index in range(len(known)):
            pair = to_pymatgen(known, index), to_pymatgen(frames, index)
            found = matcher.get_rms_dist(*pair)
            # The field's match is by the root mean square, ours at the default by every atom.
            if found is None or not valid[index] or not (kind or matcher.fit(*pair)):
                found = (np.nan,)
            expected.append(found[0])
        np.testing.assert_allclose(scored.structure[f"match_rmsd{kind}"], expected, atol=1e-3)
        recognised = summary["crystals"]["recognition"][f"match{kind}"]
        assert 0 < np.isfinite(expected).sum() < 15
        assert recognised["metre"] == pytest.approx(np.isfinite(expected).mean())
        assert recognised["rmsd"] == pytest.approx(np.nanmean(expected), abs=1e-3)
        crmse = np.nan_to_num(expected, nan=stol).mean()
        assert recognised["crmse"] == pytest.approx(crmse, abs=1e-3)
