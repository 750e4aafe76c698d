"""Services that `tools/services.sh` starts, and one small loop to run on them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiida import orm
from aiida.engine import ProcessBuilder, run_get_node, submit
from aiida.engine.daemon import client
from aiida.manage import get_config, get_manager

import tests.conftest
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
from tests.workflows.conftest import TINY, engine_path

ROOT = Path(__file__).parents[2]
SERVICES = Path(os.environ.get("SERVICES_DIR", ROOT / ".services"))
POSTGRES: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 5433,
    "user": "aiida_rm",
    "password": "aiida_rm",
}
#: A daemon that has not done it by then never will; pytest's own limit would not show its log.
TIMEOUT = 600


@pytest.fixture(autouse=True)
def services(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip, with the reason, where a service does not run; else say where it is."""
    # A daemon looks for verdi on the path, and has done so already when it was imported.
    scripts = sysconfig.get_path("scripts")
    monkeypatch.setenv("PATH", f"{scripts}:{os.environ['PATH']}")
    monkeypatch.setattr(client, "VERDI_BIN", f"{scripts}/verdi")
    monkeypatch.setattr(tests.conftest, "PAUSE", 0.5)  # daemons share the database
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


@pytest.fixture(autouse=True)
def own_profile(aiida_profile: Any) -> Iterator[None]:
    """Leave a profile of its own to the next test: AiiDA's fixture does not where one failed."""
    yield
    if get_manager().get_profile() is not aiida_profile:
        get_manager().load_profile(aiida_profile, allow_switch=True)


@pytest.fixture
def small_loop(diamond_frames: Frames) -> Callable[..., ProcessBuilder]:
    """``small_loop(computer)``: one round from one diamond, a referee in it.

    More: the ``options`` of all jobs, another ``program`` than the engine, more ``prepend_text``.
    """

    def build(
        computer: orm.Computer,
        options: dict[str, Any] | None = None,
        *,
        program: str | None = None,
        prepend_text: str = "",
    ) -> ProcessBuilder:
        code = orm.InstalledCode(
            computer=computer,
            filepath_executable=program or engine_path(),
            # another machine does not know this checkout
            prepend_text=f"export OMP_NUM_THREADS=1\nexport PYTHONPATH={ROOT}\n{prepend_text}",
        ).store()
        dataset = FramesData(diamond_frames)
        emt = {"calculator": "ase.calculators.emt:EMT", "cell": "hydrostatic", "fmax": 0.5}
        overrides = {
            "rounds": 1,
            "perturb": {"settings": TINY["perturb"]},
            # a checkpoint after each step, structures one by one: the same bits however cut
            "train": {
                "train": {"settings": {**TINY["train"], "epochs": 6, "checkpoint_seconds": 0}}
            },
            "generate": {
                "generate": {
                    "settings": {
                        **TINY["generate"],
                        "dtype": "float64",
                        "batch_atoms": 1,
                        "checkpoint_seconds": 0,
                    }
                }
            },
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


@pytest.fixture
def postgres_profile(
    aiida_config_tmp: Any, aiida_profile_factory: Any, tmp_path: Path
) -> Iterator[Any]:
    """A profile on PostgreSQL and RabbitMQ, with a database of its own."""
    aiida_config_tmp.set_option("warnings.rabbitmq_version", False)
    name = f"test_{secrets.token_hex(8)}"
    storage = {
        "database_engine": "postgresql_psycopg",
        "database_name": name,
        "database_hostname": POSTGRES["host"],
        "database_port": POSTGRES["port"],
        "database_username": POSTGRES["user"],
        "database_password": POSTGRES["password"],
        "repository_uri": (tmp_path / "repository").as_uri(),
    }
    _in_postgres(f"CREATE DATABASE {name}")
    with aiida_profile_factory(
        aiida_config_tmp,
        storage_backend="core.psql_dos",
        storage_config=storage,
        broker_backend="core.rabbitmq",
    ) as profile:
        yield profile
    _in_postgres(f"DROP DATABASE {name} WITH (FORCE)")


def _in_postgres(command: str) -> None:
    with psycopg.connect(dbname="postgres", autocommit=True, **POSTGRES) as connection:
        connection.execute(command)


def jobs_of(node: orm.WorkChainNode) -> list[orm.CalcJobNode]:
    """All jobs of a loop, in the order in which they were made."""
    jobs = [one for one in node.called_descendants if isinstance(one, orm.CalcJobNode)]
    return sorted(jobs, key=lambda job: job.pk)


def figures(node: orm.WorkChainNode) -> dict[str, Any]:
    """What a loop found, to the last bit; nothing of time or place."""
    outputs = node.outputs
    data = {
        "potential": outputs.potential,
        "scored": outputs.scored.round_01,
        "accepted": outputs.accepted,
        "dataset": outputs.dataset,
    }
    row = outputs.rounds["rounds"][0]
    told = {name: value for name, value in row.items() if not name.startswith("seconds")}
    return {**{name: one.base.repository.hash() for name, one in data.items()}, "row": told}


_FIGURES: dict[str, Any] = {}


@pytest.fixture
def undisturbed(
    aiida_computer: Any, small_loop: Callable[..., ProcessBuilder], services: None
) -> dict[str, Any]:
    """The figures of a loop that nothing befalls; it runs once."""
    if not _FIGURES:
        computer = aiida_computer(label="undisturbed", transport_type="core.local")
        computer.configure(safe_interval=0, use_login_shell=False)
        _, node = run_get_node(small_loop(computer))
        check_loop(node)
        _FIGURES.update(figures(node))
    return _FIGURES


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
    config = get_config()
    config.set_option("daemon.timeout", 60)
    config.set_option("runner.poll.interval", 1)
    # The workers of a test profile would ask the database without a pause.
    profile.is_test_profile = False
    config.update_profile(profile)
    config.store()
    daemon = client.get_daemon_client(profile.name)
    daemon.start_daemon(number_workers=workers)
    try:
        yield daemon
    finally:
        stop_daemon(daemon)


def stop_daemon(daemon: Any) -> None:
    """Stop a daemon, and wait until it has ended."""
    pid = daemon.get_daemon_pid()
    # Circus does not always answer that it ends, and ends.
    with suppress(client.DaemonException):
        daemon.stop_daemon(wait=False)
    if pid and not until(lambda: not lives(pid), 60):
        os.kill(pid, signal.SIGTERM)


def until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
    """Wait for a condition, so long at most; whether it came about."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def lives(pid: int) -> bool:
    """Whether a process runs; one that is only waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def submit_and_wait(builder: ProcessBuilder, daemon: Any) -> orm.WorkChainNode:
    """Hand it to the daemon, and look at the database until it has ended."""
    node = submit(builder)
    assert until(lambda: bool(node.is_terminated)), log_of(daemon)
    return node


def log_of(daemon: Any) -> str:
    """The end of what the workers of a daemon said."""
    log = Path(daemon.daemon_log_file)
    return log.read_text(encoding="utf-8")[-5000:] if log.exists() else "no log"
