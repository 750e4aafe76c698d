"""What rm.train does about each end of a job, without running one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common import AttributeDict
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from plumpy import ProcessState

from aiida_rm.data.frames import FramesData
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine.frames import Frames
from aiida_rm.monitors import UNUSED
from aiida_rm.workflows.functions import with_more_workers
from aiida_rm.workflows.train import TrainWorkChain
from tests.conftest import STATE_HEADER
from tests.jobs import job_node, perturbed


@pytest.fixture
def chain(diamond_frames: Frames, aiida_code_installed: Any) -> Any:
    """A work chain that has just begun."""
    code = aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")
    train = {"code": code, "frames": FramesData(perturbed(diamond_frames)), "settings": {"seed": 3}}
    runner = get_manager().get_runner()
    process = instantiate_process(runner, TrainWorkChain, train=train, max_iterations=orm.Int(3))
    process.setup()
    return process


@pytest.fixture
def state_at(tmp_path: Path, write_safetensors: Any) -> Any:
    """``state_at(step)``: a training state."""

    def make(step: int) -> TrainingStateData:
        header = {**STATE_HEADER, "step": step}
        return TrainingStateData(write_safetensors(tmp_path / f"state_{step}.safetensors", header))

    return make


@pytest.fixture
def inspect(chain: Any, aiida_localhost: Any, tmp_path: Path) -> Any:
    """``inspect(status, state)``: let the chain look at a job that ended so."""
    retrieved = tmp_path / "retrieved"
    retrieved.mkdir()
    (retrieved / "nothing").write_text("")

    def make(status: int, state: Any = None, message: str = "as the parser said") -> Any:
        inputs = {"frames": chain.ctx.inputs.frames, "settings": chain.ctx.inputs.settings}
        node = job_node("train", aiida_localhost, inputs, retrieved)
        if state is not None:
            state.base.links.add_incoming(node, link_type=LinkType.CREATE, link_label="state")
            state.store()
        node.set_process_state(ProcessState.FINISHED)
        node.set_exit_status(status)
        node.set_exit_message(message)
        chain.ctx.iteration += 1
        chain.ctx.setdefault("children", []).append(node)
        return chain.inspect_process()

    return make


@pytest.mark.parametrize("status", [400, 403, 404])
def test_cut_short_goes_on_from_the_state(
    chain: Any, inspect: Any, state_at: Any, status: int
) -> None:
    state = state_at(100)
    code = inspect(status, state)
    assert code.status == 0
    assert chain.should_run_process()
    assert chain.ctx.inputs.state.uuid == state.uuid
    assert chain.ctx.iteration == 0


def test_good_segments_do_not_count(chain: Any, inspect: Any, state_at: Any) -> None:
    for step in range(1, 7):  # twice max_iterations
        assert inspect(400, state_at(step)).status == 0
    assert len(chain.ctx.segments) == 6
    assert chain.ctx.iteration == 0
    assert inspect(0) is None
    assert chain.ctx.is_finished


def test_no_progress_stops_and_keeps_the_state(chain: Any, inspect: Any, state_at: Any) -> None:
    inspect(400, state_at(100))
    code = inspect(400, state_at(100))
    assert code.status == 310
    assert "step, 100" in code.message
    assert chain.outputs["state"].step == 100


@pytest.mark.parametrize("ends", [[120], [307, 307]])
def test_no_state_at_all_stops(chain: Any, inspect: Any, state_at: Any, ends: list[int]) -> None:
    """A state that was written and is not whole may be so the next time."""
    inspect(400, state_at(7))
    *before, last = ends
    assert [inspect(status).status for status in before] == [0 for _ in before]
    assert chain.ctx.inputs.state.step == 7
    code = inspect(last)
    assert code.status == 310
    # what the segment before had reached is not lost
    assert chain.outputs["state"].step == 7


def test_out_of_memory_doubles_the_parts(chain: Any, inspect: Any, state_at: Any) -> None:
    inspect(400, state_at(100))
    assert inspect(410, state_at(120)).status == 0
    settings = chain.ctx.inputs.settings
    assert settings.get_dict() == {"seed": 3, "batch_parts": 2}
    assert settings.creator.process_label == "with_twice_the_parts"
    assert chain.ctx.inputs.state.step == 120  # the steps are the same, so it may go on
    assert chain.ctx.iteration == 1
    assert inspect(410).status == 0
    assert chain.ctx.inputs.settings["batch_parts"] == 4
    assert chain.ctx.inputs.state.step == 120


def test_out_of_memory_with_the_smallest_parts(chain: Any, inspect: Any) -> None:
    chain.ctx.inputs.settings = orm.Dict({"batch_atoms": 4, "batch_parts": 4}).store()
    code = inspect(410)
    assert code.status == 313
    assert "batch_atoms" in code.message


def test_divergence_halves_the_learning_rate_twice(chain: Any, inspect: Any) -> None:
    assert inspect(411).status == 0
    assert chain.ctx.inputs.settings["learning_rate"] == pytest.approx(5e-3)
    assert inspect(411).status == 0
    assert chain.ctx.inputs.settings["learning_rate"] == pytest.approx(2.5e-3)
    assert chain.ctx.inputs.settings.creator.process_label == "with_half_learning_rate"
    assert inspect(411).status == 312


@pytest.mark.parametrize("status", [103, 140, 303, 305])
def test_bad_luck_is_tried_once_more(chain: Any, inspect: Any, status: int) -> None:
    assert inspect(status).status == 0
    assert chain.should_run_process()
    code = inspect(status)
    assert code.status == 311
    assert f"[{status}] as the parser said" in code.message


def test_bad_luck_may_come_again_after_progress(chain: Any, inspect: Any, state_at: Any) -> None:
    """A training of weeks loses more than one node before a checkpoint."""
    for step in (10, 20):
        assert inspect(140).status == 0
        assert inspect(400, state_at(step)).status == 0
    assert chain.should_run_process()
    assert chain.ctx.inputs.state.step == 20


@pytest.mark.parametrize("status", [102, 201, 202, 203, 204, 306])
def test_the_hopeless_is_handed_on(inspect: Any, status: int) -> None:
    code = inspect(status)
    assert code.status == 311
    assert f"[{status}] as the parser said" in code.message


def test_restarts_are_bounded(chain: Any, inspect: Any) -> None:
    for _ in range(2):
        assert inspect(410).status == 0
    code = inspect(410)
    assert code.status == 313  # not AiiDA's 401, which says nothing of memory
    assert "as the parser said" in code.message


UNUSED_GPU = f"{UNUSED} 99% of the time, for 3 epochs"


def test_a_gpu_that_goes_on_waiting_is_left_to_it(chain: Any, inspect: Any, state_at: Any) -> None:
    kinds = ("silent", "gpu_unused")
    chain.ctx.inputs.monitors = AttributeDict(
        {kind: orm.Dict({"entry_point": f"rm.{kind}"}).store() for kind in kinds}
    )
    for count, workers in enumerate((2, 4, 4), 1):
        assert inspect(150, state_at(count), message=UNUSED_GPU).status == 0
        assert chain.ctx.inputs.settings["workers"] == workers
        assert chain.ctx.inputs.state.step == count
        assert ("gpu_unused" in chain.ctx.inputs.monitors) == (count < 3)
    assert set(chain.ctx.inputs.monitors) == {"silent"}
    assert chain.ctx.iteration == 0  # none of them counts


def test_a_waiting_gpu_without_a_state_begins_again(chain: Any, inspect: Any) -> None:
    assert inspect(150, message=UNUSED_GPU).status == 0
    assert "state" not in chain.ctx.inputs
    assert chain.ctx.inputs.settings["workers"] == 2


@pytest.mark.parametrize(("workers", "then"), [(0, 2), (1, 2), (200, 256), (256, 256)])
def test_more_workers(aiida_profile: Any, workers: int, then: int) -> None:
    assert with_more_workers(orm.Dict({"workers": workers}))["workers"] == then


def test_success(chain: Any, inspect: Any) -> None:
    assert inspect(0) is None
    assert not chain.should_run_process()
