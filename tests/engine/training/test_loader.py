"""Batches: the same whoever makes them, in order, in parts, and kept where that is faster."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine.errors import EngineError, recognise
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training import data as training_data
from aiida_rm.engine.training.copies import Copies
from aiida_rm.engine.training.data import Limit, TrainingData
from aiida_rm.engine.training.graphs import find_neighbours, pack_neighbours, unpack_neighbours
from aiida_rm.engine.training.loader import Loader
from aiida_rm.engine.training.trainer import Trainer
from tests.engine.training.test_trainer import (
    SETTINGS,
    assert_same_run,
    crystals,
    stable_crystals,
)

CPU = torch.device("cpu")
RECIPE = PerturbSettings(samples=24, min_atoms=8)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def data(frames: Frames | None = None) -> TrainingData:
    return TrainingData(frames or crystals(), 3.5, torch.float64, CPU)


def plan(_epoch: int) -> list[np.ndarray[Any, Any]]:
    return [np.array([2, 0]), np.array([1, 5, 4]), np.array([3])]


def assert_same_parts(first: list[training_data.Part], second: list[training_data.Part]) -> None:
    assert len(first) == len(second)
    for (graph, targets), (other, others) in zip(first, second, strict=True):
        assert graph.vectors is None
        assert other.vectors is None
        for name in set(vars(graph)) - {"vectors", "even"}:
            assert torch.equal(getattr(graph, name), getattr(other, name)), name
        for name in vars(targets):
            assert torch.equal(getattr(targets, name), getattr(others, name)), name


def test_neighbours_survive_the_way_from_a_worker() -> None:
    neighbours = find_neighbours(crystals(3), 3.5, CPU)
    again = unpack_neighbours(pack_neighbours(neighbours), CPU)
    for (edges, shifts), (others, more) in zip(neighbours, again, strict=True):
        assert torch.equal(edges, others)
        assert torch.equal(shifts, more)


def test_parts_hold_so_many_edges_and_the_whole_batch() -> None:
    rows = np.arange(10)
    ((whole, targets),) = data().parts(rows)
    sizes = [edges.shape[1] for edges, _ in find_neighbours(crystals(), 3.5, CPU)][:10]
    limit = 2 * max(sizes)
    parts = data().parts(rows, Limit(limit))
    assert len(parts) >= 5
    assert all(graph.edge_index.shape[1] <= limit for graph, _ in parts)
    vectors = torch.cat([graph.edge_vectors() for graph, _ in parts])
    torch.testing.assert_close(vectors, whole.edge_vectors())
    assert torch.equal(torch.cat([some.forces for _, some in parts]), targets.forces)
    # A structure that is too large alone is a part of its own.
    assert len(data().parts(rows, Limit(1))) == 10
    assert data().parts(rows[:0], Limit(limit)) == []


def test_a_batch_in_so_many_parts() -> None:
    rows = np.arange(10)
    assert len(data().parts(rows, Limit(parts=2))) in (2, 3)
    many = data().parts(rows, Limit(parts=4))
    assert len(many) in (4, 5)
    largest = max(graph.edge_index.shape[1] for graph, _ in many)
    # the smaller of both limits
    assert len(data().parts(rows, Limit(largest // 2, parts=4))) > 5


@pytest.mark.parametrize("knobs", [{"batch_edges": 700}, {"batch_parts": 4}])
def test_parts_do_not_change_the_result(knobs: dict[str, int]) -> None:
    settings = replace(SETTINGS, dtype="float64", epochs=2)
    whole = Trainer(crystals(), settings).run()
    parts = Trainer(crystals(), replace(settings, **knobs)).run()
    for name, value in whole.potential.state_dict().items():
        torch.testing.assert_close(parts.potential.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert parts.progress.step == whole.progress.step


@pytest.mark.parametrize("fresh", [False, True], ids=["stored", "fresh"])
def test_workers_make_the_same_batches(fresh: bool) -> None:
    copies = Copies(stable_crystals(), RECIPE) if fresh else None
    frames = copies.all_of(0) if copies else crystals()
    loaders = [Loader(data(frames), copies, plan, workers, (0, 1), 3) for workers in (0, 1)]
    try:
        for epoch, first in ((0, 1), (1, 0), (2, 0)):
            for batch, rows in list(enumerate(plan(epoch)))[first:]:
                here, there = (some.get(epoch, batch, rows, Limit(900)) for some in loaders)
                assert_same_parts(here, there)
    finally:
        for loader in loaders:
            loader.close()


@pytest.mark.parametrize("fresh", [True, False])
def test_no_structures_are_no_parts(fresh: bool) -> None:
    copies = Copies(stable_crystals(), RECIPE) if fresh else None
    loader = Loader(data(), copies, plan, 0, (0, 0), 2)
    assert loader.get(1, 0, np.zeros(0, np.int64), 10**6) == []


def test_workers_get_nothing_once_all_is_in_memory() -> None:
    known = data(crystals().select(np.arange(6)))
    loader = Loader(known, None, plan, 0, (0, 1), 10**9)
    tasks = loader._needed()
    # Ahead into the second epoch, before anything came back.
    assert [next(tasks)[:2] for _ in range(3)] == [(0, 1), (0, 2), (1, 0)]
    known.parts(np.arange(6))
    assert list(tasks) == []
    fresh = Loader(known, Copies(stable_crystals(), RECIPE), plan, 0, (0, 1), 2)
    assert [task[:2] for task in fresh._needed()] == [(1, 0), (1, 1), (1, 2)]


def test_what_is_kept_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def counting(part: Frames, *more: Any) -> Any:
        made.append(len(part))
        return find_neighbours(part, *more)

    monkeypatch.setattr(training_data, "find_neighbours", counting)
    frames = crystals().select(np.arange(6))
    loader = Loader(data(frames), None, plan, 0, (0, 0), 3)
    for epoch in range(3):
        for batch, rows in enumerate(plan(epoch)):
            loader.get(epoch, batch, rows, Limit())
    assert sum(made) == 6
    made.clear()
    monkeypatch.setattr(training_data, "_KEPT_EDGES", 0)
    loader = Loader(data(frames), None, plan, 0, (0, 0), 3)
    loader.get(0, 0, plan(0)[0], Limit())
    loader.get(1, 0, plan(0)[0], Limit())
    assert made == [2, 2]


@pytest.mark.parametrize("draw", ["stored", "fresh"])
def test_interrupted_and_resumed_with_workers(tmp_path: Path, draw: str) -> None:
    state = tmp_path / "state.safetensors"
    frames = crystals() if draw == "stored" else stable_crystals()
    settings = replace(SETTINGS, draw=draw, recipe=RECIPE, epochs=3)
    whole = Trainer(frames, settings).run()
    calls = iter(range(1, 10**6))
    # In the middle of the second epoch; the number of workers may change.
    Trainer(frames, replace(settings, workers=2)).run(
        lambda: "walltime" if next(calls) == 7 else None, checkpoint=state
    )
    second = Trainer(frames, replace(settings, workers=1))
    second.restore(state)
    resumed = second.run(checkpoint=state)
    assert_same_run(whole, resumed, tmp_path)


def test_an_error_in_a_worker_is_told() -> None:
    flat = Frames.build([[6]], [[[0, 0, 0]]], [np.diag([3.0, 3.0, 0.0])])
    loader = Loader(data(), Copies(flat, RECIPE), lambda _: [np.array([0])], 1, (1, 0), 2)
    try:
        with pytest.raises(EngineError, match=r"a worker failed: .*Error"):
            loader.get(1, 0, np.array([0]), Limit())
    finally:
        loader.close()


def go_on_without(worker: int, loader: Loader) -> None:
    os.kill(worker, signal.SIGKILL)
    for epoch in range(2, 100):
        for batch, rows in enumerate(plan(epoch)):
            loader.get(epoch, batch, rows, Limit())


def test_a_killed_worker_is_told() -> None:
    loader = Loader(data(), Copies(stable_crystals(), RECIPE), plan, 1, (1, 0), 1000)
    try:
        loader.get(1, 0, plan(0)[0], Limit())
        (worker,) = loader._stream._workers  # type: ignore[union-attr]
        os.kill(worker.pid, signal.SIGTERM)  # a scheduler's; not for the worker
        loader.get(1, 1, plan(0)[1], Limit())
        with pytest.raises(RuntimeError) as raised:
            go_on_without(worker.pid, loader)
        told = recognise(raised.value)
        assert told is not None
        assert "a worker process ended unexpectedly" in str(told)
    finally:
        loader.close()


def test_waiting_is_measured() -> None:
    row = Trainer(crystals(), replace(SETTINGS, epochs=2)).run().progress.history[-1]
    assert 0 < row["waiting"] < 1
    assert TrainSettings().workers == 0
