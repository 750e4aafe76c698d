"""Batches that do not fit: halved, set aside and taken up again; nothing is lost."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine.frames import concatenate
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.relaxation import NO_MEMORY, RelaxStatus, relax
from aiida_rm.engine.relaxation.memory import Room
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import starts

STAGES = (
    Stage(cell="free", max_steps=8),
    Stage(kind="langevin", cell="free", max_steps=6, temperature=0.02),
    Stage(cell="free", max_steps=8),
)


class Small:
    """A device that holds so many atoms, and notes what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, atoms: int, error: Exception) -> None:
        self.sizes: list[int] = []
        self.edges: list[int] = []
        whole = Potential.forward

        def forward(potential: Potential, graph: Graph, **kwargs: Any) -> Prediction:
            if len(graph.numbers) > atoms:
                raise error
            self.sizes.append(len(graph.numbers))
            self.edges.append(graph.edge_index.shape[1])
            return whole(potential, graph, **kwargs)

        monkeypatch.setattr(Potential, "forward", forward)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
def test_out_of_memory_halves_and_goes_on(
    potential: Potential, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    frames = starts(potential, 24)
    wanted = relax(frames, potential, STAGES)
    small = Small(monkeypatch, 40, error)
    told: list[RelaxStatus] = []
    found = relax(frames, potential, STAGES, on_step=told.append)
    np.testing.assert_allclose(found.positions, wanted.positions, atol=1e-7)
    np.testing.assert_array_equal(found.structure["status"], wanted.structure["status"])
    np.testing.assert_array_equal(found.structure["steps"], wanted.structure["steps"])
    assert 1 <= told[-1].batch_halved <= 3
    assert all(a.batch_halved <= b.batch_halved for a, b in pairwise(told))
    # Less than half of what fits would be a waste.
    assert np.median(small.sizes) > 13


def test_one_that_never_fits_leaves_alone(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = starts(potential, 12, n_atoms=(4, 12))
    assert {4, 12} == set(frames.counts.tolist())
    Small(monkeypatch, 8, torch.OutOfMemoryError("out of memory"))
    found = relax(frames, potential, STAGES)
    large = frames.counts == 12
    assert (found.structure["status"][large] == NO_MEMORY).all()
    assert (found.structure["status"][~large] < NO_MEMORY).all()
    assert len(found) == len(frames)
    kept = np.repeat(large, frames.counts)
    np.testing.assert_array_equal(found.positions[kept], frames.positions[kept])


def test_other_errors_are_not_swallowed(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    Small(monkeypatch, 0, RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes"):
        relax(starts(potential, 3), potential, STAGES)


def test_edges_limit_the_batch(potential: Potential, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = starts(potential, 16)
    wanted = relax(frames, potential, STAGES)
    small = Small(monkeypatch, 10_000, MemoryError())
    relax(frames, potential, STAGES)
    assert max(small.edges) > 1000
    small.edges.clear()
    small.sizes.clear()
    found = relax(frames, potential, STAGES, batch_edges=1000)
    np.testing.assert_allclose(found.positions, wanted.positions, atol=1e-7)
    alone = max(frames.counts)
    assert all(e <= 1000 or n <= alone for e, n in zip(small.edges, small.sizes, strict=True))
    assert np.median(small.edges) > 300


def test_measured_memory_sets_the_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grows twofold at most, to 70 % of the memory; shrinks at once; fixed after a halving."""
    used = [0]
    properties = type("Properties", (), {"total_memory": 1_000_000})
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: used[0])
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: properties)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda _device: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    room = Room(0, torch.device("cuda"))
    first = room.atoms
    used[0] = 1000
    room.measure(first)
    assert room.atoms == 2 * first
    used[0] = 700_000
    room.measure(5000)
    assert room.atoms == 5000
    used[0] = 950_000
    room.measure(5000)
    assert room.atoms < 4000
    room.halve(3000)
    assert (room.atoms, room.halved) == (1500, 1)
    used[0] = 1000
    room.measure(1500)
    assert room.atoms == 1500
    assert Room(0, torch.device("cpu")).atoms == 1024
    assert Room(77, torch.device("cuda")).atoms == 77


def test_a_stop_keeps_what_had_finished_before_it_was_set_aside(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Structures leave only when they are a tenth of the batch; till then some may be set aside."""
    frames = starts(potential, 30)
    isolated = frames.select([29])
    isolated.positions[:] = np.arange(len(isolated.positions))[:, None] * [50.0, 0.0, 0.0]
    isolated.cells[:] = 5000 * np.eye(3)
    frames = concatenate([frames.select(range(29)), isolated])
    calls: list[int] = []
    whole = Potential.forward

    def forward(potential: Potential, graph: Graph, **kwargs: Any) -> Prediction:
        calls.append(len(graph.numbers))
        if len(calls) == 5:
            raise MemoryError
        return whole(potential, graph, **kwargs)

    monkeypatch.setattr(Potential, "forward", forward)
    found = relax(
        frames,
        potential,
        (Stage(cell="free", max_steps=500, fmax=1e-9),),
        should_stop=lambda: "time is up" if len(calls) >= 9 else None,
    )
    assert calls[5] < calls[4]
    assert found.structure["index"].tolist() == [29]
