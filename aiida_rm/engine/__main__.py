"""The program that jobs call: ``aiida-rm-engine TASK settings.json``.

Exit status: 0 finished, or stopped in order (results.json says which); 1 failed, with the
reason in results.json; 2 called wrongly.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from aiida_rm import __version__
from aiida_rm.engine.errors import DiskError, EngineError, OutOfMemoryError
from aiida_rm.engine.files import RESULTS, SETTINGS, TASKS
from aiida_rm.engine.job import Job, write_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one task; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="aiida-rm-engine", description="Response Matching.")
    parser.add_argument("task", choices=TASKS, help="what to do")
    parser.add_argument(
        "settings", nargs="?", type=Path, default=Path(SETTINGS), help="settings.json of the task"
    )
    parser.add_argument("--version", action="version", version=__version__)
    chosen = parser.parse_args(arguments)
    folder, began = chosen.settings.resolve().parent, time.monotonic()
    (folder / RESULTS).unlink(missing_ok=True)
    try:
        _run(chosen.settings, chosen.task)
    except EngineError as error:
        return _fail(folder, chosen.task, error.code, str(error), began)
    except Exception as error:  # noqa: BLE001 - a job must always say why it ended
        known = _recognise(error)
        if known is None:
            _say(traceback.format_exc().rstrip())
            return _fail(folder, chosen.task, "internal", f"{type(error).__name__}: {error}", began)
        return _fail(folder, chosen.task, known.code, str(known), began)
    return 0


def _run(settings_file: Path, task: str) -> None:
    job = Job(settings_file, task)
    job.listen()
    # torch is loaded only now: bad settings are told at once.
    from aiida_rm.engine.device import describe_engine
    from aiida_rm.engine.tasks import RUNNERS

    try:
        outcome = RUNNERS[task](job)
    finally:
        job.close()
    write_results(
        job.folder,
        task,
        status=outcome.status,
        stop_reason=outcome.stop_reason,
        engine=describe_engine(getattr(job.settings, "device", "cpu")),
        seconds=job.seconds,
        summary=outcome.summary,
    )
    print(f"{task}: {outcome.stop_reason} after {job.seconds:.1f} s", flush=True)


def _fail(folder: Path, task: str, code: str, message: str, began: float) -> int:
    _say(f"aiida-rm-engine: {message}")
    try:
        write_results(
            folder,
            task,
            status="failed",
            error={"code": code, "message": message},
            seconds=time.monotonic() - began,
        )
    except DiskError as problem:
        _say(f"aiida-rm-engine: {problem}")
    return 1


def _say(message: str) -> None:
    # On a full disk the error stream fails as well; results.json may still find room.
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr, flush=True)


def _recognise(error: Exception) -> EngineError | None:
    """Known troubles that reach us as somebody else's exception."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        return DiskError(f"the disk of the job is full or read-only ({error}); free some space")
    memory = isinstance(error, MemoryError) or "out of memory" in str(error).lower()
    # What torch's processor allocator says.
    if memory or "can't allocate memory" in str(error).lower():
        return OutOfMemoryError(
            f"the memory does not suffice ({error}); lower 'batch_atoms' or ask for more memory"
        )
    return None


if __name__ == "__main__":
    sys.exit(main())
