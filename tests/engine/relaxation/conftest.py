"""A potential to walk on."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.trainer import Trainer


@pytest.fixture(scope="package")
def potential() -> Potential:
    """A rough one: enough of a landscape to walk on."""
    torch.set_num_threads(1)
    atoms = bulk("C", "diamond", a=3.567)
    stable = Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])
    frames = perturb(stable, PerturbSettings(samples=60, min_atoms=16))
    settings = TrainSettings(
        epochs=12, batch_atoms=64, cutoff=3.2, channels=4, radial=4, l_max=2, hidden=(8,), threads=1
    )
    return Trainer(frames, settings).run().potential.double()


@pytest.fixture
def other(potential: Potential) -> Potential:
    """One that differs in every weight."""
    copy = Potential(potential.network.shape, potential.core_scale, potential.core_strength)
    copy.double().load_state_dict(potential.state_dict())
    copy.elements = potential.elements
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in copy.network.parameters():
            weight.add_(
                torch.randn(weight.shape, generator=generator, dtype=weight.dtype), alpha=0.05
            )
    return copy
