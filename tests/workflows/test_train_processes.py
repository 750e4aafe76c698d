"""Trainings on two processes through AiiDA, for real: started by the engine, and by a launcher."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from safetensors.numpy import load

from aiida_rm.calculations import base
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.train import TrainWorkChain
from tests.workflows.conftest import TINY

TWO = {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 2}}


@pytest.fixture
def run(engine_code: Any, diamond_frames: Frames) -> Any:
    """``run(options)``: the outputs of a small training, and its node."""

    def train(options: dict[str, Any]) -> tuple[dict[str, Any], orm.WorkChainNode]:
        builder = TrainWorkChain.get_builder_from_protocol(
            engine_code,
            FramesData(diamond_frames),
            overrides={
                "train": {
                    "settings": {
                        **TINY["train"],
                        # one step, so that a walltime ends it once
                        "epochs": 1,
                        "batch_atoms": 1000,
                        "draw": "fresh",
                        "recipe": {**TINY["perturb"], "samples": 8},
                    }
                }
            },
            options=options,
        )
        outputs, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        return outputs, node

    return train


def weights(outputs: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    potential = outputs["potential"]
    return load(potential.base.repository.get_object_content(potential.filename, mode="rb"))


def test_the_engine_starts_two_processes(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without MPI; cut short once on the way, and the same as one process to rounding."""
    one, _ = run({})
    assert one["results"]["summary"]["processes"] == 1
    monkeypatch.setattr(base, "WALLTIME_MARGIN", 1e-9)
    two, node = run({**TWO, "withmpi": False, "max_wallclock_seconds": 600})
    assert two["results"]["summary"]["processes"] == 2
    assert [job.exit_status for job in sorted(node.called, key=lambda j: j.pk)] == [400, 0]
    first, second = weights(one), weights(two)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, rtol=1e-6, atol=1e-9, err_msg=name)


@pytest.mark.slow
def test_a_launcher_starts_two_processes(run: Any, aiida_localhost: Any) -> None:
    """As mpirun would: what the computer says, before the engine's name."""
    before = aiida_localhost.get_mpirun_command()
    torchrun = "-m torch.distributed.run --standalone --nproc-per-node {tot_num_mpiprocs}"
    aiida_localhost.set_mpirun_command([sys.executable, *shlex.split(torchrun), "--no-python"])
    try:
        outputs, _ = run(TWO)
    finally:
        aiida_localhost.set_mpirun_command(before)
    assert outputs["results"]["summary"]["processes"] == 2
