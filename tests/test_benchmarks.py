"""Every benchmark runs with --quick and ends with one line of JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


#: These take real data from the folder that AIIDA_RM_DATA names.
WITH_DATA = ["csp", "dataset_reading", "energy", "qm7b", "qm7b_referee", "scoring", "starts"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "committee",
        "compilation",
        "diamond",
        "generation_scaling",
        "generation_speed",
        "gpu",
        "scale",
        "stages",
        "training_quality",
        "training_speed",
        *WITH_DATA,
    ],
)
def test_quick_run(name: str, tmp_path: Path) -> None:
    if name in WITH_DATA and not os.environ.get("AIIDA_RM_DATA"):
        pytest.skip("AIIDA_RM_DATA names no folder of data")
    if name == "csp":
        pytest.importorskip("pyxtal", reason="starts with a space group need pyxtal")
    if name in ("qm7b", "qm7b_referee", "scoring"):
        pytest.importorskip("posebusters", reason="molecules are judged by rdkit and posebusters")
    if name == "qm7b_referee":
        pytest.importorskip("tblite", reason="molecules are relaxed by tblite")
    command = [sys.executable, FOLDER / f"{name}.py", "--quick", "--seed", "3", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["benchmark"] == name
    assert figures["seed"] == 3
    assert figures["machine"]["cores"] >= 1
