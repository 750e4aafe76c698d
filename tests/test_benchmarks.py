"""Every benchmark runs with --quick and ends with one line of JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diamond", "generation_speed", "gpu"])
def test_quick_run(name: str, tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / f"{name}.py", "--quick", "--seed", "3", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["benchmark"] == name
    assert figures["seed"] == 3
    assert figures["machine"]["cores"] >= 1
