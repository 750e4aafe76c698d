"""Molecules in pieces: which atoms hang together, and how two pieces come together."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aiida_rm.engine.elements import RADII
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.relaxation import hop, moves, relax
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.pieces import find_pieces, in_pieces
from aiida_rm.engine.settings import Stage
from tests.engine.relaxation.systems import Formula

HALT = Stage(cell="fixed", max_steps=0)
WATER = np.array([[0.0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]])


def nothing(graph: Graph) -> torch.Tensor:
    energy = 0 * graph.positions.sum(1)
    return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)


def scattered(count: int) -> Frames:
    """Water and CO, 8 Angstrom from each other, the atoms in turns."""
    far = np.array([[8.0, 0, 0], [9.13, 0, 0]])
    places = np.stack([WATER[0], far[0], WATER[1], far[1], WATER[2]])
    turned = [places[:, np.roll(np.arange(3), turn)] for turn in range(count)]
    return Frames.build([[8, 6, 1, 8, 1]] * count, turned)


def gone_through(frames: Frames, monkeypatch: pytest.MonkeyPatch, kinds: tuple[str, ...]) -> list:
    """Places before and after each call of join."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    join = moves.join

    def watched(batch: Batch, which: torch.Tensor, labels: torch.Tensor) -> None:
        before = batch.positions
        join(batch, which, labels)
        if bool(which.any()):
            seen.append((before, batch.positions))

    monkeypatch.setattr(moves, "join", watched)
    stage = Stage(kind="hop", moves=kinds, cell="fixed", max_steps=0, cycles=1, amplitude=0.1)
    relax(frames, Formula(nothing), (stage, HALT))
    return seen


def test_pieces_come_together_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    ((before, after),) = gone_through(scattered(30), monkeypatch, ("join",))
    pieces = ([0, 2, 4], [1, 3])
    numbers = [8, 6, 1, 8, 1]
    for old, new in zip(before.reshape(30, 5, 3), after.reshape(30, 5, 3), strict=True):
        for piece in pieces:
            torch.testing.assert_close(torch.pdist(new[piece]), torch.pdist(old[piece]))
        # One piece stays where it was.
        stayed = [torch.equal(new[piece], old[piece]) for piece in pieces]
        assert sorted(stayed) == [False, True]
        between = torch.cdist(new[pieces[0]], new[pieces[1]])
        sums = torch.tensor(
            [[RADII[numbers[a]] + RADII[numbers[b]] for b in pieces[1]] for a in pieces[0]]
        )
        assert bool(torch.isclose(between, sums.to(between), atol=1e-4).any())
        # The direction with most room: nothing overlaps.
        assert float(between.min()) > 0.6


def test_one_piece_and_crystals_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Frames.build([[8, 1, 1]] * 3, [WATER] * 3)
    assert not gone_through(whole, monkeypatch, ("join",))
    boxed = Frames.build([[8, 6]] * 2, [[[0, 0, 0], [4, 0, 0]]] * 2, [np.eye(3) * 8] * 2)
    assert not gone_through(boxed, monkeypatch, ("join",))
    assert gone_through(scattered(40), monkeypatch, ("jitter", "join"))


def test_what_hangs_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """A long chain whose atoms are out of order is one piece; a gap makes two."""
    seen = []
    end_cycle = hop.end_cycle

    def watched(batch, ended, field, schedule):
        labels = find_pieces(batch, torch.ones_like(ended))
        seen.append((labels, in_pieces(batch, torch.ones_like(ended), labels)))
        return end_cycle(batch, ended, field, schedule)

    monkeypatch.setattr(hop, "end_cycle", watched)
    order = np.random.default_rng(0).permutation(40)
    chain = np.zeros((40, 3))
    chain[order, 0] = 1.5 * np.arange(40)
    broken = chain.copy()
    broken[broken[:, 0] > 30, 1] += 4
    frames = Frames.build([[6] * 40] * 2, [chain, broken])
    stage = Stage(kind="hop", moves=("jitter",), cell="fixed", max_steps=0, cycles=0)
    relax(frames, Formula(nothing), (stage, HALT))
    labels, torn = seen[0]
    assert torn.tolist() == [False, True]
    assert len(set(labels[:40].tolist())) == 1
    right = torch.as_tensor(broken[:, 1] > 0)
    assert len(set(labels[40:][right].tolist())) == len(set(labels[40:][~right].tolist())) == 1


def torn_is_lower(graph: Graph) -> torch.Tensor:
    """Of two atoms: flat, but for a step down where they are more than 4 Angstrom apart."""
    gaps = graph.positions[::2] - graph.positions[1::2]
    return 0 * gaps.sum(1) - 1.0 * (torch.linalg.vector_norm(gaps, dim=1) > 4)


def test_one_piece_is_preferred_where_it_is_asked_for() -> None:
    pairs = Frames.build([[8, 6]] * 20, [[[0, 0, 0], [1.13, 0, 0]]] * 20)
    ended = {}
    for connected in (False, True):
        hops = Stage(
            kind="hop", cell="fixed", max_steps=0, cycles=30, amplitude=4.0, connected=connected
        )
        found = relax(pairs, Formula(torn_is_lower), (hops, HALT))
        gaps = np.linalg.norm(found.positions[::2] - found.positions[1::2], axis=1)
        ended[connected] = gaps
        # What is labelled is E~ itself.
        np.testing.assert_array_equal(found.structure["energy"], -1.0 * (gaps > 4))
    assert (ended[False] > 4).mean() > 0.8
    assert (ended[True] < 1.3 * (RADII[8] + RADII[6])).all()


def test_pieces_may_be_all_there_is() -> None:
    """Nothing in one piece is met: the lowest in pieces is kept."""
    apart = Frames.build([[8, 6]] * 5, [[[0, 0, 0], [3.0, 0, 0]]] * 5)
    hops = Stage(kind="hop", cell="fixed", max_steps=0, cycles=3, amplitude=0.3, connected=True)
    found = relax(apart, Formula(torn_is_lower), (hops, HALT))
    assert (found.structure["status"] != 2).all()
