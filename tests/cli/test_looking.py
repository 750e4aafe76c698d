"""``aiida-rm status``, ``compare``, ``clean`` and ``setup``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from aiida.schedulers import JobState
from click.testing import CliRunner, Result

from aiida_rm.cli import aiida_rm as group
from aiida_rm.cli.compare import differences, flat_inputs
from aiida_rm.cli.looking import read, running
from aiida_rm.engine.files import METRICS

EPOCH = {"epoch": 2, "epochs": 8, "loss": 0.5, "validation_loss": 0.25, "seconds": 3.0,
         "structures_per_second": 100.0}  # fmt: skip


def run(*arguments: Any, status: int = 0, given: str | None = None) -> Result:
    result = CliRunner().invoke(group, [str(one) for one in arguments], input=given)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture
def job(loop: Any, tmp_path: Path) -> Any:
    """A loop in its first round, whose training goes on in a folder of this machine."""
    computer = loop.inputs.perturb.code.computer
    computer.configure(safe_interval=0, use_login_shell=False)
    top = orm.WorkChainNode(label="[red]mine")
    top.set_process_type("aiida.workflows:rm.loop")
    for name in ("rounds", "first_round"):
        top.base.links.add_incoming(loop.inputs[name], LinkType.INPUT_WORK, name)
    job = orm.CalcJobNode(computer=computer)
    job.set_process_type("aiida.calculations:rm.train")
    job.set_remote_workdir(str(tmp_path))
    job.set_scheduler_state(JobState.RUNNING)
    for node in (top, job):
        node.set_process_state(ProcessState.RUNNING)
    top.store()
    job.base.links.add_incoming(top, LinkType.CALL_CALC, "round_01_train")
    job.store()
    yield job
    for node in (top, job):
        node.set_process_state(ProcessState.KILLED)


def test_status(job: Any, tmp_path: Path) -> None:
    top = job.caller
    assert [node.pk for node in running()] == [top.pk]
    row = json.loads(run("status", "--json").stdout)[0]
    assert (row["stage"], row["job"], row["state"]) == ("train", job.pk, "running")
    assert (row["round"], row["rounds"]) == (1, 2)
    assert "epoch" not in row  # the engine has said nothing yet
    (tmp_path / METRICS).write_text(json.dumps(EPOCH) + '\n{"epoch": 3, "ep')
    row = json.loads(run("status", "--json").stdout)[0]
    assert (row["epoch"], row["epochs"], row["loss"]) == (2, 8, 0.25)
    assert (row["share"], row["rate"], row["left"]) == (0.25, 100.0, 18.0)
    printed = run("status").stdout
    assert f"loop <{top.pk}>" in printed
    assert "[red]mine" in printed
    assert "2/8" in printed
    assert "18 s" in printed


def test_a_stage_that_was_stored_a_moment_ago(job: Any) -> None:
    job.set_process_state(ProcessState.FINISHED)
    stage = orm.CalcJobNode(computer=job.computer)
    stage.set_process_type("aiida.calculations:rm.generate")
    stage.base.links.add_incoming(job.caller, LinkType.CALL_CALC, "job_000")
    stage.store()
    row = json.loads(run("status", job.caller.pk, "--json").stdout)[0]
    assert (row["stage"], row["state"]) == ("generate", "created")


def test_status_of_nothing_and_of_what_ended(loop: Any) -> None:
    assert "Nothing runs; start something" in run("status").stdout
    assert "ended [0]" in run("status", loop.pk, "--watch").stdout
    assert run("status", "--watch", "--json", status=2)


def test_a_computer_that_is_away(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Any) -> Any:
        raise OSError("no route to host")

    monkeypatch.setattr(orm.Computer, "get_transport", away)
    row = json.loads(run("status", "--json").stdout)[0]
    assert "does not answer: no route to host" in row["note"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {}),
        ("no json\n", {}),
        ('{"finished": 5, "total": 20, "seconds": 10, "stage": "relaxing"}\n',
         {"share": 0.25, "rate": 0.5, "left": 30.0, "note": "relaxing: 5 of 20"}),
        ('{"finished": 0, "total": 20, "seconds": 0}', {"share": 0.0, "rate": None, "left": None}),
        ('{"epoch": 1, "epochs": 2, "loss": null}', {"share": 0.5, "left": 0.0, "loss": None}),
    ],
)  # fmt: skip
def test_what_metrics_say(text: str, wanted: dict[str, Any]) -> None:
    found = read(text)
    assert {name: found[name] for name in wanted} == wanted
    assert bool(found) == bool(wanted)


def test_compare(loop: Any) -> None:
    assert "give two loops at least" in run("compare", loop.pk, loop.pk, status=1).stderr
    flat = flat_inputs(loop)
    assert flat["train.train.settings.epochs"] == 3
    assert flat["train.train.settings.ema_decay"] == 0.99  # defaults, too
    other = {**flat, "rounds": 5}
    other.pop("warm_start")
    assert differences({1: flat, 2: other}) == {
        "rounds": {1: 2, 2: 5},
        "warm_start": {1: True, 2: None},
    }
    with pytest.raises(ValueError, match="no loop"):
        flat_inputs(loop.called[0])


def test_compare_two(loop: Any) -> None:
    twin = orm.WorkChainNode(label="twin")
    twin.set_process_type("aiida.workflows:rm.loop")
    twin.base.links.add_incoming(orm.Int(7).store(), LinkType.INPUT_WORK, "rounds")
    twin.set_process_state(ProcessState.KILLED)
    twin.store()
    told = json.loads(run("compare", loop.pk, twin.pk, "--json").stdout)
    assert told["settings"]["rounds"] == {str(loop.pk): 2, str(twin.pk): 7}
    results = told["results"][str(loop.pk)]
    assert (results["generated"], results["state"]) == (8, "[0]")
    assert results["accepted"] == loop.outputs.rounds["total"]["accepted"]
    assert told["results"][str(twin.pk)]["state"] == "killed"
    printed = run("compare", loop.pk, twin.pk, "--rounds").stdout
    assert "Settings that differ" in printed
    assert "Round 2" in printed


def test_clean(loop: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    loop.inputs.perturb.code.computer.configure(safe_interval=0, use_login_shell=False)
    jobs = [one for one in loop.called_descendants if isinstance(one, orm.CalcJobNode)]
    paths = {}
    for job in jobs:
        paths[job.outputs.remote_folder.pk] = tmp_path / str(job.pk)
        paths[job.outputs.remote_folder.pk].mkdir()
        (paths[job.outputs.remote_folder.pk] / "file").write_bytes(b"x" * 50_000)
    monkeypatch.setattr(orm.RemoteData, "get_remote_path", lambda self: str(paths[self.pk]))
    rows = json.loads(run("clean", "--dry-run", "--json").stdout)
    assert {row["job"] for row in rows} == {job.pk for job in jobs}
    assert all(row["megabytes"] > 0.04 for row in rows)
    assert json.loads(run("clean", "--older-than", 1000, "-n", "--json").stdout) == []
    assert "nobody to ask" in run("clean", "--json", status=2).stderr
    assert "nothing was removed" in run("clean", given="n\n").output
    assert all(path.exists() for path in paths.values())
    assert re.search(r" \d+\.\d +/", run("clean", "-n").output)
    train = next(job for job in jobs if job.process_label == "TrainCalculation")
    assert "removed 1 folder" in run("clean", train.pk, given="y\n").output
    assert not paths[train.outputs.remote_folder.pk].exists()
    run("clean", loop.pk, "--finished", "--yes")
    assert not any(path.exists() for path in paths.values())
    assert "there are no work folders" in run("clean").output


def test_what_runs_is_not_cleaned(job: Any) -> None:
    remote = orm.RemoteData(remote_path="/nowhere", computer=job.computer)
    remote.base.links.add_incoming(job, LinkType.CREATE, "remote_folder")
    remote.store()
    job.set_process_state(ProcessState.FINISHED)  # but the loop that called it goes on
    assert json.loads(run("clean", job.pk, "-n", "--json").stdout) == []


def test_nodes_that_are_not_there_or_of_another_kind(loop: Any) -> None:
    dataset = loop.inputs.dataset
    perturb = next(one for one in loop.called if one.process_label == "PerturbCalculation")
    for arguments, message in (
        (("status", perturb.pk), (f"<{perturb.pk}> is no work chain, but PerturbCalculation that "
         f"<{loop.pk}> called; `verdi process list -a` has them")),
        (("compare", loop.pk, dataset.pk), f"<{dataset.pk}> is no work chain, but FramesData; "),
        (("status", 999_999), "there is no work chain <999999>; `verdi process list -a` has them"),
        (("report", "none"), "there is no node 'none'; "),
        (("clean", "--computer", "none"), "there is no computer 'none'; `verdi computer list"),
        (("compare",), "Missing argument 'LOOPS...'; `aiida-rm compare --help` says more"),
        (("status", "--nothing"), "No such option: --nothing"),
    ):  # fmt: skip
        told = run(*arguments, status=2).stderr
        assert message in told
        assert len(told.splitlines()) == 1


def test_setup(aiida_profile: Any) -> None:
    aiida_profile.reset_storage()
    assert "a computer is missing: would set up" in run("setup", "--dry-run").output
    assert "a computer is still missing" in run("setup", given="n\n").output
    assert orm.Computer.collection.count() == 0
    printed = run("setup", "--yes").output
    assert "made the code 'aiida-rm-engine@localhost'" in printed
    assert "aiida-rm doctor aiida-rm-engine@localhost" in printed
    code = orm.load_code("aiida-rm-engine@localhost")
    assert code.computer.is_configured
    again = run("setup").output
    assert "the code 'aiida-rm-engine@localhost' is there" in again
    assert orm.QueryBuilder().append(orm.InstalledCode).count() == 1


def test_knobs() -> None:
    from aiida_rm.cli.knobs import TASKS

    for task in TASKS:
        assert json.loads(run("knobs", task, "--json").stdout)
        assert "None" not in run("knobs", task).stdout
    rows = {row["name"]: row for row in json.loads(run("knobs", "train", "--json").stdout)}
    assert rows["cutoff"]["unit"] == "angstrom"
    assert rows["cutoff"]["range"] == "1 to 12"
    assert "cutoff  (default 4.5, angstrom, 1 to 12)" in run("knobs", "train").stdout


def test_without_a_profile(tmp_path: Path) -> None:
    environment = {**os.environ, "AIIDA_PATH": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    program = [sys.executable, "-c", "from aiida_rm.cli import aiida_rm; aiida_rm()"]

    def called(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*program, *arguments], env=environment, capture_output=True, text=True, check=False
        )

    for arguments in (("status",), ("report", "1")):
        done = called(*arguments)
        assert done.returncode == 1
        assert done.stderr == "Error: there is no AiiDA profile; `aiida-rm setup` makes one\n"
    for arguments in (("status", "--help"), ("knobs", "stop"), ("setup", "--dry-run")):
        done = called(*arguments)
        assert done.returncode == 0
    for what in ("a profile is missing", "'localhost'", "'aiida-rm-engine'", "daemon"):
        assert what in done.stdout
