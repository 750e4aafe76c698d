"""Overlaps of many structures at once: the same as one at a time."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_rm.engine import cells
from aiida_rm.engine.cells import may_overlap, shortest_distance
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
