"""The whole loop, one round of it, on a scheduler, over a network, and through daemons."""

from __future__ import annotations

from typing import Any

import pytest
from aiida.engine import run_get_node

from tests.services.conftest import check_loop, daemon_of, submit_and_wait


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


@pytest.mark.services("postgres", "rabbitmq")
def test_postgres_and_rabbitmq(
    postgres_profile: Any, aiida_computer_local: Any, small_loop: Any
) -> None:
    with daemon_of(postgres_profile, workers=2) as daemon:
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
