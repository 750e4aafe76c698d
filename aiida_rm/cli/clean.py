"""``aiida-rm clean``: remove the work folders of jobs that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import click
from aiida.cmdline.params import types
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Command, UsageError
from aiida_rm.cli.output import DAYS, JSON, counted, print_json, print_table

#: Folders whose sizes are asked for at once.
_CHUNK = 100


@dataclass
class Folder:
    """The work folder of a job."""

    job: int
    process: str
    state: str
    computer: str
    path: str
    megabytes: float | None
    remote: Any


@click.command("clean", cls=Command)
@click.argument("processes", nargs=-1, type=types.ProcessParamType())
@click.option("--older-than", type=DAYS, metavar="DAYS", help="Of jobs that began before that.")
@click.option("--computer", type=types.ComputerParamType(), help="On this computer alone.")
@click.option("--finished", is_flag=True, help="Only of jobs that ended well; keep what failed.")
@click.option("-n", "--dry-run", is_flag=True, help="Show them; remove nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@JSON
@decorators.with_dbenv()
def clean(
    processes: tuple[Any, ...],
    older_than: int | None,
    computer: Any,
    finished: bool,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Remove the work folders of jobs that have ended: all of this package, or of PROCESSES.

    What the jobs brought back stays in AiiDA; folders of running processes are never touched. It
    shows what it would remove, and asks. A job that AiiDA took from its cache has no folder of its
    own.
    """
    if as_json and not (dry_run or yes):
        raise UsageError("--json needs --dry-run or --yes: there is nobody to ask")
    folders = find(processes, older_than, computer, finished=finished)
    measure(folders)
    if as_json and dry_run:
        print_json([_row(folder) for folder in folders])
        return
    if not folders and not as_json:
        echo.echo_report("there are no work folders to remove")
        return
    if not as_json:
        _show(folders)
    if dry_run:
        echo.echo_report("nothing was removed (--dry-run)")
        return
    if not yes and not click.confirm(f"Remove {counted(len(folders), 'folder')}?"):
        echo.echo_report("nothing was removed")
        return
    problems = remove(folders)
    if as_json:
        told = [{**_row(one), "problem": problems.get(one.job)} for one in folders]
        print_json(told)
    else:
        for job, reason in problems.items():
            echo.echo_error(f"the folder of <{job}> is still there: {reason}")
        echo.echo_success(f"removed {counted(len(folders) - len(problems), 'folder')}")
    if problems:
        raise click.exceptions.Exit(1)


def find(
    processes: Sequence[Any], older_than: int | None, computer: Any, *, finished: bool
) -> list[Folder]:
    """The folders of jobs that have ended, as all that called them has."""
    from aiida import orm
    from aiida.common import timezone

    filters: dict[str, Any] = {
        "process_type": {"like": "aiida.calculations:rm.%"},
        "attributes.process_state": {"in": ["finished", "excepted", "killed"]},
    }
    if finished:
        filters["attributes.exit_status"] = 0
    if older_than is not None:
        filters["ctime"] = {"<": timezone.now() - timedelta(days=older_than)}
    if processes:
        jobs = [
            one for node in processes for one in (node, *getattr(node, "called_descendants", []))
        ]
        filters["id"] = {"in": [job.pk for job in jobs]}
    query = orm.QueryBuilder()
    query.append(orm.CalcJobNode, filters=filters, tag="job", project="*")
    query.append(
        orm.RemoteData,
        with_incoming="job",
        edge_filters={"label": "remote_folder"},
        project="*",
    )
    query.order_by({"job": {"ctime": "asc"}})
    found, users = [], _users()
    for job, remote in query.all():
        if remote.is_cleaned or _goes_on(job) or (computer and job.computer.pk != computer.pk):
            continue
        place = (remote.computer.pk, remote.base.attributes.get("remote_path"))
        if _is_of_another(job, users.get(place, [])):
            continue
        state = f"[{job.exit_status}]" if job.is_finished else job.process_state.value
        found.append(
            Folder(
                job.pk,
                job.process_label,
                state,
                job.computer.label,
                remote.get_remote_path(),
                None,
                remote,
            )
        )
    return found


