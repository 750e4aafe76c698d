"""What ends a job early, on a real transport."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.schedulers import JobState

from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine import files
from aiida_rm.monitors import EXPLODING, SILENT, UNUSED, ended_by, exploding, gpu_unused, silent
from tests.conftest import STATE_HEADER

GOOD = {"epoch": 1, "loss": 0.5, "validation_loss": 0.4, "force_error": 0.2}


@pytest.fixture
def look(aiida_localhost: orm.Computer, tmp_path: Path) -> Any:
    """``look(monitor)``: what it says of a job that runs in ``tmp_path``."""

    def run(
        monitor: Any, state: JobState = JobState.RUNNING, begun: Any = None, **kwargs: Any
    ) -> str | None:
        node = orm.CalcJobNode(computer=aiida_localhost)
        if begun is not None:
            node.base.links.add_incoming(begun, LinkType.INPUT_CALC, "state")
        node.set_remote_workdir(str(tmp_path))
        node.set_scheduler_state(state)
        with aiida_localhost.get_transport() as transport:
            message: str | None = monitor(node, transport, **kwargs)
        return message

    return run


def write(folder: Path, *rows: Any, end: str = "\n") -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / files.METRICS).write_text("\n".join(lines) + end)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**GOOD, "loss": None}, "'loss' is no number in the last of 2 epochs"),
        (
            {**GOOD, "validation_loss": None},
            "'validation_loss' is no number in the last of 2 epochs",
        ),
        ({**GOOD, "force_error": 3e4}, "'force_error' is 3e+04 now, and was 0.2"),
        ('{"epoch": 1, "loss": NaN}', "'loss' is no number in the last of 2 epochs"),
        (f'{{"loss": {"9" * 5000}}}', "'loss' is no number in the last of 2 epochs"),
        ('{"epoch": 1, "loss": 1e999}', "'loss' is no number in the last of 2 epochs"),
    ],
)
def test_exploding(row: Any, says: str, look: Any, tmp_path: Path) -> None:
    write(tmp_path, GOOD, row)
    assert look(exploding) == f"{EXPLODING}: {says}"
    assert look(exploding, factor=0) is None
    assert look(exploding, JobState.DONE) is None
    write(tmp_path, row, GOOD)
    assert look(exploding) is None


def test_how_much_worse(look: Any, tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "loss": 1e5}, *[GOOD] * 1000, {**GOOD, "loss": 400})
    assert look(exploding) is None
    assert "'loss' is 400 now, and was 0.5" in look(exploding, factor=500)
    (tmp_path / files.RESULTS).write_text("{}")
    assert look(exploding, factor=500) is None  # it is over


@pytest.mark.parametrize(
    "row",
    ["{", "[" * 99999, "[1]", '{"loss": "much"}', '{"loss": true}', "\0", "", '{"loss": 1'],
)
def test_what_a_job_writes_is_not_trusted(row: str, look: Any, tmp_path: Path) -> None:
    write(tmp_path, row)
    assert look(exploding) is None
    write(tmp_path, GOOD, json.dumps({**GOOD, "loss": 1e9}), end="")  # not whole yet
    assert look(exploding) is None


def test_no_files_no_complaint(look: Any, tmp_path: Path) -> None:
    assert look(exploding) is None
    assert look(silent) is None
    os.mkfifo(tmp_path / files.METRICS)  # it would be read for ever
    assert look(exploding) is None


def test_gpu_unused(look: Any, tmp_path: Path) -> None:
    waits = {**GOOD, "gpu": 1.0, "waiting": 0.95}
    works = {**waits, "waiting": 0.5}

    def write(folder: Path, *rows: dict[str, Any]) -> None:
        numbered = [{**row, "epoch": number} for number, row in enumerate(rows, 1)]
        (folder / files.METRICS).write_text("".join(json.dumps(row) + "\n" for row in numbered))

    write(tmp_path, works, *[waits] * 3)
    assert look(gpu_unused) == f"{UNUSED} 95% of the time, for 3 epochs"
    assert look(gpu_unused, share=0.96) is None
    assert look(gpu_unused, share=0) is None
    assert look(gpu_unused, epochs=4) is None
    for rows in (
        [waits] * 3,  # the first one does not count
        [works, waits, works, waits],
        [works, *[{**waits, "gpu": 0.0}] * 3],
        [works, *[{**waits, "waiting": None}] * 3],
        [works, *[GOOD] * 3],
        [],
    ):
        write(tmp_path, *rows)
        assert look(gpu_unused) is None
    (tmp_path / files.METRICS).unlink()
    assert look(gpu_unused) is None


def test_gpu_unused_before_a_resume(look: Any, tmp_path: Path, write_safetensors: Any) -> None:
    """The epochs that came with the state are those of the job that was ended for them."""
    header = {**STATE_HEADER, "epoch": 5}
    state = TrainingStateData(write_safetensors(tmp_path / "state.safetensors", header)).store()
    row = {**GOOD, "gpu": 1.0, "waiting": 0.95}
    write(tmp_path, *[{**row, "epoch": number} for number in range(1, 9)])
    assert look(gpu_unused)
    assert look(gpu_unused, begun=state) is None  # 7 and 8 are too few
    write(tmp_path, *[{**row, "epoch": number} for number in range(1, 10)])
    assert look(gpu_unused, begun=state) == f"{UNUSED} 95% of the time, for 3 epochs"
    assert look(gpu_unused, begun=state, epochs=0) == f"{UNUSED} 95% of the time, for 1 epochs"


def test_silent(look: Any, tmp_path: Path) -> None:
    for name in (files.STDOUT, files.METRICS):
        (tmp_path / name).write_text("")
    assert look(silent, seconds=60) is None
    for name, age in ((files.STDOUT, 4000), (files.METRICS, 5000)):
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    assert look(silent).startswith(f"{SILENT} for ")
    assert look(silent, JobState.QUEUED) is None
    assert look(silent, seconds=4500) is None
    assert look(silent, seconds=0) is None


def test_told_apart(aiida_localhost: orm.Computer) -> None:
    node = orm.CalcJobNode(computer=aiida_localhost)
    node.set_exit_message(f"{SILENT} for ever")
    node.set_exit_status(404)
    assert not ended_by(node, SILENT)
    node.set_exit_status(150)
    assert ended_by(node, SILENT)
    assert not ended_by(node, EXPLODING)
