"""Perturbing and scoring end when they are told to; what they have by then is worth nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.job import Job
from tests.engine.program import prepare, results

#: Of a score whose pieces are done by two processes.
TWO = {"processes": 2}


def folder(top: Path, task: str, stable: Frames, settings: dict[str, Any], **run: Any) -> Path:
    """The settings file of a job on many equal structures."""
    file = prepare(top / task, task, settings, **run)
    concatenate([stable] * 600).save(file.parent / files.INPUT_FRAMES)
    return file


@pytest.mark.parametrize(
    ("task", "settings"), [("perturb", {"samples": 2000}), ("score", {"processes": 1})]
)
def test_at_the_walltime(
    tmp_path: Path, diamond_frames: Frames, task: str, settings: dict[str, Any]
) -> None:
    file = folder(tmp_path, task, diamond_frames, settings, walltime_seconds=1e-3)
    assert main([task, str(file)]) == 0
    found = results(file.parent)
    assert (found["status"], found["stop_reason"]) == ("stopped", "walltime")
    assert not (file.parent / files.OUTPUT_FRAMES).exists()


@pytest.mark.parametrize(
    ("task", "settings", "send"),
    [
        ("perturb", {"samples": 1_000_000}, lambda pid: os.kill(pid, signal.SIGINT)),
        ("perturb", {"samples": 1_000_000}, lambda pid: os.kill(pid, signal.SIGTERM)),
        # As from a terminal, and as core.direct does it.
        ("score", TWO, lambda pid: os.killpg(pid, signal.SIGINT)),
        ("score", TWO, lambda pid: os.killpg(pid, signal.SIGTERM)),
    ],
)
def test_at_a_signal(
    tmp_path: Path,
    diamond_frames: Frames,
    task: str,
    settings: dict[str, Any],
    send: Callable[[int], None],
) -> None:
    file = folder(tmp_path, task, diamond_frames, settings)
    command = [sys.executable, "-m", "aiida_rm.engine", task, str(file)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline, lines = time.monotonic() + 120, file.parent / files.METRICS
        while time.monotonic() < deadline and not (lines.exists() and lines.stat().st_size):
            time.sleep(0.05)
        send(process.pid)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
    found = results(file.parent)
    assert (found["status"], found["stop_reason"]) == ("stopped", "signal")
    assert not (file.parent / files.OUTPUT_FRAMES).exists()


def test_work_that_is_done_is_kept(tmp_path: Path, diamond_frames: Frames) -> None:
    """The walltime ends with the last copies."""
    file = prepare(tmp_path / "job", "perturb", {"samples": 20}, walltime_seconds=1e-3)
    diamond_frames.save(file.parent / files.INPUT_FRAMES)
    assert main(["perturb", str(file)]) == 0
    assert results(file.parent)["status"] == "finished"
    assert len(Frames.load(file.parent / files.OUTPUT_FRAMES)) == 20


def test_who_never_asks_does_not_listen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listening: list[str] = []
    monkeypatch.setattr(Job, "listen", lambda job: listening.append(job.task))
    assert main(["doctor", str(prepare(tmp_path / "job", "doctor", {}))]) == 0
    assert listening == []
