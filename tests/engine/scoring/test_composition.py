"""Validity of compositions by SMACT."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.elements import parse_formula
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.scoring import composition
from aiida_rm.engine.scoring.composition import composition_of, is_valid_composition
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_solids import materials, rock_salt

smact = pytest.importorskip("smact", reason="compositions are judged by smact")

ON = ScoreSettings(processes=1, smact="on")


def of(formula: str) -> composition.Composition:
    return tuple(parse_formula(formula).items())


def chlorides() -> list[Atoms]:
    """NaCl and NaCl2, in cells that are structurally valid."""
    more = Atoms("NaCl2", [[0, 0, 0], [2.8, 0, 0], [0, 2.8, 0]], cell=np.eye(3) * 5.6, pbc=True)
    return [rock_salt(), more]


@pytest.mark.parametrize(
    ("formula", "valid"),
    [
        ("NaCl", True), ("NaCl2", False), ("Fe2O3", True), ("Fe3O4", False), ("SiO2", True),
        ("Cu3Au", True), ("Si", True), ("ClNa", True), ("XeF2", True), ("OgO2", False),
        # Neutral, but only with the more electronegative element positive.
        ("Pd2Si", False), ("MoTe2", False),
    ],
)  # fmt: skip
def test_by_hand(formula: str, valid: bool) -> None:
    assert is_valid_composition(of(formula), "smact14") == valid


def test_reduced() -> None:
    assert composition_of(np.array([8, 26, 8, 26, 8, 26, 26, 8, 8, 8])) == (("O", 3), ("Fe", 2))
    assert composition_of(np.array([0, 6])) == composition_of(np.array([119])) == ()


def test_many_elements_end() -> None:
    many = of("FeMnCrVTiMoWReOsRuSO3N2Cl7")
    assert is_valid_composition(many, "smact14") in (True, False)


def test_labels_and_summary() -> None:
    frames = from_ase([*chlorides(), molecule("H2O"), bulk("Cu"), rock_salt().repeat(2)])
    scored, summary = score(frames, ON, references=from_ase([*chlorides(), molecule("CH4")]))
    assert scored.structure["composition_valid"].tolist() == [True, False, False, True, True]
    assert summary["crystals"]["smact"] == {
        "on": True,
        "chosen": "by the settings",
        "version": "3.2.0",
        "states": "smact14",
        "composition_valid": 3,
        "and_structure_valid": 3,
        "share": 0.75,
        "references": {"n_crystals": 2, "share": 0.5},
    }


def test_off() -> None:
    scored, summary = score(from_ase(chlorides()), ScoreSettings(processes=1, smact="off"))
    assert not scored.structure["composition_valid"].any()
    assert summary["crystals"]["smact"] == {"on": False, "chosen": "by the settings"}


@pytest.mark.parametrize("installed", ["", "4.0.1"])
def test_without_the_pinned_version(monkeypatch: pytest.MonkeyPatch, installed: str) -> None:
    def version(name: str) -> str:
        if not installed:
            raise PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(composition, "version", version)
    frames = from_ase(chlorides())
    summary = score(frames, ScoreSettings(processes=1))[1]
    assert not summary["crystals"]["smact"]["on"]
    assert "pip install 'aiida-rm[crystals]'" in summary["crystals"]["smact"]["chosen"]
    with pytest.raises(SettingsError, match=f"SMACT {installed or 'is missing'}"):
        score(frames, ON)
    score(from_ase([molecule("H2O")]), ON)


def test_as_smact_says() -> None:
    """Its own function, which goes through all combinations one by one."""
    from pymatgen.core import Composition
    from smact.screening import smact_validity

    frames = materials(40)
    for formula in sorted(set(frames.formulas())):
        whole = Composition(formula)
        expected = smact_validity(whole, oxidation_states_set="smact14")
        assert is_valid_composition(of(formula.replace(" ", "")), "smact14") == expected, formula


@pytest.mark.parametrize(("states", "share"), [("smact14", 0.902), ("icsd24", 0.901)])
def test_ceiling(states: str, share: float) -> None:
    """About 90 % of the crystals of the Materials Project."""
    frames = materials(1)
    chosen = [frames.numbers[frames.ptr[i] : frames.ptr[i + 1]] for i in range(len(frames))]
    answers = [is_valid_composition(composition_of(numbers), states) for numbers in chosen]
    assert np.mean(answers) == pytest.approx(share, abs=0.001)
