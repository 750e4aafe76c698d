"""What can befall a daemon and what it needs, while a loop runs; and `verdi process kill`."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from aiida import orm
from aiida.engine import submit
from aiida.engine.daemon import client
from aiida.manage import get_config, get_manager
from sqlalchemy.exc import SQLAlchemyError

from aiida_rm.engine import files
from tests.services.conftest import (
    ROOT,
    check_loop,
    daemon_of,
    figures,
    jobs_of,
    log_of,
    stop_daemon,
    until,
)

Fault = Callable[[Any], None]


def kill_workers(daemon: Any) -> None:
    """Kill all workers; the daemon starts others."""
    assert until(lambda: len(_workers(daemon)) == _wanted(daemon), 60)
    before = _workers(daemon)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    assert until(lambda: len(_workers(daemon) - before) == len(before), 60)


def _workers(daemon: Any) -> set[int]:
    return {int(pid) for pid in daemon.get_worker_info().get("info", {})}


def _wanted(daemon: Any) -> int:
    """How many workers the daemon keeps; fewer live while it replaces one that a fault ended."""
    asked = {"name": daemon.daemon_name, "keys": ["numprocesses"]}
    answer = daemon.call_client({"command": "get", "properties": asked})
    return int(answer["options"]["numprocesses"])


def restart_daemon(daemon: Any) -> None:
    """`verdi daemon stop`, `verdi daemon start`."""
    count = _wanted(daemon)
    stop_daemon(daemon)
    daemon.start_daemon(number_workers=count)


def kill_broker(daemon: Any) -> None:
    """Kill the broker that the daemon started; it starts another."""

    def brokers() -> set[int]:
        children = psutil.Process(daemon.get_daemon_pid()).children(recursive=True)
        return {one.pid for one in children if any("broker" in word for word in _words(one))}

    (where,) = (Path(get_config().dirpath) / "broker").rglob("broker.sockets")
    before, socket = brokers(), where.read_text()
    assert before
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    # Stopped before it listens, the other one would leave the file of the dead one behind, and the
    # next workers would wait at that one's socket for ever.
    assert until(lambda: bool(brokers() - before) and where.read_text() != socket, 60)


def _words(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


def restart(service: str) -> Fault:
    """Stop one of the services, and start it again."""

    def fault(_: Any) -> None:
        for action in ("stop", "start"):
            command = [ROOT / "tools" / "services.sh", action, service]
            subprocess.run(command, check=True, capture_output=True)
        subprocess.run([ROOT / "tools" / "services.sh", "status", service], check=True)

    return fault


def planned(fault: Fault) -> Fault:
    """With the daemon stopped before."""

    def in_between(daemon: Any) -> None:
        count = _wanted(daemon)
        stop_daemon(daemon)
        fault(daemon)
        daemon.start_daemon(number_workers=count)

    return in_between


def repaired(fault: Fault) -> Fault:
    """With what is to be done where AiiDA's workers do not get over a fault by themselves."""

    def then_repair(daemon: Any) -> None:
        count = _wanted(daemon)
        fault(daemon)
        stop_daemon(daemon)
        _verdi(daemon, "process", "repair", "--force")
        daemon.start_daemon(number_workers=count)

    return then_repair


def _verdi(daemon: Any, *words: str) -> None:
    subprocess.run([client.VERDI_BIN, "-p", daemon.profile.name, *words], check=True)


def has_ended(node: orm.ProcessNode) -> bool:
    """Whether a process is over; not known while the database does not answer."""
    try:
        return bool(node.is_terminated)
    except SQLAlchemyError:
        get_manager().get_profile_storage().get_session().rollback()
        return False


def befall(builder: Any, daemon: Any, faults: Sequence[Fault], folder: Path) -> Any:
    """Run a loop; something befalls it while each of its jobs runs.

    Args:
        builder: the loop, whose jobs wait in ``folder`` (see :func:`holding`).
        daemon: what runs it.
        faults: one for each of the first jobs.
        folder: where a job says that it runs, and is told to go on.
    """
    node = submit(builder)
    done = []

    def moves_on() -> bool:
        return (folder / "waits").exists() or has_ended(node)

    while until(moves_on) and not has_ended(node):
        if len(done) < len(faults):
            faults[len(done)](daemon)
        done.append((folder / "waits").read_text().strip())
        (folder / "go").touch()
        assert until(lambda: not (folder / "waits").exists(), 60)
    assert has_ended(node), log_of(daemon)
    assert len(done) >= len(faults), log_of(daemon)
    return node


