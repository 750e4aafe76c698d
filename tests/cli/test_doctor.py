"""aiida-rm doctor against the engine of this environment, and against what is broken."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiida import orm
from aiida.engine.utils import InterruptableFuture
from aiida.schedulers import JobState
from click.testing import CliRunner, Result

import aiida_rm
from aiida_rm.cli import aiida_rm as group
from aiida_rm.cli.examination import FINE, MEND, NOTE, Report, _judge
from tests.workflows.conftest import engine_code, engine_path

__all__ = ["engine_code"]

RESULTS: dict[str, Any] = {
    "engine": {"version": aiida_rm.__version__, "python": "3.11.2", "torch": "2.13.0"},
    "summary": {
        "gpus": [{"name": "H200", "memory_gb": 139.0, "problem": None}],
        "cuda_build": "13.0",
        "processors": 8,
        "threads": 8,
        "free_gb": 100.0,
        "libraries": {"torch-geometric": "2.8", "numpy": "2.4", "safetensors": "0.6", "ase": "3"},
    },
}


@pytest.fixture
def doctor() -> Any:
    """``doctor(arguments)``: what the program prints, and its exit status."""

    def run(*arguments: str) -> Result:
        result = CliRunner().invoke(group, ["doctor", *arguments])
        assert result.exception is None or isinstance(result.exception, SystemExit)
        assert "Traceback" not in result.output
        return result

    return run


def checks(result: Result) -> dict[str, dict[str, str]]:
    report = json.loads(result.stdout)
    assert report["well"] is (result.exit_code == 0)
    return {check["name"]: check for check in report["checks"]}


def test_all_is_well_here(engine_code: orm.InstalledCode, doctor: Any) -> None:
    result = doctor(engine_code.full_label, "--json")
    assert result.exit_code == 0, result.output
    found = checks(result)
    assert {check["status"] for check in found.values()} <= {FINE, NOTE}
    assert found["engine"]["found"].startswith(f"aiida-rm {aiida_rm.__version__}")
    assert "numpy" in found["libraries"]["found"]
    node = orm.load_node(json.loads(result.stdout)["job"])
    assert node.process_type.endswith("rm.doctor")


def test_the_table(engine_code: orm.InstalledCode, doctor: Any) -> None:
    result = doctor(str(engine_code.pk))
    assert result.exit_code == 0, result.output
    assert "all is well" in result.output
    assert "GB free" in result.output


def test_no_daemon_no_broker(
    aiida_config_tmp: Any, aiida_profile_factory: Any, aiida_computer_local: Any, doctor: Any
) -> None:
    """What `verdi presto` sets up, whose broker runs with the daemon alone."""
    with aiida_profile_factory(aiida_config_tmp, broker_backend="core.zeromq"):
        computer = aiida_computer_local()
        computer.configure(safe_interval=0, use_login_shell=False)
        code = orm.InstalledCode(
            label="here", computer=computer, filepath_executable=engine_path()
        ).store()
        result = doctor(code.full_label)
        assert result.exit_code == 0, result.output


def test_unknown_code(engine_code: orm.InstalledCode, doctor: Any) -> None:
    result = doctor("nothing@nowhere")
    assert result.exit_code == 1
    assert "there is no code 'nothing@nowhere'" in result.output
    assert engine_code.full_label in result.output


def test_computer_not_configured(
    aiida_computer: Any, aiida_code_installed: Any, doctor: Any
) -> None:
    computer = aiida_computer(label="raw", transport_type="core.local")
    code = aiida_code_installed(label="raw", computer=computer, filepath_executable="/bin/true")
    found = checks(doctor(code.full_label, "--json"))["computer"]
    assert found["status"] == MEND
    assert found["remedy"] == "verdi computer configure core.local raw"


@pytest.mark.parametrize(
    ("program", "name", "says"),
    [
        ("/nowhere/aiida-rm-engine", "engine", "/nowhere/aiida-rm-engine is no file"),
        ("/bin/true", "job", "The engine did not start on"),
        ("/bin/ls", "job", "[102] The engine did not start"),
    ],
)
def test_no_engine_there(
    program: str,
    name: str,
    says: str,
    engine_code: orm.InstalledCode,
    aiida_code_installed: Any,
    doctor: Any,
) -> None:
    code = aiida_code_installed(
        label=f"no-engine-{Path(program).name}-{name}", filepath_executable=program
    )
    result = doctor(code.full_label, "--json")
    assert result.exit_code == 1
    assert says in checks(result)[name]["found"]


@pytest.mark.parametrize(
    ("just_ended", "says"),
    [
        (False, "no result after 8 s"),
        (True, "still queued after 8 s; raise --patience, or name a --queue"),
    ],
)
def test_a_job_that_takes_too_long_is_cancelled(
    just_ended: bool,
    says: str,
    engine_code: orm.InstalledCode,
    doctor: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also when AiiDA learns that it has ended in the very moment in which it is interrupted."""
    interrupt = InterruptableFuture.interrupt

    def too_late(future: InterruptableFuture, reason: Exception) -> None:
        future.set_result(True)
        interrupt(future, reason)

    if just_ended:
        monkeypatch.setattr(InterruptableFuture, "interrupt", too_late)
        monkeypatch.setattr(orm.CalcJobNode, "get_scheduler_state", lambda _: JobState.QUEUED)
    slow = tmp_path / "slow.sh"
    slow.write_text(f"#!/bin/bash\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    slow.chmod(0o755)
    code = orm.InstalledCode(
        computer=engine_code.computer, label=f"slow-{just_ended}", filepath_executable=str(slow)
    ).store()
    result = doctor(code.full_label, "--patience", "8", "--json")
    found = checks(result)
    assert orm.load_node(json.loads(result.stdout)["job"]).is_killed
    assert found["job"]["status"] == MEND
    assert says in found["job"]["found"]
    end = time.monotonic() + 30
    while psutil.pid_exists(int((tmp_path / "pid").read_text())) and time.monotonic() < end:
        time.sleep(0.2)
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


def test_an_old_engine(
    engine_code: orm.InstalledCode, aiida_code_installed: Any, doctor: Any, tmp_path: Path
) -> None:
    program = tmp_path / "engine"
    text = "aiida-rm-engine: error: argument task: invalid choice: 'doctor' (choose from perturb)"
    program.write_text(f'#!/bin/sh\necho "{text}" >&2\nexit 2\n')
    program.chmod(0o755)
    code = aiida_code_installed(label="old", filepath_executable=str(program))
    found = checks(doctor(code.full_label, "--json"))["engine"]
    assert "older than this plugin" in found["found"]


def test_a_scheduler_that_is_not_there(
    aiida_computer: Any, aiida_code_installed: Any, doctor: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AiiDA would try for minutes, then pause the job; the doctor says why at once."""
    computer = aiida_computer(
        label="queueless", transport_type="core.local", scheduler_type="core.pbspro"
    )
    computer.configure(safe_interval=0, use_login_shell=False)
    code = aiida_code_installed(label="queued", computer=computer, filepath_executable="/bin/true")
    result = doctor(code.full_label, "--json")
    assert result.exit_code == 1
    found = checks(result)["job"]
    assert "qsub" in found["found"]
    assert orm.load_node(json.loads(result.stdout)["job"]).is_killed


def test_gpus_that_cannot_be_asked_for(
    aiida_computer: Any, aiida_code_installed: Any, doctor: Any
) -> None:
    computer = aiida_computer(label="grid", transport_type="core.local", scheduler_type="core.sge")
    computer.configure(safe_interval=0, use_login_shell=False)
    code = aiida_code_installed(label="grid", computer=computer, filepath_executable="/bin/true")
    found = checks(doctor(code.full_label, "--gpus", "1", "--json"))["GPUs"]
    assert "how to ask core.sge for GPUs is not known" in found["found"]
    assert doctor(code.full_label, "--gpus", "0").exit_code == 2


def judged(gpus: int = 0, engine: dict[str, Any] | None = None, **summary: Any) -> Report:
    report = Report("code")
    results = {
        "engine": {**RESULTS["engine"], **(engine or {})},
        "summary": {**RESULTS["summary"], **summary},
    }
    _judge(report, results, gpus)
    return report


def test_a_good_answer() -> None:
    report = judged(1)
    assert report.well
    notes = {check.name: check.remedy for check in report.checks if check.status == NOTE}
    assert "pip install 'aiida-rm[symmetry]'" in notes["pyxtal"]
    assert "ase" not in notes


@pytest.mark.parametrize(
    ("answer", "name", "remedy"),
    [
        ({"engine": {"version": "0.0.1"}}, "engine", "pip install aiida-rm=="),
        ({"gpus": 1, "cuda_build": None, "seen": []}, "GPUs", "install one with CUDA"),
        ({"gpus": 2}, "GPUs", "CUDA_VISIBLE_DEVICES"),
        (
            {"seen": [{"name": "H200", "memory_gb": 1.0, "problem": "no kernel image"}]},
            "GPUs",
            "nvidia-smi",
        ),
        ({"free_gb": 0.2}, "disk", "make room"),
        ({"libraries": {"numpy": "2", "safetensors": "1"}}, "torch-geometric", "pip install"),
    ],
)
def test_what_is_to_mend(answer: dict[str, Any], name: str, remedy: str) -> None:
    answer = dict(answer)
    more = {"gpus": answer.pop("seen")} if "seen" in answer else {}
    wanted, engine = answer.pop("gpus", 0), answer.pop("engine", None)
    report = Report("code")
    _judge(
        report,
        {
            "engine": {**RESULTS["engine"], **(engine or {})},
            "summary": {**RESULTS["summary"], **answer, **more},
        },
        wanted,
    )
    to_mend = {check.name: check.remedy for check in report.checks if check.status == MEND}
    assert list(to_mend) == [name]
    assert remedy in to_mend[name]


def test_help_is_light() -> None:
    """No torch, no database for --help."""
    heavy = "('torch', 'aiida.orm', 'rich', 'pymatgen')"
    look = f"import sys, aiida_rm.cli; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert "doctor" in CliRunner().invoke(group, ["--help"]).output
