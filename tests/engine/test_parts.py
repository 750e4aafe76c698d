"""What a search has finished is on the disk while it runs, and survives a kill -9."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.errors import DiskError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.parts import Parts, load_parts
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings
from aiida_rm.engine.training.trainer import Trainer
from tests.disturbance import PENALTY
from tests.engine.program import TRAIN, prepare, results
from tests.jobs import generated

#: One structure after the other: the same bits in any job.
GENERATE = {
    "n_structures": 6,
    "n_atoms": [2],
    "threads": 1,
    "dtype": "float64",
    "batch_atoms": 1,
    "checkpoint_seconds": 0,
    "stages": [{"cell": "shape", "max_steps": 10, "fmax": 1e-6}],
    "penalty": PENALTY,
}


@pytest.fixture(scope="module")
def potential_of_diamond(tmp_path_factory: pytest.TempPathFactory, diamond_frames: Frames) -> Path:
    frames = perturb(diamond_frames, PerturbSettings(samples=6))
    path = tmp_path_factory.mktemp("train") / files.OUTPUT_POTENTIAL
    Trainer(frames, parse_settings(TrainSettings, TRAIN)).run().potential.save(path)
    return path


def search(folder: Path, potential: Path, how: str, **knobs: Any) -> int:
    """Run the engine in a folder with a misfortune; its exit status."""
    told = {"after": 35, "flag": str(folder.parent / "happened"), "how": how}
    settings = {**GENERATE, **knobs, "penalty_arguments": json.dumps(told)}
    file = prepare(folder, "generate", settings, walltime_seconds=1e5)
    shutil.copy(potential, folder / files.INPUT_POTENTIAL)
    command = [sys.executable, "-m", "aiida_rm.engine", "generate", str(file)]
    root = str(Path(__file__).parents[2])
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": root}, check=False).returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, potential_of_diamond: Path) -> Frames:
    """What an undisturbed search makes."""
    top = tmp_path_factory.mktemp("whole")
    (top / "happened").touch()
    assert search(top / "job", potential_of_diamond, "killed") == 0
    assert not (top / "job" / files.FINISHED_FRAMES).exists()
    return Frames.load(top / "job" / files.OUTPUT_FRAMES)


@pytest.mark.parametrize("how", ["killed", "signal", "walltime"])
def test_only_what_is_missing_is_made_again(
    how: str, tmp_path: Path, potential_of_diamond: Path, whole: Frames
) -> None:
    folder = tmp_path / "job"
    status = search(folder, potential_of_diamond, how)
    if how == "killed":
        assert status == -9
        assert not (folder / files.RESULTS).exists()
        first = load_parts(folder / files.FINISHED_FRAMES)
        assert first is not None
    else:
        assert status == 0
        assert results(folder)["stop_reason"] == how
        first = Frames.load(folder / files.OUTPUT_FRAMES)
    there = first.structure["index"].tolist()
    assert 1 <= len(there) < 6
    missing = sorted({*range(6)} - {*there})
    more = {"indices": missing, "n_structures": len(missing)}
    assert search(tmp_path / "more", potential_of_diamond, how, **more) == 0
    second = Frames.load(tmp_path / "more" / files.OUTPUT_FRAMES)
    assert second.structure["index"].tolist() == missing
    for part in (first, second):
        same = whole.select(part.structure["index"])
        for name, array in part.to_arrays().items():
            np.testing.assert_array_equal(array, same.to_arrays()[name], err_msg=name)


def test_a_part_that_cannot_be_read_is_left_out(tmp_path: Path, diamond_frames: Frames) -> None:
    parts = Parts(tmp_path / "parts", 0.0)
    for index in (2, 0, 1):
        parts.add(generated(diamond_frames, first=index))
    (tmp_path / "parts" / "part_000001" / "positions.npy").write_bytes(b"torn")
    (tmp_path / "parts" / "part_000004.tmp").mkdir()
    found = load_parts(tmp_path / "parts")
    assert found is not None
    assert found.structure["index"].tolist() == [0, 1]
    whole = parts.joined()
    assert whole is not None
    assert whole.structure["index"].tolist() == [0, 1, 2]
    assert load_parts(tmp_path / "nothing") is None


def test_a_full_disk_is_no_reason_to_stop(
    tmp_path: Path,
    diamond_frames: Frames,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def save(*_: Any) -> None:
        raise DiskError("no space left")

    monkeypatch.setattr(Frames, "save", save)
    parts = Parts(tmp_path / "parts", 0.0)
    parts.add(generated(diamond_frames))
    assert "not on the disk: no space left" in capsys.readouterr().out
    assert len(parts.parts) == 1


def test_indices_and_their_number_must_agree(tmp_path: Path) -> None:
    file = prepare(tmp_path / "job", "generate", {"indices": [3, 1, 1], "n_structures": 3})
    assert main(["generate", str(file)]) == 1
    assert "'indices' are 2 different ones, but 'n_structures' is 3" in str(
        results(tmp_path / "job")["error"]["message"]
    )
