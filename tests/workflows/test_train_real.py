"""A training that the walltime cuts short ends with the potential of one that it does not."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.plugins import CalculationFactory

from aiida_rm.calculations import base
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.train import TrainWorkChain
from tests.services.misfortune import write_engine
from tests.workflows.conftest import TINY

ROOT = Path(__file__).parents[2]


def test_goes_on_after_the_memory_ran_out(
    engine_code: Any, aiida_code_installed: Any, diamond_frames: Frames, tmp_path: Path
) -> None:
    program = write_engine(tmp_path / "engine", {"train": ["out_of_memory"]})
    code = aiida_code_installed(
        label="forgetful",
        filepath_executable=program,
        prepend_text=f"export OMP_NUM_THREADS=1 PYTHONPATH={ROOT}",
    )
    fresh = {"draw": "fresh", "recipe": {**TINY["perturb"], "samples": 8}}
    settings = {**TINY["train"], **fresh, "epochs": 4, "checkpoint_seconds": 0}
    found = []
    for one in (engine_code, code):
        train = {"code": one, "frames": FramesData(diamond_frames), "settings": settings}
        outputs, node = run_get_node(TrainWorkChain, train=train)
        assert node.is_finished_ok, node.exit_message
        found.append(outputs["learning_curves"].get_array("loss"))
    first, second = sorted(
        (one for one in node.called if isinstance(one, orm.CalcJobNode)), key=lambda job: job.pk
    )
    assert (first.exit_status, second.exit_status) == (410, 0)
    assert second.inputs.state.uuid == first.outputs.state.uuid
    assert second.inputs.settings["batch_parts"] == 2
    # The same steps, to rounding.
    np.testing.assert_allclose(found[1], found[0], rtol=1e-9)


def test_restarts_after_the_walltime(
    engine_code: Any, diamond_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = run_get_node(
        CalculationFactory("rm.perturb"),
        code=engine_code,
        frames=FramesData(diamond_frames),
        settings={**TINY["perturb"], "samples": 8},
    )
    # all structures in one batch: a step an epoch
    settings = {**TINY["train"], "epochs": 2, "batch_atoms": 1000}
    train = {"code": engine_code, "frames": made["frames"], "settings": settings}
    whole, node = run_get_node(TrainWorkChain, train=train)
    assert node.is_finished_ok, node.exit_message
    assert len(node.called) == 1

    # The engine hears of a walltime that is over after its first step, however fast it is.
    monkeypatch.setattr(base, "WALLTIME_MARGIN", 1e-9)
    options = {"max_wallclock_seconds": 600}
    parts, node = run_get_node(TrainWorkChain, train={**train, "metadata": {"options": options}})
    assert node.is_finished_ok, node.exit_message
    segments = sorted(node.called, key=lambda job: job.pk)
    assert [segment.exit_status for segment in segments] == [400, 400, 0]
    assert [segment.outputs.state.step for segment in segments[:-1]] == [1, 2]
    for before, after in itertools.pairwise(segments):
        assert after.inputs.state.uuid == before.outputs.state.uuid
    labels = {link.link_label for link in node.base.links.get_outgoing().all()}
    assert {"iteration_01", "iteration_02", "iteration_03"} <= labels
    assert "state" not in parts
    left, right = whole["potential"].base.repository, parts["potential"].base.repository
    assert left.hash() == right.hash()
    losses = [out["learning_curves"].get_array("loss") for out in (whole, parts)]
    assert losses[0].tolist() == losses[1].tolist()
