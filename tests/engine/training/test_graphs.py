"""Neighbours of single structures that are kept or sent."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.training.graphs import (
    find_neighbours,
    join_neighbours,
    pack_neighbours,
    unpack_neighbours,
)

CPU = torch.device("cpu")


def unwrapped(cells_away: int) -> Frames:
    """A plain crystal, and one of which an atom is written that many cells away."""
    places = [[[0, 0, 0], [1.4 + 3.0 * far, 0, 0]] for far in (0, cells_away)]
    return Frames.build([[6, 6]] * 2, places, cells=[3.0 * np.eye(3)] * 2)


@pytest.mark.parametrize("cells_away", [127, -128, 200, 70_000])
def test_atoms_may_be_written_many_cells_apart(cells_away: int) -> None:
    frames = unwrapped(cells_away)
    wanted = build_graph(frames, 4.5).edge_vectors()
    neighbours = find_neighbours(frames, 4.5, CPU)
    for some in (neighbours, unpack_neighbours(pack_neighbours(neighbours), CPU)):
        found = join_neighbours(frames, some, torch.float64, CPU).edge_vectors()
        assert torch.equal(found, wanted)
    assert float(wanted.norm(dim=1).max()) < 4.5
    # Side by side with such that were found earlier.
    plain = find_neighbours(frames.select([0]), 4.5, CPU)
    mixed = join_neighbours(frames, [plain[0], neighbours[1]], torch.float64, CPU)
    assert torch.equal(mixed.edge_vectors(), wanted)


def test_coordinates_beyond_all_reason_are_refused() -> None:
    with pytest.raises(FramesError, match="wrap the atoms"):
        find_neighbours(unwrapped(10_000_000), 4.5, CPU)
