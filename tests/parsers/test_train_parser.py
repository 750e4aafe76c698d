"""Parser of train: a potential, learning curves, and a state when it was cut short."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import write_safetensors
from tests.conftest import STATE_HEADER
from tests.jobs import failed, perturbed, results, write_results


@pytest.fixture
def job(make_job: Any, diamond_frames: Frames) -> Any:
    made = make_job("train", {"frames": FramesData(perturbed(diamond_frames))})
    metrics = b'{"epoch": 1, "loss": 2.0}\n{"epoch": 2, "loss": 1.0}\n{"epo'
    (made.retrieved / files.METRICS).write_bytes(metrics)
    return made


def test_finished(job: Any, potential_file: Path, state_file: Path) -> None:
    write_results(job.retrieved, results("train"))
    shutil.copy(potential_file, job.temporary / files.OUTPUT_POTENTIAL)
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse()
    assert code.status == 0
    # a state is there only when there is something to go on with
    assert sorted(outputs) == ["learning_curves", "potential", "results"]
    assert outputs["learning_curves"].get_array("loss").tolist() == [2.0, 1.0]
    assert outputs["potential"].elements == ["C"]


@pytest.mark.parametrize("damaged", [False, True])
def test_validation_comes_back_when_it_is_whole(
    job: Any, potential_file: Path, diamond_frames: Frames, damaged: bool
) -> None:
    write_results(job.retrieved, results("train"))
    shutil.copy(potential_file, job.temporary / files.OUTPUT_POTENTIAL)
    folder = perturbed(diamond_frames).save(job.temporary / files.OUTPUT_FRAMES)
    if damaged:
        (folder / "positions.npy").write_bytes(b"no array")
    outputs, code = job.parse()
    assert code.status == 0
    assert ("validation" in outputs) is not damaged


@pytest.mark.parametrize(("reason", "status"), [("walltime", 400), ("signal", 403)])
def test_stopped_with_a_state(job: Any, state_file: Path, reason: str, status: int) -> None:
    write_results(job.retrieved, results("train", status="stopped", stop_reason=reason))
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse()
    assert code.status == status
    assert "epoch 12, step 3400" in code.message
    assert not code.invalidates_cache
    assert outputs["state"].step == 3400


def test_stopped_for_a_reason_that_is_not_told(job: Any, state_file: Path) -> None:
    said = results("train", status="stopped")
    del said["stop_reason"]
    write_results(job.retrieved, said)
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    assert job.parse()[1].status == 400


def test_stopped_without_a_state(job: Any) -> None:
    write_results(job.retrieved, results("train", status="stopped", stop_reason="walltime"))
    outputs, code = job.parse()
    assert code.status == 307
    assert code.invalidates_cache
    assert "learning_curves" in outputs


@pytest.mark.parametrize("verdict", [None, 120, 140])
def test_killed_with_a_state(job: Any, state_file: Path, verdict: int | None) -> None:
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse(exit_status=verdict)
    assert code.status == 404
    assert sorted(outputs) == ["learning_curves", "state"]


def test_killed_while_the_state_was_written(job: Any, state_file: Path) -> None:
    content = state_file.read_bytes()
    (job.temporary / files.OUTPUT_STATE).write_bytes(content[: len(content) // 2])
    outputs, code = job.parse(exit_status=120)
    assert code is None  # the scheduler's own code is the better one
    assert list(outputs) == ["learning_curves"]


@pytest.mark.parametrize("damage", ["absent", "truncated", "flipped"])
def test_a_damaged_state_gives_way_to_the_one_before(
    job: Any, sealed_states: tuple[bytes, bytes], damage: str
) -> None:
    before, last = sealed_states
    flipped = bytearray(last)
    flipped[-3] ^= 4
    content = {"truncated": last[:-7], "flipped": bytes(flipped)}
    if damage in content:
        (job.temporary / files.OUTPUT_STATE).write_bytes(content[damage])
    (job.temporary / files.PREVIOUS_STATE).write_bytes(before)
    outputs, code = job.parse()
    assert code.status == 404
    assert outputs["state"].step == 1
    assert outputs["state"].filename == files.OUTPUT_STATE


@pytest.fixture
def sealed_states(tmp_path: Path) -> tuple[bytes, bytes]:
    """Two states as the engine writes them, one after the other."""
    paths = [tmp_path / files.PREVIOUS_STATE, tmp_path / files.OUTPUT_STATE]
    for step in (1, 2):
        header = {**STATE_HEADER, "step": step}
        write_safetensors(paths[1], {"weights": torch.ones(step)}, header, paths[0])
    return paths[0].read_bytes(), paths[1].read_bytes()


def test_a_full_disk_keeps_the_state(job: Any, state_file: Path) -> None:
    write_results(job.retrieved, failed("train", "disk"))
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse()
    assert code.status == 306
    assert "state" in outputs


def test_out_of_memory_keeps_the_state(job: Any, state_file: Path) -> None:
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse(exit_status=110)
    assert code.status == 410
    assert "state" in outputs


def test_diverged_keeps_the_state(job: Any, state_file: Path) -> None:
    write_results(job.retrieved, failed("train", "diverged"))
    shutil.copy(state_file, job.temporary / files.OUTPUT_STATE)
    outputs, code = job.parse()
    assert code.status == 411
    assert "state" in outputs


@pytest.mark.parametrize("content", [None, b"", b"\x80\x04pickle", b"PK\x03\x04", b"x" * 1000])
def test_a_potential_that_is_none(job: Any, content: bytes | None) -> None:
    write_results(job.retrieved, results("train"))
    if content is not None:
        (job.temporary / files.OUTPUT_POTENTIAL).write_bytes(content)
    outputs, code = job.parse()
    assert code.status == 305
    assert sorted(outputs) == ["learning_curves", "results"]


def test_a_state_under_the_name_of_the_potential(job: Any, state_file: Path) -> None:
    write_results(job.retrieved, results("train"))
    shutil.copy(state_file, job.temporary / files.OUTPUT_POTENTIAL)
    _, code = job.parse()
    assert code.status == 305
    assert "training_state" in code.message


def test_unreadable_results_do_not_lose_the_potential(job: Any, potential_file: Path) -> None:
    write_results(job.retrieved, b'{"schema": 1, "ta')
    shutil.copy(potential_file, job.temporary / files.OUTPUT_POTENTIAL)
    outputs, code = job.parse()
    assert code.status == 303
    assert "potential" in outputs