def holding(folder: Path) -> str:
    """Lines that have a job wait until it is told to go on."""
    folder.mkdir()
    return (
        f"pwd > {folder}/waits\nuntil [ -e {folder}/go ]; do sleep 0.1; done\n"
        f"rm -f {folder}/go {folder}/waits"
    )


def run(daemon: Any, computer: Any, small_loop: Any, faults: Sequence[Fault], top: Path) -> Any:
    """The loop, with these faults; it ends well, and with five jobs, none of them twice."""
    computer.configure(safe_interval=0, use_login_shell=False)
    builder = small_loop(computer, prepend_text=holding(top / "hold"))
    node = befall(builder, daemon, faults, top / "hold")
    check_loop(node)
    return node


@pytest.mark.services("postgres", "rabbitmq")
def test_daemon_and_rabbitmq(
    postgres_profile: Any,
    aiida_computer_local: Any,
    small_loop: Any,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    faults = [kill_workers, restart_daemon, planned(restart("rabbitmq"))]
    with daemon_of(postgres_profile, workers=2) as daemon:
        node = run(daemon, aiida_computer_local(), small_loop, faults, tmp_path)
        assert figures(node) == undisturbed


@pytest.mark.services("postgres", "rabbitmq")
def test_one_worker_with_rabbitmq_and_postgres(
    postgres_profile: Any,
    aiida_computer_local: Any,
    small_loop: Any,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Of several workers, two may take up the same process after RabbitMQ was restarted."""
    faults = [restart("rabbitmq"), repaired(restart("postgres"))]
    with daemon_of(postgres_profile) as daemon:
        node = run(daemon, aiida_computer_local(), small_loop, faults, tmp_path)
        assert figures(node) == undisturbed


@pytest.mark.services
def test_daemon_and_zeromq(
    aiida_config_tmp: Any,
    aiida_profile_factory: Any,
    aiida_computer_local: Any,
    small_loop: Any,
    undisturbed: dict[str, Any],
    tmp_path: Path,
) -> None:
    faults = [kill_workers, repaired(kill_broker), restart_daemon]
    with (
        aiida_profile_factory(aiida_config_tmp, broker_backend="core.zeromq") as profile,
        daemon_of(profile) as daemon,
    ):
        node = run(daemon, aiida_computer_local(), small_loop, faults, tmp_path)
        assert figures(node) == undisturbed


@pytest.mark.services("slurm")
@pytest.mark.parametrize("scheduler", ["core.slurm", "core.direct"])
def test_verdi_process_kill(
    scheduler: str,
    aiida_config_tmp: Any,
    aiida_profile_factory: Any,
    aiida_computer: Any,
    small_loop: Any,
    tmp_path: Path,
) -> None:
    """Of a loop whose training runs on two processes."""
    with (
        aiida_profile_factory(aiida_config_tmp, broker_backend="core.zeromq") as profile,
        daemon_of(profile) as daemon,
    ):
        scratch = tmp_path / "scratch"
        computer = aiida_computer(scheduler_type=scheduler, transport_type="core.local")
        computer.set_workdir(str(scratch))
        computer.configure(safe_interval=0, use_login_shell=False)
        builder = small_loop(computer, {"max_wallclock_seconds": 3600})
        train = builder.train.train
        train.settings = {**train.settings.get_dict(), "epochs": 1_000_000}
        train.metadata.options.withmpi = False
        train.metadata.options.resources = {"num_machines": 1, "num_mpiprocs_per_machine": 2}
        node = submit(builder)
        assert until(lambda: _trains(scratch)), log_of(daemon)
        assert _queue(scratch) == 1 or scheduler == "core.direct"
        assert len(_processes(scratch)) >= 3  # the job's shell, and two of the engine
        _verdi(daemon, "process", "kill", str(node.pk))
        assert until(lambda: bool(node.is_terminated), 120), log_of(daemon)
        assert node.is_killed
        assert until(lambda: not _processes(scratch) and not _queue(scratch), 60)
        ended = [one.process_state.value for one in node.called_descendants]
        assert set(ended) == {"finished", "killed"}
        assert jobs_of(node)[-1].is_killed


def _trains(scratch: Path) -> bool:
    """Whether a training has begun, and made its first checkpoint."""
    return any(scratch.rglob(files.OUTPUT_STATE))


def _processes(scratch: Path) -> list[psutil.Process]:
    """What runs in a folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(scratch):
                found.append(process)
    return found


def _queue(scratch: Path) -> int:
    """How many jobs of a folder SLURM knows."""
    told = subprocess.run(["squeue", "-h", "-o", "%Z"], capture_output=True, text=True, check=True)
    return sum(Path(line).is_relative_to(scratch) for line in told.stdout.splitlines())
