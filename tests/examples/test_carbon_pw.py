"""The study with Quantum ESPRESSO, from the command line, at its smallest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CARBON = Path("/usr/share/espresso/pseudo/C.pbe-rrkjus.UPF")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    shutil.which("pw.x") is None or not CARBON.is_file(),
    reason="pw.x or its pseudopotentials are not installed; run tools/install_qe.sh",
)
def test_one_round_with_pw(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    options = "--rounds 1 --best 3 --starts 100 --atoms 4 --above 2 --seed 0"
    cutoffs = ["--upf", str(CARBON), "--ecutwfc", "30", "--ecutrho", "240"]
    run = subprocess.run(
        [sys.executable, "examples/carbon_pw.py", *cutoffs, *options.split()],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "ended with 0" in run.stdout
    assert "round_01: by energy above diamond" in run.stdout
    assert "converged" in run.stdout


def test_it_says_what_is_missing(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "carbon_pw.py"), "--upf", str(tmp_path / "C.UPF")]
    run = subprocess.run(
        [*command, "--ecutwfc", "30", "--ecutrho", "240"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "carbon_pw.py: " in run.stderr
    assert "Traceback" not in run.stderr
