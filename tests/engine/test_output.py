"""An output stream that is full or closed stops no work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiida_rm.engine import files
from aiida_rm.engine.errors import DiskError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.output import settle_output
from aiida_rm.engine.parts import Parts
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings
from tests.engine.program import TRAIN, metrics, prepare, results

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full")


@pytest.fixture
def command(tmp_path: Path, diamond_frames: Frames) -> list[str]:
    """A training as a program."""
    file = prepare(tmp_path, "train", TRAIN)
    perturb(diamond_frames, PerturbSettings(samples=40)).save(tmp_path / files.INPUT_FRAMES)
    return [sys.executable, "-m", "aiida_rm.engine", "train", str(file)]


@needs_full
def test_full(command: list[str], tmp_path: Path) -> None:
    with FULL.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert results(tmp_path)["status"] == "finished"
    assert len(metrics(tmp_path)) == 3


def test_closed(command: list[str], tmp_path: Path) -> None:
    """``train | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert results(tmp_path)["status"] == "finished"
    assert len(metrics(tmp_path)) == 3


@needs_full
def test_full_while_parts_are_saved(
    tmp_path: Path, diamond_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a search has finished stays in memory when its disk, and that of its output, is full."""

    def full(*_: object) -> None:
        raise DiskError("full")

    monkeypatch.setattr(Frames, "save", full)
    parts = Parts(tmp_path / "parts", 0.0, lambda frames: frames)
    stream = os.fdopen(os.open(FULL, os.O_WRONLY), "w")
    monkeypatch.setattr(sys, "stdout", stream)
    parts.add(diamond_frames)
    assert len(parts.parts) == 1
    settle_output()
    stream.close()
