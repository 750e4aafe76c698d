"""An AiiDA profile of the project's own, under ``.demo``: SQLite, no services, localhost."""

from __future__ import annotations

import logging
import os
import sysconfig
import warnings
from pathlib import Path
from typing import Any

from rich.console import Console

FOLDER = Path(__file__).resolve().parent.parent / ".demo"
PROFILE = "demo"


def open_profile(console: Console) -> Any:
    """Make the profile, computer and code where they are missing, and load them.

    Returns:
        The code node of the engine.
    """
    FOLDER.mkdir(exist_ok=True)
    # Before AiiDA is imported: it reads the variable then.
    os.environ["AIIDA_PATH"] = str(FOLDER)
    # AiiDA's database layer tells, at every node, how it saves it; harmless, and not for a user.
    warnings.filterwarnings("ignore", message="Object of type .* not in session")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from aiida.manage.configuration import create_profile, get_config, load_profile

        config = get_config(create=True)
        if PROFILE not in config.profile_names:
            console.print(f"making a profile in {FOLDER}")
            create_profile(
                config,
                name=PROFILE,
                email="demo@localhost",
                storage_backend="core.sqlite_dos",
                storage_config={},
            )
            config.set_default_profile(PROFILE)
            # A work chain looks after its children once a second, not once a minute.
            config.set_option("runner.poll.interval", 1, scope=PROFILE)
            config.store()
        load_profile(PROFILE)
    code = _code(_computer())
    # Warnings and errors alone on this screen; what the work chains report goes to the database.
    for handler in logging.getLogger("aiida").handlers:
        if handler.get_name() == "console":
            handler.setLevel(logging.WARNING)
            # AiiDA looks once more after the monitors of a job that has just ended; harmless.
            handler.addFilter(lambda record: "skipping task_monitor_job" not in record.getMessage())
    return code


def _computer() -> Any:
    from aiida import orm

    found = orm.Computer.collection.find({"label": "localhost"})
    if found:
        return found[0]
    scratch = FOLDER / "scratch"
    scratch.mkdir(exist_ok=True)
    computer = orm.Computer(
        label="localhost",
        hostname="localhost",
        transport_type="core.local",
        scheduler_type="core.direct",
        workdir=str(scratch),
    ).store()
    computer.set_minimum_job_poll_interval(1.0)
    computer.configure(safe_interval=0.0, use_login_shell=False)
    return computer


def _code(computer: Any) -> Any:
    from aiida import orm

    program = Path(sysconfig.get_path("scripts")) / "aiida-rm-engine"
    query = orm.QueryBuilder().append(
        orm.InstalledCode,
        filters={"label": "aiida-rm-engine", "attributes.filepath_executable": str(program)},
    )
    if query.count():
        return query.first(flat=True)
    return orm.InstalledCode(
        label="aiida-rm-engine", computer=computer, filepath_executable=str(program)
    ).store()
