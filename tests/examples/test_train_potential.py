"""The example that trains a potential: what is held out, and mistakes told in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aiida_rm.engine.frames import Frames

FOLDER = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(FOLDER))
import train_potential  # noqa: E402


def test_what_is_held_out_is_always_the_same() -> None:
    frames = Frames.build([[6]] * 20, np.arange(60.0).reshape(20, 1, 3))
    rest = train_potential.without_some(frames, 5)
    assert len(rest) == 15
    assert rest.positions[:, 0].tolist() == sorted(rest.positions[:, 0])
    again = train_potential.without_some(frames, 5)
    np.testing.assert_array_equal(rest.positions, again.positions)
    assert len(train_potential.without_some(frames, 0)) == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hold-out", "1"], "--hold-out is 1; it must be from 0 to 0"),
        (["--train", "{"], "--train is not JSON"),
        (["--train", '{"chanels": 3}'], "chanels"),
        (["nowhere.extxyz"], "nowhere.extxyz"),
    ],
)
def test_mistakes(arguments: list[str], message: str, tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "train_potential.py", "out.safetensors", *arguments]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert message in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
