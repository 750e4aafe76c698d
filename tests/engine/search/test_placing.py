"""Cells and places: images count, and nothing is a sliver."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_rm.engine.cells import image_shifts, near_squares, shortest_distance
from aiida_rm.engine.search.placing import (
    is_sliver,
    random_cell,
    scatter,
    shortest_vector,
)


def test_random_cells() -> None:
    rng = np.random.default_rng(0)
    for distortion in (0.0, 0.5, 1.0):
        for _ in range(20):
            cell = random_cell(rng, 30.0, distortion)
            assert np.linalg.det(cell) == pytest.approx(30)
            assert not is_sliver(cell)
    assert is_sliver(np.diag([10, 10, 0.5]))
    assert is_sliver(np.zeros((3, 3)))


def test_shortest_lattice_vector() -> None:
    rng = np.random.default_rng(1)
    steps = np.stack(np.meshgrid(*[np.arange(-6, 7)] * 3, indexing="ij"), -1).reshape(-1, 3)
    steps = steps[np.abs(steps).sum(1) > 0]
    for _ in range(50):
        cell = random_cell(rng, 20.0, 1.0)
        assert shortest_vector(cell) == pytest.approx(np.linalg.norm(steps @ cell, axis=1).min())


def test_squares_are_exact_within_reach() -> None:
    rng = np.random.default_rng(2)
    pbc = np.ones(3, bool)
    for reach in (1.0, 2.5, 6.0):
        cell = random_cell(rng, 25.0, 1.0)
        points = rng.random((5, 3))
        found = near_squares(points[:1], points[1:], cell, image_shifts(cell, reach))[0]
        for point, square in zip(points[1:], found, strict=True):
            pair = np.stack([points[0], point]) @ cell
            steps = np.array(list(np.ndindex(9, 9, 9))) - 4
            nearest = np.linalg.norm(pair[1] - pair[0] + steps @ cell, axis=1).min()
            assert min(np.sqrt(square), reach) == pytest.approx(min(nearest, reach))
        assert shortest_distance(points @ cell, cell, pbc) <= np.sqrt(found.min()) + 1e-9


def test_kinds_keep_their_own_distances() -> None:
    rng = np.random.default_rng(3)
    kinds = np.array([0] * 6 + [1] * 2)
    nearest = np.array([[0.8, 1.2], [1.2, 2.4]])
    for periodic in (True, False):
        cell = 5.0 * np.eye(3)
        points = scatter(rng, kinds, nearest, cell, periodic=periodic)
        assert points is not None
        shifts = image_shifts(cell, 2.4) if periodic else np.zeros((1, 3))
        inside = points / 5.0
        squares = near_squares(inside, inside, cell, shifts, periodic=periodic)
        np.fill_diagonal(squares, np.inf)
        assert (squares >= nearest[kinds][:, kinds] ** 2).all()


def test_an_image_of_itself_can_be_too_near() -> None:
    rng = np.random.default_rng(4)
    alone = np.zeros(1, int)
    assert scatter(rng, alone, np.array([[3.1]]), 3.0 * np.eye(3), periodic=True) is None
    assert scatter(rng, alone, np.array([[3.1]]), 3.0 * np.eye(3), periodic=False) is not None
    assert scatter(rng, alone, np.array([[2.9]]), 3.0 * np.eye(3), periodic=True) is not None
