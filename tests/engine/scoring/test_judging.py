"""Molecules in the task score: labels, summary, uniqueness and novelty by SMILES."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import CHECKS, PERCEPTION, POSEBUSTERS, STABILITY, check_label
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.scoring import judging
from aiida_rm.engine.scoring.matching import Judge, prepare
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_chemistry import embedded, two_waters

pytest.importorskip("rdkit", reason="bonds are perceived by rdkit")
pytest.importorskip("posebusters", reason="checks are those of posebusters")

OFF = ScoreSettings(processes=1, chemistry="off")
PERCEIVE = ScoreSettings(processes=1, chemistry="perceive")
BUST = ScoreSettings(processes=1, chemistry="posebusters")


def no_rdkit(name: str) -> None:
    return None if name == "rdkit" else object()


def test_all_kinds_in_one_set() -> None:
    lost, close = molecule("H2O"), molecule("H2O")
    lost.positions[1] = np.nan
    close.positions[1] = close.positions[0] + 0.1
    atoms = [
        molecule("H2O"), molecule("C6H6"), molecule("CH3"), two_waters(), lost, close,
        bulk("C"), molecule("CH3NO2"), embedded("CCCCCCCCCC"),
    ]  # fmt: skip
    small = ScoreSettings(processes=1, chemistry="perceive", chemistry_atoms=20)
    scored, summary = score(from_ase(atoms), small)
    found = scored.structure
    assert found["verdict"].tolist() == [
        "sound", "sound", "bond orders", "fragments", "no geometry", "overlap", "", "charges",
        "too large",
    ]  # fmt: skip
    assert found["sound"].tolist() == [True, True] + [False] * 7
    assert found["connected"].tolist() == [True] * 3 + [False] * 4 + [True, False]
    assert found["perceived"].tolist() == [True, True] + [False] * 5 + [True, False]
    assert found["smiles"].tolist()[:3] == ["O", "c1ccccc1", ""]
    # An overlap is a bond, by EDM's tables.
    stable = [True, False, False, True, False, True, False, False, True]
    assert found["stable_molecule"].tolist() == stable
    assert np.isnan(found["stable_atoms"]).tolist() == [False] * 6 + [True] + [False] * 2
    assert found["stable_atoms"][2] == 0.75
    assert scored.atom["stable"][:3].all()
    molecules = summary["molecules"]
    assert molecules["n_molecules"] == 8
    assert (molecules["chemistry"], molecules["chosen"]) == ("perceive", "by the settings")
    assert molecules["verdicts"]["sound"] == molecules["sound"] == 2
    assert molecules["different_smiles"] == 3
    assert "clean" not in molecules
    assert molecules["by_formula"]["H2O"]["sound"] == pytest.approx(1 / 3)
    assert molecules["by_formula"]["H2O"]["n"] == 3


def test_labels_are_there_whatever_the_structures() -> None:
    for frames in (from_ase([bulk("Cu")]), from_ase([])):
        scored, summary = score(frames, BUST)
        kinds = {**STABILITY, **PERCEPTION, **POSEBUSTERS}
        assert {name: scored.structure[name].dtype.kind for name in kinds} == kinds
        assert not any(scored.structure[name].any() for name in kinds if kinds[name] in "bi")
        assert scored.atom["stable"].shape == (frames.n_atoms,)
        assert "molecules" not in summary


def test_off_still_counts_stable_atoms() -> None:
    scored, summary = score(from_ase([molecule("H2O")]), OFF)
    assert scored.structure["verdict"].tolist() == [""]
    assert scored.structure["stable_molecule"].tolist() == [True]
    assert summary["molecules"] == {
        "n_molecules": 1,
        "chemistry": "off",
        "chosen": "by the settings",
        "stable_molecule": 1,
        "stable_atoms": 1.0,
        "n_formulas": 1,
        "by_formula": {"H2O": {"n": 1, "stable_molecule": 1.0, "stable_atoms": 1.0}},
    }


def test_posebusters() -> None:
    bent = molecule("C6H6")
    bent.positions[np.flatnonzero(bent.numbers == 6)[0]] += [0, 0, 0.8]
    scored, summary = score(from_ase([bent, molecule("C6H6"), two_waters()]), BUST)
    found = scored.structure
    assert found["sound"].tolist() == [True, True, False]
    assert found["clean"].tolist() == [False, True, False]
    assert found["check_aromatic_ring_flatness"].tolist() == [False, True, False]
    assert found["check_sanitization"].tolist() == [True, True, False]
    assert found["unchecked"].tolist() == [0, 0, 0]
    # Of equal molecules, a clean one represents.
    assert found["duplicate_of"].tolist() == [1, 1, 2]
    molecules = summary["molecules"]
    assert molecules["clean"] == 1
    assert molecules["by_formula"]["C6H6"]["clean"] == 0.5
    assert molecules["by_formula"]["C6H6"]["check_aromatic_ring_flatness"] == 0.5
    assert {check_label(name) for name in CHECKS} <= set(molecules)
    assert {"rdkit", "posebusters"} <= set(molecules)


def test_a_check_that_cannot_be_made_is_not_passed() -> None:
    scored, summary = score(from_ase([Atoms("Ne"), molecule("CH3")]), BUST)
    found = scored.structure
    assert found["sound"].tolist() == [True, False]
    assert not found["clean"].any()
    assert found["unchecked"].tolist() == [1, 0]
    assert summary["molecules"]["unchecked"] == summary["molecules"]["by_formula"]["Ne"]["n"] == 1


def test_conformers_are_one_molecule() -> None:
    conformers = [embedded("CCCCO", seed) for seed in (1, 2, 3)]
    frames = from_ase([*conformers, embedded("CCC(C)O")])
    by_smiles, _ = score(frames, PERCEIVE, references=from_ase([embedded("CCCCO", 7)]))
    assert by_smiles.structure["duplicate_of"].tolist() == [0, 0, 0, 3]
    assert by_smiles.structure["novel"].tolist() == [False, False, False, True]
    by_distances, _ = score(frames, OFF, references=from_ase([embedded("CCCCO", 7)]))
    assert by_distances.structure["unique"].all()


def test_without_smiles_distances_decide() -> None:
    radical = molecule("CH3")
    turned = radical.copy()
    turned.rotate(40, (1, 1, 0))
    scored, _ = score(from_ase([radical, turned]), PERCEIVE, references=from_ase([radical]))
    assert scored.structure["duplicate_of"].tolist() == [0, 0]
    assert not scored.structure["novel"].any()
    judge, water = Judge(PERCEIVE), from_ase([molecule("H2O")])
    assert judge.same(prepare(water, 0, "O"), prepare(water, 0))
    assert not judge.same(prepare(water, 0, "O"), prepare(water, 0, "[O]"))


def test_known_molecules_are_recognised_by_smiles() -> None:
    known = from_ase([embedded("CCCCO", 5)]).with_labels(structure={"name": ["butanol"]})
    scored, _ = score(from_ase([embedded("CCCCO", 6)]), PERCEIVE, known=known)
    assert scored.structure["match"].tolist() == ["butanol"]


def test_rdkit_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "find_spec", no_rdkit)
    water = from_ase([molecule("H2O")])
    _, summary = score(water, ScoreSettings(processes=1))
    assert summary["molecules"]["chemistry"] == "off"
    assert "RDKit is missing; pip install 'aiida-rm[molecules]'" in summary["molecules"]["chosen"]
    with pytest.raises(SettingsError, match=r"'chemistry' is perceive, which needs rdkit, not in"):
        score(water, PERCEIVE)
    score(from_ase([bulk("Cu")]), PERCEIVE)  # nothing to perceive
    score(water, OFF)


def test_auto_says_what_it_chose() -> None:
    _, summary = score(from_ase([molecule("H2O")]), ScoreSettings(processes=1))
    assert summary["molecules"]["chemistry"] == "perceive"
    assert summary["molecules"]["chosen"] == "auto: RDKit is installed"


def test_two_processes_say_the_same_as_one() -> None:
    atoms: list[Atoms] = [molecule(name) for name in ("H2O", "CH3", "C6H6")] * 34
    steps: list[dict] = []
    one = score(from_ase(atoms), PERCEIVE)
    two = score(
        from_ase(atoms), ScoreSettings(processes=2, chemistry="perceive"), progress=steps.append
    )
    assert one[1] == two[1]
    for name, values in one[0].structure.items():
        np.testing.assert_array_equal(values, two[0].structure[name], err_msg=name)
    counted = [step["finished"] for step in steps if step["stage"] == "molecules"]
    assert counted == sorted(counted)
    assert counted[-1] == 102


def qm7b() -> Frames:
    folder = os.environ.get("AIIDA_RM_DATA", "")
    path = Path(folder) / "qm7b.extxyz"
    if not folder or not path.is_file():
        pytest.skip("AIIDA_RM_DATA names no folder with qm7b.extxyz")
    return read_dataset(path).frames


def test_a_sample_of_qm7b() -> None:
    part = qm7b().select(np.arange(0, 7211, 40))
    _, summary = score(part, PERCEIVE)
    molecules = summary["molecules"]
    assert molecules["connected"] == 181
    assert molecules["perceived"] == molecules["different_smiles"] == 180
    assert summary["unique"] == 181
    few = part.select(np.arange(60, 181, 15))
    assert score(few, BUST)[1]["molecules"]["clean"] == len(few)


@pytest.mark.slow
def test_all_of_qm7b() -> None:
    """Known ceilings; in a third of the set 99.5 % failed none of the checks that were made."""
    frames = qm7b()
    scored, summary = score(frames, ScoreSettings(chemistry="posebusters"))
    found = scored.structure
    failed = found["sound"] & ~found["clean"] & (found["unchecked"] == 0)
    assert 0.99 < 1 - failed.sum() / found["sound"].sum() < 1
    molecules = summary["molecules"]
    assert molecules["n_molecules"] == molecules["connected"] == 7211
    assert molecules["perceived"] == 7193
    assert molecules["different_smiles"] == 7185
    assert molecules["verdicts"] == {"sound": 7185, "bond orders": 18, "charges": 8}
    assert molecules["stable_molecule"] == 6720
