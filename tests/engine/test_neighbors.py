"""The neighbour graph against ASE's, for every kind of cell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import neighbor_list
from hypothesis import given, settings
from hypothesis import strategies as st

from aiida_rm.engine import neighbors
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph


def as_frames(*atoms: Atoms) -> Frames:
    return Frames.build(
        [a.numbers for a in atoms],
        [a.positions for a in atoms],
        np.stack([a.cell.array for a in atoms]),
        np.stack([a.pbc for a in atoms]),
    )


def edges_of(frames: Frames, cutoff: float) -> list[set[tuple[int, ...]]]:
    """Edges of each structure as (i, j, rounded vector)."""
    graph = build_graph(frames, cutoff)
    vectors = np.round(graph.edge_vectors().numpy() * 1e6).astype(int)
    owner = graph.batch[graph.edge_index[0]].numpy()
    starts = frames.ptr[owner]
    i, j = graph.edge_index.numpy() - starts
    found: list[set[tuple[int, ...]]] = [set() for _ in range(len(frames))]
    for structure, a, b, vector in zip(owner, i, j, vectors, strict=True):
        found[structure].add((a, b, *vector))
    assert sum(map(len, found)) == len(owner), "an edge stands twice"
    return found


def ase_edges(atoms: Atoms, cutoff: float) -> set[tuple[int, ...]]:
    i, j, vectors = neighbor_list("ijD", atoms, cutoff)
    rounded = np.round(vectors * 1e6).astype(int)
    return {(a, b, *v) for a, b, v in zip(i, j, rounded, strict=True)}


def random_atoms(seed: int, count: int, pbc: object, skew: float) -> Atoms:
    rng = np.random.default_rng(seed)
    cell = np.eye(3) * rng.uniform(1.5, 5, 3) + skew * (rng.random((3, 3)) - 0.5)
    # Positions far outside the cell, too.
    return Atoms(numbers=[6] * count, positions=rng.uniform(-8, 8, (count, 3)), cell=cell, pbc=pbc)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    count=st.integers(1, 6),
    pbc=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    skew=st.floats(0, 1.2),
    cutoff=st.floats(0.5, 5.0),
)
def test_equals_ase(
    seed: int, count: int, pbc: tuple[bool, bool, bool], skew: float, cutoff: float
) -> None:
    atoms = random_atoms(seed, count, pbc, skew)
    assert edges_of(as_frames(atoms), cutoff) == [ase_edges(atoms, cutoff)]


def test_mixed_batch_equals_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    batch = [
        bulk("C", "diamond", a=3.567),
        random_atoms(1, 5, False, 0.0),
        random_atoms(2, 4, True, 1.0),
        Atoms("H"),
        random_atoms(3, 3, [True, False, True], 0.5),
    ]
    wanted = [ase_edges(atoms, 4.0) for atoms in batch]
    assert edges_of(as_frames(*batch), 4.0) == wanted
    monkeypatch.setattr(neighbors, "_CHUNK", 10)
    assert edges_of(as_frames(*batch), 4.0) == wanted


def test_one_atom_cell_sees_all_its_images() -> None:
    atoms = bulk("Cu", "sc", a=1.0)
    graph = build_graph(as_frames(atoms), 3.5)
    assert graph.edge_index.shape[1] == len(ase_edges(atoms, 3.5)) > 100
    assert bool((graph.edge_index == 0).all())


def test_edges_are_sorted_by_centre_and_filtered_by_length() -> None:
    graph = build_graph(as_frames(bulk("C", "diamond", a=3.567, cubic=True)), 5.0)
    assert bool((graph.edge_index[0].diff() >= 0).all())
    near = graph.within(1.6)
    assert near.edge_index.shape[1] == 8 * 4
    assert float(torch.linalg.vector_norm(near.edge_vectors(), dim=1).max()) < 1.6


def test_no_neighbours_at_all() -> None:
    graph = build_graph(as_frames(Atoms("H"), Atoms("He")), 4.0)
    assert graph.edge_index.shape == (2, 0)
    assert graph.n_structures == 2
