"""The program that jobs call: ``aiida-rm-engine TASK settings.json``.

Exit status: 0 finished, or stopped in order (results.json says which); 1 failed, with the
reason in results.json; 2 called wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from aiida_rm import __version__
from aiida_rm.engine.errors import DiskError, EngineError, SettingsError, recognise
from aiida_rm.engine.files import RESULTS, SETTINGS, TASKS
from aiida_rm.engine.job import Job, Stopped, write_results
from aiida_rm.engine.output import settle_output
from aiida_rm.engine.processes import hold_memory, peak_memory_mb
from aiida_rm.engine.training.distributed import Team, find_place
from aiida_rm.engine.training.start import end_others, start_others


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one task; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="aiida-rm-engine", description="Response Matching.")
    parser.add_argument("task", choices=TASKS, help="what to do")
    parser.add_argument(
        "settings", nargs="?", type=Path, default=Path(SETTINGS), help="settings.json of the task"
    )
    parser.add_argument(
        "--processes",
        type=int,
        default=1,
        metavar="N",
        help="train: start so many processes here, where no mpirun, srun or torchrun does",
    )
    parser.add_argument("--version", action="version", version=__version__)
    chosen = parser.parse_args(arguments)
    folder, began, team = chosen.settings.resolve().parent, time.monotonic(), Team()
    others: list[subprocess.Popen[bytes]] = []
    try:
        team = Team(find_place(os.environ, folder))
        if team.leads:
            (folder / RESULTS).unlink(missing_ok=True)
        _check_processes(chosen.task, chosen.processes, team)
        job = Job(chosen.settings, chosen.task, team)
        if chosen.processes > team.size:
            place, others = start_others(chosen.processes, chosen.settings)
            job.team = team = Team(place)
        job.check_processes()
        _run(job)
    except Exception as error:  # noqa: BLE001 - a job must always say why it ended
        return _fail(folder, chosen.task, error, began, team)
    finally:
        end_others(others)
        settle_output()
    return 0


def _check_processes(task: str, wanted: int, team: Team) -> None:
    count = max(team.size, wanted)
    if count > 1 and task != "train":
        raise SettingsError(
            f"'{task}' runs as one process, not {count}; start it without mpirun, srun, torchrun "
            "and --processes, and share the work between jobs"
        )
    if wanted < 1:
        raise SettingsError(f"'--processes' is {wanted}, must be at least 1")
    if team.size > 1 and wanted not in (1, team.size):
        raise SettingsError(
            f"'--processes' is {wanted}, but a launcher started {team.size} already; leave it out"
        )


def _run(job: Job) -> None:
    team, task = job.team, job.task
    if task != "doctor":  # which never asks; a signal ends it at once
        job.listen()
    hold_memory()
    # torch is loaded only now: bad settings are told at once.
    from aiida_rm.engine.device import describe_engine
    from aiida_rm.engine.tasks import RUNNERS, Outcome

    try:
        outcome = RUNNERS[task](job)
    except Stopped as stopped:
        outcome = Outcome(stopped.reason)
    finally:
        job.close()
    if not team.leads:
        return
    write_results(
        job.folder,
        task,
        status=outcome.status,
        stop_reason=outcome.stop_reason,
        engine={
            **describe_engine(getattr(job.settings, "device", "cpu")),
            "peak_memory_mb": peak_memory_mb(),
        },
        seconds=job.seconds,
        summary=outcome.summary,
    )
    job.say(f"{task}: {outcome.stop_reason} after {job.seconds:.1f} s")


def _fail(folder: Path, task: str, error: Exception, began: float, team: Team) -> int:
    known = recognise(error, task)
    if known is None:
        _say(traceback.format_exc().rstrip())
        known = EngineError(f"{type(error).__name__}: {error}")
    told = team.tell(known)
    # The first process says it for all, if it could be told.
    if team.leads or not told:
        _say(f"aiida-rm-engine: {known}")
    if not team.leads:
        return 1
    try:
        write_results(
            folder,
            task,
            status="failed",
            error={"code": known.code, "message": str(known)},
            seconds=time.monotonic() - began,
        )
    except DiskError as problem:
        _say(f"aiida-rm-engine: {problem}")
    return 1


def _say(message: str) -> None:
    # On a full disk the error stream fails as well; results.json may still find room.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
