"""Distances in cells of any shape; overlaps of many structures at once as one at a time."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from aiida_rm.engine import cells
from aiida_rm.engine.cells import may_overlap, nearest_images, short_basis, shortest_distance
from aiida_rm.engine.frames import Frames


def many(seed: int, count: int = 300) -> Frames:
    """Skewed crystals, slabs, wires and molecules of 1 to 7 atoms, some of them too near."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 8, count)
    frames = Frames.build(
        [np.full(size, 6) for size in sizes],
        [rng.uniform(-2, 2, (size, 3)) for size in sizes],
        cells=rng.uniform(-2, 2, (count, 3, 3)) + 4 * np.eye(3),
        pbc=rng.random((count, 3)) < rng.choice([0, 0.5, 1.0], (count, 1)),
    )
    frames.check()
    return frames


@pytest.mark.parametrize("limit", [0.3, 0.9])
@pytest.mark.parametrize("pairs", [1, 40, 10**6])
def test_none_is_missed(limit: float, pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_PAIRS", pairs)
    for seed in range(3):
        frames = many(seed)
        near = [i for i in range(len(frames)) if frames.minimum_distance(i, limit) < limit]
        found = list(may_overlap(frames.positions, frames.cells, frames.pbc, frames.ptr, limit))
        assert near
        assert found == sorted(set(found))
        assert set(near) <= set(found)
        assert len(found) < len(frames)


def test_well_apart_is_told_at_once() -> None:
    """Or checking a large dataset would take minutes."""
    cell = 4.0 * np.eye(3)
    places = [[[0, 0, 0], [2, 2, 2]], [[0.1, 0, 0], [3.95, 0, 0]]]
    crystals = Frames.build([[6, 6]] * 2, places, cells=[cell] * 2)
    f = crystals
    assert list(may_overlap(f.positions, f.cells, f.pbc, f.ptr, 0.3)) == [1]
    molecules = Frames.build([[6, 6]] * 2, places)
    f = molecules
    assert list(may_overlap(f.positions, f.cells, f.pbc, f.ptr, 0.3)) == []


def test_a_tiny_cell_takes_no_memory() -> None:
    """Its images within reach would be hundreds of millions."""
    tiny = 1e-3 * np.eye(3)
    assert shortest_distance(np.zeros((2, 3)), tiny, np.ones(3, bool), 0.3) == pytest.approx(1e-3)


def test_blocks_of_atoms_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = many(5, 40)
    whole = [frames.minimum_distance(index) for index in range(len(frames))]
    monkeypatch.setattr(cells, "_PAIRS", 5)
    assert [frames.minimum_distance(index) for index in range(len(frames))] == whole


def test_many_atoms_take_little_memory() -> None:
    positions = np.random.default_rng(0).random((1500, 3)) * 25
    tracemalloc.start()
    shortest_distance(positions, 25 * np.eye(3), np.ones(3, bool), 0.3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("seed", range(10))
def test_nearest_images_in_skew_cells(seed: int) -> None:
    """The 27 images around the rounded one are not enough for them."""
    rng = np.random.default_rng(seed)
    reduced = np.diag(rng.uniform(3, 6, 3)) + rng.uniform(-0.5, 0.5, (3, 3))
    skew = np.array([[1, 0, 0], [rng.integers(-4, 5), 1, 0], [*rng.integers(-4, 5, 2), 1]])
    cell = skew @ reduced
    assert np.linalg.norm(short_basis(cell) @ cell) < 1.1 * np.linalg.norm(reduced)
    gaps = rng.uniform(-20, 20, (50, 3))
    steps, squares = nearest_images(gaps, cell)
    np.testing.assert_array_equal(steps, np.round(steps))
    np.testing.assert_allclose(((gaps - steps @ cell) ** 2).sum(-1), squares)
    around = np.array(list(itertools.product(range(-2, 3), repeat=3))) @ reduced
    near = gaps - np.round(gaps @ np.linalg.inv(reduced)) @ reduced
    wanted = ((near[:, None] - around) ** 2).sum(-1).min(1)
    np.testing.assert_allclose(squares, wanted)
