"""The constants of the elements, which put E~ of stable structures near zero."""

from __future__ import annotations

import numpy as np
import torch

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.data import gauge
from aiida_rm.engine.training.trainer import Trainer


def test_a_rare_element_has_its_constant_too() -> None:
    """It is in one of 200 structures, whose E~ is none of the lowest tenth."""
    torch.set_num_threads(1)
    cell = 4.2 * np.eye(3)
    stable = Frames.build(
        [[9, 54], *([[11, 17]] * 199)], [[[0, 0, 0], [2.1, 2.1, 2.1]]] * 200, cells=[cell] * 200
    )
    frames = perturb(stable, PerturbSettings(samples=200, min_atoms=2))
    energies = frames.structure["energy"].copy()
    energies[0] = energies.max() + 1
    frames = frames.with_labels(structure={"energy": energies})
    settings = TrainSettings(epochs=1, cutoff=3.5, channels=3, radial=4, l_max=2, hidden=(8,))
    trainer = Trainer(frames, settings)
    gauge(trainer.model, trainer.data, np.arange(200), 1000)
    graph = build_graph(stable.select([0]), trainer.model.cutoff, dtype=torch.float32)
    assert abs(float(trainer.model.energies(graph))) < 1e-3
