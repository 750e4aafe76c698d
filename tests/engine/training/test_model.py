"""The model that a training begins with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.data import evenly
from aiida_rm.engine.training.trainer import Trainer

SETTINGS = TrainSettings(
    epochs=1, cutoff=3.5, channels=3, radial=4, l_max=2, hidden=(8,), features=8, threads=1
)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def atoms_and_crystal(kinds: str) -> Frames:
    """Copies of lone carbon atoms ('a') and diamond ('d'), in this order."""
    diamond = bulk("C", "diamond", a=3.567)
    bare = {"a": (np.zeros((1, 3)), np.zeros((3, 3))), "d": (diamond.positions, diamond.cell.array)}
    stable = Frames.build(
        [np.full(len(bare[kind][0]), 6) for kind in kinds],
        [bare[kind][0] for kind in kinds],
        cells=[bare[kind][1] for kind in kinds],
        pbc=[[kind == "d"] * 3 for kind in kinds],
    )
    return perturb(stable, PerturbSettings(samples=300 * len(kinds), min_atoms=2))


def scale(frames: Frames, architecture: Any) -> float:
    network = Trainer(frames, replace(SETTINGS, architecture=architecture)).model.network
    tensors = dict(network.named_buffers())
    return float(tensors.get("density_scale", tensors.get("messages.0.message_scale")))


@pytest.mark.parametrize("architecture", ["local", "equivariant"])
def test_lone_atoms_at_the_beginning_do_not_set_the_scale(architecture: str) -> None:
    """They made it a million, and the first step diverged."""
    wanted = scale(atoms_and_crystal("d"), architecture)
    for kinds in ("ad", "da"):
        assert scale(atoms_and_crystal(kinds), architecture) == pytest.approx(wanted, rel=0.1)
    assert scale(atoms_and_crystal("a"), architecture) == 1.0


def test_rows_are_spread_over_the_set() -> None:
    rows = np.arange(10, 1010)
    np.testing.assert_array_equal(evenly(rows, 4), [10, 343, 676, 1009])
    np.testing.assert_array_equal(evenly(rows, 2000), rows)
    assert len(evenly(rows[:0], 4)) == 0
