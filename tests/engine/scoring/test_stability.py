"""Atoms and molecules that are stable as EDM counts them."""

from __future__ import annotations

import numpy as np
import pytest
from ase.build import molecule

from aiida_rm.engine.elements import NUMBERS
from aiida_rm.engine.scoring.stability import bond_orders, stable_atoms


def pair(one: str, two: str, distance: float) -> int:
    numbers = [NUMBERS[one], NUMBERS[two]]
    orders = bond_orders(numbers, [[0, 0, 0], [0, 0, distance]])
    assert orders[0, 1] == orders[1, 0]
    assert not orders.diagonal().any()
    return int(orders[0, 1])


@pytest.mark.parametrize(
    ("one", "two", "steps"),
    [
        # Just below and above the length in the tables of the paper plus its margin.
        ("C", "C", [(1.229, 3), (1.231, 2), (1.389, 2), (1.391, 1), (1.639, 1), (1.641, 0)]),
        ("N", "C", [(1.189, 3), (1.191, 2), (1.339, 2), (1.341, 1), (1.569, 1), (1.571, 0)]),
        ("O", "O", [(1.0, 2), (1.259, 2), (1.261, 1), (1.579, 1), (1.581, 0)]),
        ("H", "H", [(0.5, 1), (0.839, 1), (0.841, 0)]),
        ("S", "C", [(1.649, 2), (1.651, 1), (1.921, 0)]),
        ("P", "Si", [(1.0, 0)]),  # no entry
        ("Fe", "C", [(1.0, 0)]),
    ],
)
def test_orders_by_distance(one: str, two: str, steps: list[tuple[float, int]]) -> None:
    assert [pair(one, two, distance) for distance, _ in steps] == [order for _, order in steps]


@pytest.mark.parametrize(
    ("name", "stable"),
    [
        ("H2O", [True] * 3),
        ("CH4", [True] * 5),
        ("CO2", [True] * 3),
        ("C2H2", [True] * 4),
        ("HCN", [True] * 3),
        ("CH3", [False, True, True, True]),
        ("CO", [False, False]),
        # All bonds of benzene are 1.395 A: single, by the tables.
        ("C6H6", [False] * 6 + [True] * 6),
        # Sulfur must have four bonds.
        ("SH2", [False, True, True]),
    ],
)
def test_molecules(name: str, stable: list[bool]) -> None:
    atoms = molecule(name)
    assert stable_atoms(atoms.numbers, atoms.positions).tolist() == stable


def test_what_has_no_geometry_is_not_stable() -> None:
    assert stable_atoms([8, 1, 1], np.full((3, 3), np.nan)).tolist() == [False] * 3
    assert stable_atoms([26], np.zeros((1, 3))).tolist() == [False]
    assert stable_atoms(np.zeros(0, int), np.zeros((0, 3))).shape == (0,)
