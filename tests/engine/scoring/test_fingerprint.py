"""Repeats by energy and fingerprint: what they are, what they are not, and that they save work."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.scoring import task, uniqueness
from aiida_rm.engine.scoring.fingerprint import FINGERPRINT_SIZE, find_repeats
from aiida_rm.engine.scoring.geometry import measure
from aiida_rm.engine.scoring.matching import find_duplicates
from aiida_rm.engine.settings import ScoreSettings


def of(atoms: Atoms) -> np.ndarray:
    found = measure(from_ase([atoms]), 0, bond_length=1.0, rdf_max=2.0, rdf_bins=5).fingerprint
    assert found.shape == (FINGERPRINT_SIZE,)
    return found


def share(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.linalg.norm(one - two) / np.linalg.norm(one))


def stirred(atoms: Atoms, amplitude: float) -> Atoms:
    moved = atoms.copy()
    moved.positions += amplitude * np.random.default_rng(0).normal(size=moved.positions.shape)
    return moved


def test_cells_turns_and_orders_do_not_matter() -> None:
    salt = bulk("NaCl", "rocksalt", 5.64)
    large = salt.repeat((2, 1, 3))
    large = large[np.random.default_rng(1).permutation(len(large))]
    large.rotate(40, (1, 2, 3), rotate_cell=True)
    assert share(of(salt), of(large)) < 1e-5


def test_elements_on_their_sites_do() -> None:
    salt = bulk("NaCl", "rocksalt", 5.64, cubic=True)
    swapped = salt.copy()
    swapped.numbers[[0, 1]] = swapped.numbers[[1, 0]]
    assert sorted(swapped.numbers) == sorted(salt.numbers)
    assert share(of(salt), of(swapped)) > 0.02
    assert (
        share(of(salt), of(stirred(salt, 0.002))) < 0.02 < share(of(salt), of(stirred(salt, 0.1)))
    )


def test_energy_and_fingerprint_must_both_agree() -> None:
    prints = np.array([[1.0, 0.0], [1.0, 0.001], [1.0, 0.0], [0.9, 0.0], [1.0, 0.0], [1.0, 0.0]])
    energies = np.array([0.5, 0.50005, 0.6, 0.5, np.nan, 0.49995])
    assert find_repeats(energies, prints).tolist() == [0, 0, 2, 3, 4, 0]


@pytest.mark.parametrize("matched", [40, 0])
def test_repeats_are_not_matched(monkeypatch: pytest.MonkeyPatch, matched: int) -> None:
    """The verdicts are those of the matcher, which sees one of each."""
    diamond = bulk("C", "diamond", 3.567)
    other = Atoms("C2", [[0, 0, 0], [1.4, 0, 0]], cell=[4, 5, 6], pbc=True)
    atoms = [stirred(kind, 1e-4) for kind in (diamond, other) for _ in range(20)]
    seen = []

    def counted(candidates, settings):
        seen.extend(candidates)
        return find_duplicates(candidates, settings)

    monkeypatch.setattr(uniqueness, "find_duplicates", counted)
    if matched:
        monkeypatch.setattr(
            uniqueness, "find_repeats", lambda energies, _: np.arange(len(energies))
        )
    frames = from_ase(atoms).with_labels(structure={"energy_per_atom": np.repeat([0.1, 0.2], 20)})
    scored, _ = task.score(frames, ScoreSettings(processes=1, require_converged=False))
    assert scored.structure["duplicate_of"].tolist() == [0] * 20 + [20] * 20
    assert len(seen) == (matched or 2)
