"""Services that `tools/services.sh` starts, and one small loop to run on them."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import ProcessBuilder, submit
from aiida.engine.daemon import client
from aiida.manage import get_config

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
from tests.workflows.conftest import TINY, engine_path

ROOT = Path(__file__).parents[2]
SERVICES = Path(os.environ.get("SERVICES_DIR", ROOT / ".services"))
#: A daemon that has not done it by then never will.
TIMEOUT = 900


@pytest.fixture(autouse=True)
def services(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip, with the reason, where a service does not run; else say where it is."""
    # A daemon looks for verdi on the path, and has done so already when it was imported.
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
    monkeypatch.setattr(client, "VERDI_BIN", f"{scripts}/verdi")
    for mark in request.node.iter_markers("services"):
        if not mark.args:
            continue
        asked = [ROOT / "tools" / "services.sh", "status", *mark.args]
        told = subprocess.run(asked, capture_output=True, text=True, check=False)
        if told.returncode:
            pytest.skip("; ".join(line for line in told.stdout.splitlines() if "not run" in line))
        if "slurm" in mark.args:
            monkeypatch.setenv("SLURM_CONF", str(SERVICES / "slurm" / "slurm.conf"))
        if "sshd" in mark.args:
            monkeypatch.setenv("HOME", str(SERVICES / "sshd" / "home"))


@pytest.fixture
def small_loop(diamond_frames: Frames) -> Callable[..., ProcessBuilder]:
    """``small_loop(computer, options)``: one round from one diamond, a referee in it."""

    def build(computer: orm.Computer, options: dict[str, Any] | None = None) -> ProcessBuilder:
        code = orm.InstalledCode(
            computer=computer,
            filepath_executable=engine_path(),
            # another machine does not know this checkout
            prepend_text=f"export OMP_NUM_THREADS=1\nexport PYTHONPATH={ROOT}",
        ).store()
        dataset = FramesData(diamond_frames)
        emt = {"calculator": "ase.calculators.emt:EMT", "cell": "hydrostatic", "fmax": 0.5}
        overrides = {
            "rounds": 1,
            "perturb": {"settings": TINY["perturb"]},
            "train": {"train": {"settings": TINY["train"]}},
            "generate": {"generate": {"settings": TINY["generate"]}},
            "validate": {
                "score": {"settings": TINY["score"]},
                "rules": {"valid": True, "unique": True, "limit": 2},
                "max_judged": 3,
            },
        }
        builder = LoopWorkChain.get_builder_from_protocol(
            code,
            dataset,
            protocol="fast",
            overrides=overrides,
            options=options,
            known=dataset,
            referees={"emt": {"referee": "ase", "code": code, "settings": emt}},
        )
        if options:
            builder.validate.referees["emt"]["options"] = orm.Dict(options)
        return builder

    return build


def jobs_of(node: orm.WorkChainNode) -> list[orm.CalcJobNode]:
    """All jobs of a loop, in the order in which they were made."""
    jobs = [one for one in node.called_descendants if isinstance(one, orm.CalcJobNode)]
    return sorted(jobs, key=lambda job: job.pk)


def check_loop(node: orm.WorkChainNode) -> list[orm.CalcJobNode]:
    """The loop went right, through five jobs; returns these."""
    assert node.is_finished_ok, f"{node.process_state} {node.exit_message}"
    jobs = jobs_of(node)
    kinds = sorted(job.process_label.removesuffix("Calculation") for job in jobs)
    assert kinds == ["Generate", "Perturb", "Relax", "Score", "Train"]
    assert all(job.is_finished_ok for job in jobs)
    row = node.outputs.rounds["rounds"][0]
    assert row["generated"] == 4
    assert row["judged"] >= row["emt_converged"] >= row["accepted"] >= 1
    assert len(node.outputs.dataset) == 1 + row["accepted"]
    return jobs


@contextmanager
def daemon_of(profile: Any, workers: int = 1) -> Iterator[Any]:
    """A daemon of so many workers."""
    get_config().set_option("daemon.timeout", 60)
    get_config().set_option("runner.poll.interval", 1)
    daemon = client.get_daemon_client(profile.name)
    daemon.start_daemon(number_workers=workers)
    try:
        yield daemon
    finally:
        # Circus does not always answer that it ends, and ends.
        pid = daemon.get_daemon_pid()
        with suppress(client.DaemonException):
            daemon.stop_daemon(wait=False)
        end = time.monotonic() + 60
        while pid and _lives(pid) and time.monotonic() < end:
            time.sleep(0.2)
        if pid and _lives(pid):
            os.kill(pid, signal.SIGTERM)


def _lives(pid: int) -> bool:
    """Whether a process runs; one that is only waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def submit_and_wait(builder: ProcessBuilder, daemon: Any) -> orm.WorkChainNode:
    """Hand it to the daemon, and look at the database until it has ended."""
    node = submit(builder)
    end = time.monotonic() + TIMEOUT
    while not node.is_terminated and time.monotonic() < end:
        time.sleep(0.5)
    log = Path(daemon.daemon_log_file)
    assert node.is_terminated, log.read_text(encoding="utf-8")[-5000:] if log.exists() else "no log"
    return node