def measure(folders: Sequence[Folder]) -> None:
    """Ask each computer how large they are; those that do not answer stay without a size."""
    from aiida.common.escaping import escape_for_bash

    for name in dict.fromkeys(folder.computer for folder in folders):
        here = [folder for folder in folders if folder.computer == name]
        try:
            with here[0].remote.computer.get_transport() as transport:
                for first in range(0, len(here), _CHUNK):
                    part = here[first : first + _CHUNK]
                    paths = " ".join(escape_for_bash(folder.path) for folder in part)
                    _, text, _ = transport.exec_command_wait(f"du -sk {paths} 2>/dev/null")
                    sizes = dict(reversed(line.split("\t", 1)) for line in text.splitlines())
                    for folder in part:
                        if folder.path in sizes:
                            folder.megabytes = int(sizes[folder.path]) / 1024
        except Exception as error:  # noqa: BLE001 - every transport has errors of its own
            echo.echo_warning(f"{name} does not answer: {' '.join(str(error).split())}")


def remove(folders: Sequence[Folder]) -> dict[int, str]:
    """Remove them; what went wrong, by the PK of the job."""
    problems: dict[int, str] = {}
    for name in dict.fromkeys(folder.computer for folder in folders):
        here = [folder for folder in folders if folder.computer == name]
        left = {folder.job for folder in here}
        try:
            with here[0].remote.computer.get_transport() as transport:
                for folder in here:
                    folder.remote._clean(transport=transport)
                    left.discard(folder.job)
        except Exception as error:  # noqa: BLE001 - every transport has errors of its own
            reason = " ".join(str(error).split()) or type(error).__name__
            problems |= dict.fromkeys(left, f"{name}: {reason}")
    return problems


def _users() -> dict[tuple[int, str], list[int]]:
    """The jobs that have each folder, by computer and path: from the cache come several."""
    from aiida import orm

    query = orm.QueryBuilder()
    query.append(orm.CalcJobNode, tag="job", project="id")
    query.append(
        orm.RemoteData,
        with_incoming="job",
        edge_filters={"label": "remote_folder"},
        project="attributes.remote_path",
        tag="remote",
    )
    query.append(orm.Computer, with_node="remote", project="id")
    users: dict[tuple[int, str], list[int]] = {}
    for job, path, computer in query.all():
        users.setdefault((computer, path), []).append(job)
    return users


def _is_of_another(job: Any, users: Sequence[int]) -> bool:
    """Whether a job's folder is that of an older one, or a process that goes on has it, too."""
    from aiida import orm

    if job.base.caching.is_created_from_cache:
        return True
    others = [orm.load_node(pk) for pk in users if pk != job.pk]
    # An archive may have come without the mark of the cache.
    return any(other.ctime < job.ctime or _goes_on(other) for other in others)


def _goes_on(node: Any) -> bool:
    """Whether anything that called a process has not ended."""
    while node is not None:
        if not node.is_terminated:
            return True
        node = node.caller
    return False


def _show(folders: Sequence[Folder]) -> None:
    headers = {
        "job": "Job",
        "process": "Process",
        "state": "Ended",
        "computer": "Computer",
        "megabytes": "MB",
        "path": "Folder",
    }
    rows = [_row(folder) for folder in folders]
    for row in rows:
        if row["megabytes"] is not None:
            row["megabytes"] = f"{row['megabytes']:.1f}"
    print_table(rows, headers, longest=100)
    total = sum(folder.megabytes or 0.0 for folder in folders)
    click.echo(f"\n{counted(len(folders), 'folder')}, {total:.1f} MB")


def _row(folder: Folder) -> dict[str, Any]:
    return {name: value for name, value in vars(folder).items() if name != "remote"}
