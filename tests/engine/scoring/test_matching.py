"""Which structures are compared with which, and on which cells."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from pymatgen.analysis.structure_matcher import StructureMatcher

from aiida_rm.engine.converters import from_ase, to_pymatgen
from aiida_rm.engine.scoring.crystals import reduced_crystal
from aiida_rm.engine.scoring.matching import Judge, Rivals, prepare
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings
from tests.engine.scoring.test_solids import rock_salt
from tests.engine.scoring.test_task import disguise, stirred

FEW = ScoreSettings(processes=1, smact="off", nearest=3)
ALL = ScoreSettings(processes=1, smact="off", nearest=0)


def places(count: int, copies: int) -> list[Atoms]:
    """Seven carbon atoms at random in a box, ``count`` times, each with copies in disguise."""
    rng = np.random.default_rng(4)
    found: list[Atoms] = []
    while len(found) < count:
        box = np.diag(rng.uniform(4, 7, 3))
        atoms = Atoms("C7", rng.uniform(size=(7, 3)) @ box, cell=box, pbc=True)
        near = atoms.repeat(2).get_all_distances(mic=True)
        if near[near > 0].min() > 1.0:
            found.append(atoms)
    return [disguise(stirred(atoms, 0.02, seed), seed) for seed in range(copies) for atoms in found]


def test_all_where_they_are_few() -> None:
    candidates = [prepare(from_ase([atoms]), 0) for atoms in places(5, 1)]
    assert Rivals(candidates[:3], FEW).of(candidates[4]) == candidates[:3]
    assert Rivals(candidates, ALL).of(candidates[4]) == candidates
    assert Rivals([], FEW).of(candidates[4]) == []


def test_the_nearest_first() -> None:
    frames = from_ase(places(12, 2))
    candidates = [prepare(frames, row) for row in range(24)]
    rivals = Rivals(candidates[:12], FEW)
    for row in range(12, 24):
        near = rivals.of(candidates[row])
        assert len(near) == 3
        assert near[0] is candidates[row - 12]


def test_molecules_have_no_looks() -> None:
    candidates = [prepare(from_ase([molecule("H2O")]), 0) for _ in range(6)]
    assert len(Rivals(candidates, FEW).of(candidates[0])) == 6


@pytest.mark.parametrize("settings", [FEW, ALL])
def test_large_groups(monkeypatch: pytest.MonkeyPatch, settings: ScoreSettings) -> None:
    """More than a piece of work, and more than are matched."""
    asked = []
    same = Judge.same

    def counted(self, one, two):
        asked.append((one, two))
        return same(self, one, two)

    monkeypatch.setattr(Judge, "same", counted)
    monkeypatch.setattr("aiida_rm.engine.scoring.pool.CHUNK", 4)
    # Different energies: repeats are not found before the matching.
    frames = from_ase(places(9, 2)).with_labels(structure={"energy_per_atom": np.arange(18.0)})
    scored, _ = score(frames, settings, references=from_ase(places(6, 1)))
    found = scored.structure
    assert found["duplicate_of"].tolist() == list(range(9)) * 2
    assert found["novel"].tolist() == ([False] * 6 + [True] * 3) * 2
    assert (len(asked) < 90) == (settings is FEW)


def test_cells_are_the_matchers_own() -> None:
    salt = rock_salt().repeat((2, 1, 1))
    salt.positions += np.random.default_rng(0).normal(0, 0.05, salt.positions.shape)
    for atoms in (*places(6, 1), disguise(rock_salt(), 3), salt):
        frames = from_ase([atoms])
        own = StructureMatcher()._get_reduced_structure(to_pymatgen(frames, 0))
        ours = reduced_crystal(frames, 0)
        np.testing.assert_allclose(ours.lattice.matrix, own.lattice.matrix, atol=1e-9)
        np.testing.assert_allclose(ours.frac_coords, own.frac_coords, atol=1e-9)
