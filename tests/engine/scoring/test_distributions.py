"""Distances between distributions, and the references' own scores."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from scipy.stats import wasserstein_distance

from aiida_rm.engine.converters import from_ase, to_pymatgen
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_solids import materials, rock_salt

OFF = ScoreSettings(processes=1, smact="off")


def overlapping() -> Atoms:
    return Atoms("C2", [[0, 0, 0], [0, 0, 0.3]], cell=[4, 4, 4], pbc=True)


def test_by_hand() -> None:
    """Two elements against one of two; 2 and 1 atoms; what is not valid does not count."""
    frames = from_ase([rock_salt(), bulk("Cu"), overlapping()])
    references = from_ase([rock_salt(), rock_salt(), overlapping(), molecule("CH4")])
    crystals = score(frames, OFF, references)[1]["crystals"]
    own = crystals["references"]
    assert (own["n_crystals"], own["structure_valid"], own["structure_strict"]) == (3, 2, 2)
    assert own["structure_valid_share"] == pytest.approx(2 / 3)
    found = crystals["wasserstein"]
    assert (found["samples"], found["valid_in"], found["references"]) == (2, ["structure"], 3)
    # Sorted: 1, 2 against 1, 2, 2; and again, for the overlap has two atoms.
    assert found["n_elements"] == pytest.approx(1 / 6)
    assert found["n_atoms"] == pytest.approx(0.5)
    assert "energy_per_atom" not in found


def test_energies_where_both_have_them() -> None:
    frames = from_ase([rock_salt(), bulk("Cu"), bulk("Ag")])
    one = frames.with_labels(structure={"energy_per_atom": [0.1, 0.2, np.nan]})
    two = frames.with_labels(structure={"energy_per_atom": [0.4, 0.5, 0.6]})
    crystals = score(one, OFF, two)[1]["crystals"]
    assert crystals["wasserstein"]["energy_per_atom"] == pytest.approx(0.35)
    assert crystals["wasserstein"]["density"] == pytest.approx(0)


def test_only_valid_compositions() -> None:
    pytest.importorskip("smact", reason="compositions are judged by smact")
    more = Atoms("NaCl2", [[0, 0, 0], [2.8, 0, 0], [0, 2.8, 0]], cell=np.eye(3) * 5.6, pbc=True)
    frames = from_ase([more, rock_salt()])
    found = score(frames, ScoreSettings(processes=1, smact="on"), frames)[1]["crystals"]
    assert found["wasserstein"]["samples"] == 1
    assert found["wasserstein"]["valid_in"] == ["structure", "composition"]
    assert found["wasserstein"]["n_atoms"] == 0.5


def test_nothing_to_compare() -> None:
    assert "wasserstein" not in score(from_ase([rock_salt()]), OFF)[1]["crystals"]
    water = from_ase([molecule("H2O")])
    assert "wasserstein" not in score(from_ase([rock_salt()]), OFF, water)[1]["crystals"]
    assert "crystals" not in score(water, OFF, from_ase([rock_salt()]))[1]
    found = score(from_ase([overlapping()]), OFF, from_ase([rock_salt()]))[1]["crystals"]
    assert found["wasserstein"]["samples"] == 0
    assert found["wasserstein"]["density"] is None


def test_as_pymatgen_and_scipy_say() -> None:
    frames = materials(70)
    half = np.arange(len(frames)) % 2 == 0
    ones, others = frames.select(np.flatnonzero(half)), frames.select(np.flatnonzero(~half))
    found = score(ones, OFF, others)[1]["crystals"]
    first, second = (
        [to_pymatgen(part, row) for row in range(len(part))] for part in (ones, others)
    )
    for name, function in (
        ("density", lambda crystal: crystal.density),
        ("n_elements", lambda crystal: len(set(crystal.species))),
        ("n_atoms", len),
        ("volume_per_atom", lambda crystal: crystal.volume / len(crystal)),
    ):
        expected = wasserstein_distance(*(list(map(function, part)) for part in (first, second)))
        assert found["wasserstein"][name] == pytest.approx(expected, rel=1e-3), name
    assert found["references"]["structure_valid_share"] == 1
