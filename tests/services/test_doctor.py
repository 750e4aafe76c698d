"""aiida-rm doctor with the ready YAML: a scheduler that counts GPUs, and ssh; without a daemon."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from aiida import orm
from click.testing import CliRunner

from aiida_rm.cli import aiida_rm as program
from tests.examples.test_clusters import FOLDER, INSTALLED, create, set_up
from tests.services.conftest import ROOT, lives, until
from tests.workflows.conftest import engine_path

LOGIN = "login.cluster.example"
CODE = {
    "/home/me/venvs/aiida-rm/bin/aiida-rm-engine": engine_path(),
    "# module load python/3.12": f"export PYTHONPATH={ROOT}",
}


def examine(code: str, *arguments: str) -> dict[str, dict[str, str]]:
    result = CliRunner().invoke(program, ["doctor", code, "--json", *arguments])
    report = json.loads(result.stdout)
    assert report["well"] is (result.exit_code == 0)
    return {check["name"]: check for check in report["checks"]}


def to_mend(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: check for name, check in found.items() if check["status"] == "mend"}


def code_of(folder: Path, transport: str, changes: Mapping[str, Mapping[str, str]]) -> str:
    """Set up the files of examples/clusters/slurm with a user's own lines; the code's label."""
    shutil.copytree(FOLDER / "slurm", folder)
    for name, own in changes.items():
        text = (folder / name).read_text()
        for example, mine in own.items():
            assert example in text
            text = text.replace(example, mine)
        (folder / name).write_text(text)
    set_up(folder, transport)
    return str(create(INSTALLED, folder / "code_venv.yml").full_label)


@pytest.mark.services("slurm")
def test_slurm(aiida_profile_clean: Any, tmp_path: Path) -> None:
    """A GPU that the scheduler grants and torch does not see is to mend."""
    changes = {
        "computer.yml": {
            LOGIN: "localhost",
            "core.ssh_async": "core.local",
            "/scratch/{username}/aiida": str(tmp_path / "jobs"),
        },
        "transport.yml": {
            f"host: {LOGIN}": "",
            "max_io_allowed: 8": "",
            "authentication_script: None": "",
            "backend: asyncssh": "",
            "interval: 15": "interval: 0",
        },
        "code_venv.yml": CODE,
    }
    code = code_of(tmp_path / "slurm", "core.local", changes)
    found = examine(code)
    assert to_mend(found) == {}
    assert "core.slurm" in found["computer"]["found"]
    asked = examine(code, "--gpus", "1")
    if not torch.cuda.is_available():
        assert list(to_mend(asked)) == ["GPUs"]
        assert "none, 1 asked for" in asked["GPUs"]["found"]
    refused = examine(code, "--queue", "nowhere")
    assert "invalid partition" in refused["job"]["found"].lower()


@pytest.mark.services("sshd")
def test_ssh(aiida_profile_clean: Any, tmp_path: Path) -> None:
    """A good code is found so; the job of one that takes too long is cancelled there."""
    slow = tmp_path / "slow.sh"
    slow.write_text(f"#!/bin/bash\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    host = "aiida-rm-sshd"
    changes = {
        "computer.yml": {
            LOGIN: host,
            "core.slurm": "core.direct",
            "/scratch/{username}/aiida": str(tmp_path / "jobs"),
        },
        "transport.yml": {LOGIN: host, "interval: 15": "interval: 0"},
        "code_venv.yml": CODE,
    }
    code = code_of(tmp_path / "ssh", "core.ssh_async", changes)
    assert to_mend(examine(code)) == {}
    computer = orm.load_code(code).computer
    other = orm.InstalledCode(computer=computer, label="slow", filepath_executable=str(slow))
    found = examine(str(other.store().pk), "--patience", "15")
    assert "no result after 15 s" in found["job"]["found"]
    pid = int((tmp_path / "pid").read_text())
    assert until(lambda: not lives(pid), 30)
    job = orm.QueryBuilder().append(orm.CalcJobNode).order_by({orm.CalcJobNode: {"id": "desc"}})
    told = [log.message for log in orm.Log.collection.get_logs_for(job.first(flat=True))]
    assert not [line for line in told if "an error was raised" in line]
