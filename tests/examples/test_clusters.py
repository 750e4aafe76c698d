"""The ready YAML of computers and codes: verdi takes it, and submit scripts say what they must."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiida import orm
from aiida.cmdline.commands.cmd_verdi import verdi
from aiida.engine import run_get_node
from click.testing import CliRunner

from aiida_rm.calculations.doctor import DoctorCalculation
from aiida_rm.cli import aiida_rm as program
from aiida_rm.workflows.hardware import Hardware

FOLDER = Path(__file__).parents[2] / "examples" / "clusters"
INSTALLED, CONTAINERIZED = "core.code.installed", "core.code.containerized"


def call(command: Any, *arguments: object) -> str:
    result = CliRunner().invoke(command, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def set_up(folder: Path, transport: str) -> orm.Computer:
    """What the first lines of the files say, with the files of a folder."""
    label = yaml.safe_load((folder / "computer.yml").read_text())["label"]
    call(verdi, "computer", "setup", "-n", "--config", folder / "computer.yml")
    file = folder / "transport.yml"
    call(verdi, "computer", "configure", transport, label, "-n", "--config", file)
    computer = orm.load_computer(label)
    assert computer.is_configured
    settings = yaml.safe_load(file.read_text())
    found = computer.get_configuration()
    assert {name: found[name] for name in settings} == settings
    return computer


def create(kind: str, file: Path) -> orm.AbstractCode:
    call(verdi, "code", "create", kind, "-n", "--config", file)
    said = yaml.safe_load(file.read_text())
    code = orm.load_code(f"{said['label']}@{said['computer']}")
    for name in ("description", "use_double_quotes", "prepend_text"):
        assert getattr(code, name) == said[name]
    return code


def test_a_laptop_runs_a_job(aiida_profile: Any, tmp_path: Path) -> None:
    """The files as they are but for the two lines that are the user's."""
    folder = shutil.copytree(FOLDER / "laptop", tmp_path / "laptop")
    mine = {
        "computer.yml": ("/home/{username}/aiida_jobs", str(tmp_path / "jobs")),
        "code.yml": ("/home/me/venvs/aiida-rm/bin", sysconfig.get_path("scripts")),
    }
    for name, (example, own) in mine.items():
        text = (folder / name).read_text()
        assert example in text
        (folder / name).write_text(text.replace(example, own))
    set_up(folder, "core.local").set_minimum_job_poll_interval(0)
    code = create(INSTALLED, folder / "code.yml")
    assert "all is well" in call(program, "doctor", code.full_label)


def test_slurm(aiida_profile: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computer = set_up(FOLDER / "slurm", "core.ssh_async")
    assert computer.scheduler_type == "core.slurm"
    codes = [
        create(INSTALLED, FOLDER / "slurm" / "code_venv.yml"),
        create(INSTALLED, FOLDER / "slurm" / "code_conda.yml"),
        create(CONTAINERIZED, FOLDER / "slurm_apptainer" / "code.yml"),
    ]
    monkeypatch.chdir(tmp_path)
    engine = "'aiida-rm-engine' 'doctor' 'settings.json'"
    commands = [
        engine.replace("'", "'/home/me/venvs/aiida-rm/bin/", 1),
        engine.replace("'", "'/home/me/miniforge3/envs/aiida-rm/bin/", 1),
        "'apptainer' 'exec' '--nv' '--bind' '/scratch' '/scratch/me/aiida-rm.sif' " + engine,
    ]
    for code, command in zip(codes, commands, strict=True):
        options = {**Hardware(code, None, 1, None).asking(1, 1, 1), "queue_name": "gpu"}
        metadata = {"options": options, "dry_run": True, "store_provenance": False}
        _, node = run_get_node(DoctorCalculation, code=code, metadata=metadata)
        folder = Path(node.dry_run_info["folder"])
        lines = (folder / "_aiidasubmit.sh").read_text().splitlines()
        assert lines[0] == "#!/bin/bash"
        assert {"#SBATCH --gres=gpu:1", "#SBATCH --partition=gpu"} <= set(lines)
        assert [line.partition(" >")[0].strip() for line in lines if "json" in line] == [command]
    assert "export PYTHONNOUSERSITE=1" in lines


def test_what_the_image_is_made_of() -> None:
    """The definition copies what the package needs to be built."""
    text = (FOLDER / "slurm_apptainer" / "aiida-rm.def").read_text()
    files = text.partition("%files")[2].partition("%post")[0].split()
    root = FOLDER.parents[1]
    assert files
    for source, target in zip(files[::2], files[1::2], strict=True):
        assert (root / source).exists()
        assert target == f"/opt/aiida-rm/{source}"
