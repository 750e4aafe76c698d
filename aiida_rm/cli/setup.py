"""``aiida-rm setup``: a profile, this computer, and the engine's code; asking before each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import click
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Command

LABEL = "aiida-rm-engine"


@click.command("setup", cls=Command, needs_profile=False)
@click.option("-y", "--yes", is_flag=True, help="Do not ask; do all that is missing.")
@click.option("-n", "--dry-run", is_flag=True, help="Say what is missing; change nothing.")
@click.pass_context
def setup(ctx: click.Context, yes: bool, dry_run: bool) -> None:
    """Make what a first run needs, where it is missing: profile, localhost, code, daemon.

    What is there already is left as it is. For clusters see docs/setup.md.
    """
    from aiida.manage import get_manager

    step = _Step(yes=yes, dry_run=dry_run)
    profile = get_manager().get_profile() or _default_profile(ctx)
    if profile is None:
        if not step.may(
            "make an AiiDA profile (`verdi presto --use-zeromq`: SQLite, no services)", "a profile"
        ):
            if dry_run:
                rest = f"'localhost', the code '{LABEL}', and AiiDA's daemon"
                echo.echo_report(f"and after it this machine as the computer {rest}")
            return
        from aiida.cmdline.commands.cmd_presto import verdi_presto

        ctx.invoke(verdi_presto, non_interactive=True, use_zeromq=True)
        profile = get_manager().get_profile()
    else:
        echo.echo_report(f"the profile is '{profile.name}'")
    _with_profile(step)


class _Step:
    """Asks, or not."""

    def __init__(self, *, yes: bool, dry_run: bool) -> None:
        self.yes, self.dry_run = yes, dry_run

    def may(self, action: str, what: str) -> bool:
        """Whether to do it; if not, it says so."""
        if self.dry_run:
            echo.echo_report(f"{what} is missing: would {action}")
            return False
        if self.yes or click.confirm(f"{what} is missing. {action[0].upper()}{action[1:]}?"):
            return True
        echo.echo_report(f"{what} is still missing")
        return False


def _default_profile(ctx: click.Context) -> Any:
    """The profile that AiiDA would load, if there is one."""
    from aiida.manage.configuration import load_profile

    config = ctx.obj.config
    return load_profile() if config.default_profile_name in config.profile_names else None


@decorators.with_dbenv()
def _with_profile(step: _Step) -> None:
    from aiida import orm

    found = orm.Computer.collection.find({"label": "localhost"})
    if found:
        computer = found[0]
        echo.echo_report("the computer 'localhost' is there")
    elif step.may("set up this machine as the computer 'localhost'", "a computer"):
        computer = _make_computer()
        echo.echo_success("made the computer 'localhost'")
    else:
        return
    if not computer.is_configured:
        if not step.may("configure 'localhost'", "its configuration"):
            return
        computer.configure(safe_interval=0.0, use_login_shell=False)
    code = _make_code(step, computer)
    _start_daemon(step)
    if code is not None:
        click.echo(f"\nLook whether it works:  aiida-rm doctor {code.full_label}")
        click.echo(
            "First run:              aiida-rm launch loop --protocol fast "
            f"--code {code.full_label} --dataset FILE --dry-run"
        )


def _make_computer() -> Any:
    from aiida import orm
    from aiida.manage.configuration import get_config

    scratch = Path(get_config().dirpath) / "scratch"
    scratch.mkdir(parents=True, exist_ok=True)
    computer = orm.Computer(
        label="localhost",
        hostname="localhost",
        description="this machine, made by aiida-rm setup",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(scratch),
    ).store()
    computer.set_minimum_job_poll_interval(1.0)
    computer.set_default_mpiprocs_per_machine(1)
    return computer


def _make_code(step: _Step, computer: Any) -> Any:
    from aiida import orm

    query = orm.QueryBuilder()
    query.append(orm.Computer, filters={"id": computer.pk}, tag="computer")
    query.append(orm.InstalledCode, filters={"label": LABEL}, with_computer="computer")
    code = query.first(flat=True)
    if code is not None:
        echo.echo_report(f"the code '{code.full_label}' is there")
        return code
    beside = Path(sysconfig.get_path("scripts")) / LABEL
    program = str(beside) if beside.is_file() else shutil.which(LABEL)
    if program is None:
        raise ValueError(f"{LABEL} is not installed here; `pip install aiida-rm`, then once more")
    if not step.may(f"make the code '{LABEL}@{computer.label}' ({program})", "the engine's code"):
        return None
    code = orm.InstalledCode(label=LABEL, computer=computer, filepath_executable=program).store()
    echo.echo_success(f"made the code '{code.full_label}' <{code.pk}>")
    return code


def _start_daemon(step: _Step) -> None:
    from aiida.engine.daemon.client import get_daemon_client
    from aiida.manage import get_manager

    if get_manager().get_broker() is None:
        echo.echo_report("the profile has no broker: runs need --run, there is no daemon")
        return
    client = get_daemon_client()
    if client.is_daemon_running:
        echo.echo_report("the daemon runs")
    elif step.may("start AiiDA's daemon", "a running daemon"):
        # AiiDA wants verdi in the path, which it is not where the environment is not activated.
        scripts = sysconfig.get_path("scripts")
        done = subprocess.run(  # noqa: S603 - verdi of this environment
            [str(Path(scripts) / "verdi"), "-p", client.profile.name, "daemon", "start"],
            env={**os.environ, "PATH": os.pathsep.join((scripts, os.environ.get("PATH", "")))},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise ValueError(f"the daemon does not start: {done.stdout} {done.stderr}")
        echo.echo_success("started the daemon")
