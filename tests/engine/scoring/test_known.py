"""Every known structure is what it says, and none is another."""

from __future__ import annotations

import numpy as np
import pytest
import spglib

from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.known import CARBON, Prototype, carbon_allotropes
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings


@pytest.fixture(scope="module")
def known() -> Frames:
    return carbon_allotropes()


def test_names_are_unique_and_in_order(known: Frames) -> None:
    names = known.structure["name"].tolist()
    assert names == [entry.name for entry in CARBON]
    assert len(set(names)) == len(names)
    assert known.elements == ("C",)
    known.check(min_distance=1.3)


@pytest.mark.parametrize("entry", CARBON, ids=lambda entry: entry.name)
def test_geometry(known: Frames, entry: Prototype) -> None:
    index = known.structure["name"].tolist().index(entry.name)
    structure = to_pymatgen(known, index)
    neighbors = structure.get_all_neighbors(1.85)
    assert {len(item) for item in neighbors} == {entry.coordination}
    bonds = [site.nn_distance for item in neighbors for site in item]
    assert 1.3 < min(bonds) <= max(bonds) < 1.75
    cell = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    for symprec in (1e-3, 0.05):
        assert spglib.get_symmetry_dataset(cell, symprec=symprec).number == entry.number
    assert len(entry.source) > 10


def test_none_is_another(known: Frames) -> None:
    scored, summary = score(known, ScoreSettings(processes=1), known=known)
    assert summary["unique"] == summary["valid"] == len(CARBON)
    assert scored.structure["match"].tolist() == known.structure["name"].tolist()
    np.testing.assert_allclose(scored.structure["match_rmsd"], 0, atol=1e-6)
