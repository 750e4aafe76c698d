"""The whole loop, one round of it, on a scheduler, over a network, and through daemons."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from aiida.engine import run_get_node

from tests.services.conftest import check_loop, daemon_of, submit_and_wait

POSTGRES = {"host": "127.0.0.1", "port": 5433, "user": "aiida_rm", "password": "aiida_rm"}


@pytest.mark.services("slurm")
def test_slurm(aiida_computer: Any, small_loop: Any) -> None:
    computer = aiida_computer(scheduler_type="core.slurm")
    computer.configure(safe_interval=0, use_login_shell=False)
    options = {
        "max_wallclock_seconds": 600,
        "custom_scheduler_commands": "#SBATCH --gres=gpu:1",
    }
    _, node = run_get_node(small_loop(computer, options))
    for job in check_loop(node):
        # what the accounting knows of it
        told = job.get_detailed_job_info()
        assert told["retval"] == 0, told["stderr"]
        assert job.get_job_id() in told["stdout"]


@pytest.mark.services("sshd")
def test_ssh(aiida_computer: Any, small_loop: Any) -> None:
    computer = aiida_computer(hostname="aiida-rm-sshd", transport_type="core.ssh_async")
    computer.configure(safe_interval=0, use_login_shell=False, backend="asyncssh")
    _, node = run_get_node(small_loop(computer))
    assert all(job.computer.hostname == "aiida-rm-sshd" for job in check_loop(node))


@pytest.fixture
def database() -> Iterator[str]:
    """A database of one's own."""
    name = f"test_{secrets.token_hex(8)}"
    with psycopg.connect(dbname="postgres", autocommit=True, **POSTGRES) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield name
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.mark.services("postgres", "rabbitmq")
def test_postgres_and_rabbitmq(
    aiida_config_tmp: Any,
    aiida_profile_factory: Any,
    aiida_computer_local: Any,
    small_loop: Any,
    database: str,
    tmp_path: Path,
) -> None:
    aiida_config_tmp.set_option("warnings.rabbitmq_version", False)
    storage = {
        "database_engine": "postgresql_psycopg",
        "database_name": database,
        "database_hostname": POSTGRES["host"],
        "database_port": POSTGRES["port"],
        "database_username": POSTGRES["user"],
        "database_password": POSTGRES["password"],
        "repository_uri": (tmp_path / "repository").as_uri(),
    }
    with (
        aiida_profile_factory(
            aiida_config_tmp,
            storage_backend="core.psql_dos",
            storage_config=storage,
            broker_backend="core.rabbitmq",
        ) as profile,
        daemon_of(profile, workers=2) as daemon,
    ):
        computer = aiida_computer_local()
        computer.configure(safe_interval=0, use_login_shell=False)
        check_loop(submit_and_wait(small_loop(computer), daemon))


@pytest.mark.services
def test_sqlite_and_zeromq(
    aiida_config_tmp: Any, aiida_profile_factory: Any, aiida_computer_local: Any, small_loop: Any
) -> None:
    """What `verdi presto` sets up."""
    with (
        aiida_profile_factory(aiida_config_tmp, broker_backend="core.zeromq") as profile,
        daemon_of(profile) as daemon,
    ):
        computer = aiida_computer_local()
        computer.configure(safe_interval=0, use_login_shell=False)
        check_loop(submit_and_wait(small_loop(computer), daemon))
