"""examples/slurm.py: computer and code from YAML; in the terminal, and through a daemon."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml
from ase.build import bulk

from tests.services.conftest import ROOT

SCRIPTS = Path(sysconfig.get_path("scripts"))
TINY = "--tiny --rounds 1 --starts 4 --walltime 600"
#: The lines marked `# yours`, and what makes a node of this machine one of this checkout.
MINE = {
    "computer.yml": {"hostname": "localhost", "transport": "core.local"},
    "code_venv.yml": {
        "filepath_executable": str(SCRIPTS / "aiida-rm-engine"),
        "prepend_text": f"export OMP_NUM_THREADS=1 PYTHONPATH={ROOT}",
    },
}


@pytest.fixture
def run(tmp_path: Path, services: Any) -> Callable[..., str]:
    """``run("program and its arguments")`` where examples, a dataset and the YAML are."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    files = shutil.copytree(ROOT / "examples" / "clusters" / "slurm", tmp_path / "my-cluster")
    shutil.copy(ROOT / "examples" / "clusters" / "laptop" / "transport.yml", files)
    for name, own in MINE.items():
        told = yaml.safe_load((files / name).read_text()) | own
        if name == "computer.yml":
            told["work_dir"] = str(tmp_path / "jobs")
        (files / name).write_text(yaml.safe_dump(told))
    ase.io.write(tmp_path / "mine.cif", bulk("C", "diamond", a=3.567))
    environment = {**os.environ, "AIIDA_PATH": str(tmp_path / "aiida")}
    (tmp_path / "aiida").mkdir()

    def call(line: str) -> str:
        program, *arguments = line.split()
        told = subprocess.run(
            [SCRIPTS / program, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert told.returncode == 0, told.stdout + told.stderr
        return told.stdout

    return call


@pytest.mark.services("slurm")
def test_in_the_terminal(run: Callable[..., str]) -> None:
    told = run(f"python examples/slurm.py mine.cif --files my-cluster {TINY}")
    assert "$ verdi computer setup" in told
    assert "$ verdi code create core.code.installed" in told
    assert re.search(r"rm.loop <\d+> ended with (0|703)", told)
    assert "generated" in told


@pytest.mark.services("slurm")
def test_through_the_daemon(run: Callable[..., str]) -> None:
    run("verdi presto --use-zeromq")
    run("verdi config set runner.poll.interval 1")
    run("verdi daemon start")
    try:
        line = f"python examples/slurm.py mine.cif --profile presto --files my-cluster {TINY}"
        told = run(f"{line} --submit")
        found = re.search(r"follow it: (aiida-rm status --watch (\d+))", told)
        assert found, told
        assert "ended" in run(found[1])
        assert re.search(r"703|Finished \[0\]", run(f"verdi process show {found[2]}"))
    finally:
        run("verdi daemon stop")
