"""How far a relaxation moved a structure."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_rm.engine.scoring.displacement import moved_rmsd

MOLECULE = np.array([[0.0, 0, 0], [1.1, 0, 0], [0, 1.3, 0], [0.2, 0.1, 0.9]])
NOTHING = np.zeros((3, 3))
NO, YES = np.zeros(3, bool), np.ones(3, bool)


def rotation(seed: int) -> np.ndarray:
    turned = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return turned * np.sign(np.linalg.det(turned))


def test_molecules_may_turn_and_shift() -> None:
    turned = MOLECULE @ rotation(1) + 3.0
    assert moved_rmsd(MOLECULE, turned, NOTHING, NOTHING, NO) == pytest.approx(0, abs=1e-7)
    mirrored = MOLECULE * [1, 1, -1]
    assert moved_rmsd(MOLECULE, mirrored, NOTHING, NOTHING, NO) > 0.1
    pair = np.array([[0.0, 0, 0], [1.0, 0, 0]])
    # Both ends of a bond move by half of its change.
    assert moved_rmsd(pair, 1.2 * pair, NOTHING, NOTHING, NO) == pytest.approx(0.1)
    assert moved_rmsd(pair[:1], pair[1:], NOTHING, NOTHING, NO) == 0


def test_crystals_may_turn_shift_grow_and_wrap() -> None:
    cell = np.array([[4.0, 0, 0], [1, 4, 0], [0, 0.5, 5]])
    inside = np.array([[0.01, 0.2, 0.3], [0.5, 0.6, 0.99]])
    same = moved_rmsd(
        inside @ cell, (inside + np.array([[1, 0, 0], [0, 0, -1]])) @ cell + 0.3, cell, cell, YES
    )
    assert same == pytest.approx(0, abs=1e-9)
    turned = 1.1 * cell @ rotation(2)
    assert moved_rmsd(inside @ cell, inside @ turned, cell, turned, YES) == pytest.approx(0)


def test_crystals_whose_atoms_move() -> None:
    cell = np.eye(3) * 5
    before = np.array([[0.0, 0, 0], [2.5, 2.5, 2.5]])
    after = before + np.array([[0.1, 0, 0], [-0.1, 0, 0]])
    assert moved_rmsd(before, after, cell, cell, YES) == pytest.approx(0.1)
    # Across the face of the cell it is as far.
    assert moved_rmsd(before, after % 5, cell, cell, YES) == pytest.approx(0.1)
    slab = np.array([True, True, False])
    assert moved_rmsd(before, after, cell, cell, slab) == pytest.approx(0.1)
