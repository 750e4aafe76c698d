"""A job's folder: settings in, progress and results out, and reasons to stop."""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import math
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

from aiida_rm.engine.errors import DiskError, SettingsError, StateError, brief
from aiida_rm.engine.files import (
    INPUT_STATE,
    METRICS,
    OUTPUT_STATE,
    PREVIOUS_STATE,
    RESULTS,
    SCHEMA_VERSION,
)
from aiida_rm.engine.output import say
from aiida_rm.engine.settings import SETTINGS, Settings, parse_settings
from aiida_rm.engine.training.distributed import Team

#: A settings file is small; more is not one.
_MAX_SETTINGS_BYTES = 10_000_000
#: How often torchrun, and SLURM, started this job again, in the same folder.
_RESTARTS = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
#: Held from the beginning, so that a disk that fills up later leaves room to say so.
_RESERVED_BYTES = 16 * 1024


class Stopped(Exception):  # noqa: N818 - nothing is wrong
    """A task ends before its time and leaves nothing."""

    def __init__(self, reason: str) -> None:
        """What :meth:`Job.should_stop` says."""
        super().__init__(reason)
        self.reason = reason


class Job:
    """One run of one task in one folder.

    Attributes:
        folder: where all files of the job are.
        task: one of files.TASKS.
        settings: the task's knobs.
        team: the processes that do it together; only the first one writes.
    """

    def __init__(self, settings_file: Path, task: str, team: Team | None = None) -> None:
        """Read the settings file.

        Raises:
            SettingsError: it is missing, not JSON, for another task, or holds bad values.
            DiskError: there is no room to say anything.
        """
        self.began = time.monotonic()
        self.folder = settings_file.resolve().parent
        self.task = task
        self.team = team or Team()
        self._signal: str | None = None
        content = _read_settings(settings_file, task)
        self.settings: Settings = parse_settings(SETTINGS[task], content["settings"])
        walltime = content.get("run", {}).get("walltime_seconds")
        if walltime is not None and (
            isinstance(walltime, bool) or not isinstance(walltime, int | float) or walltime <= 0
        ):
            raise SettingsError(f"'run.walltime_seconds' must be above 0, is {brief(walltime)}")
        self.walltime: float | None = walltime
        self._processes = content.get("run", {}).get("processes")
        self._metrics: TextIO | None = None
        if not self.team.leads:
            return
        self._metrics = (self.folder / METRICS).open("w", encoding="utf-8", buffering=1)
        try:
            _temporary(self.folder).write_bytes(b" " * _RESERVED_BYTES)
        except OSError as error:
            raise DiskError(f"the disk is full already ({error}); free some space") from error

    def check_processes(self) -> None:
        """Whether as many processes found each other as the job asked for.

        Raises:
            SettingsError: others, which would train several times over in the same folder.
        """
        if self._processes is not None and self._processes != self.team.size:
            raise SettingsError(
                f"the job is for {self._processes!r} processes, but this one is among "
                f"{self.team.size}; the launcher is none that is known (torchrun, Open MPI, MPICH, "
                "Intel MPI, SLURM), or starts another number. Switch `withmpi` off to have the "
                "engine start them, or ask for one process"
            )

    def path(self, name: str) -> Path:
        """A file or folder of the job."""
        return self.folder / name

    def optional(self, name: str) -> Path | None:
        """The same, or None where it is absent."""
        path = self.folder / name
        return path if path.exists() else None

    def state_to_go_on_from(self) -> Path | None:
        """The training state that was given; of a job that was started again, its own.

        Raises:
            StateError: another training left a state here, which this one would replace.
        """
        given, own = self.optional(INPUT_STATE), self.optional(OUTPUT_STATE)
        if own is None and given is None:
            own = self.optional(PREVIOUS_STATE)
        if own is None:
            return given
        if any(os.environ.get(name, "0") != "0" for name in _RESTARTS):
            return own
        if given is not None and filecmp.cmp(given, own, shallow=False):
            return given
        otherwise = "begin anew" if given is None else "go on from the given one"
        raise StateError(
            f"'{own.name}' is of an earlier training in this folder, which this one would replace; "
            f"rename it to '{INPUT_STATE}' to go on from it, or delete '{OUTPUT_STATE}' and "
            f"'{PREVIOUS_STATE}' to {otherwise}"
        )

    def listen(self) -> None:
        """From now on SIGTERM, SIGINT and SIGUSR1 ask for an orderly stop."""
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number).name

    def should_stop(self, share: float = 1.0) -> str | None:
        """``signal``, or ``walltime`` after that share of it, when it is time to end; else None."""
        if self._signal:
            return "signal"
        if self.walltime is not None and time.monotonic() - self.began > share * self.walltime:
            return "walltime"
        return None

    def check_stop(self) -> None:
        """End the task when it is time to, for work that is worth nothing before it is done.

        Raises:
            Stopped: it is time.
        """
        if reason := self.should_stop():
            raise Stopped(reason)

    @property
    def seconds(self) -> float:
        """Since the job began."""
        return time.monotonic() - self.began

    def say(self, line: str) -> None:
        """Print a line, once for all processes; that nobody takes it is no reason to stop."""
        if self.team.leads:
            say(line)

    def metric(self, values: Mapping[str, Any]) -> None:
        """Add a line to the metrics; a full disk passes, the results matter more."""
        if self._metrics is None:
            return
        try:
            self._metrics.write(json.dumps(finite(values), sort_keys=True) + "\n")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise

    def close(self) -> None:
        """Nothing more will be measured."""
        # What a full disk did not take is tried again here.
        with contextlib.suppress(OSError):
            if self._metrics is not None:
                self._metrics.close()


def write_results(
    folder: Path,
    task: str,
    *,
    status: str,
    stop_reason: str | None = None,
    error: Mapping[str, str] | None = None,
    engine: Mapping[str, Any] | None = None,
    seconds: float = 0.0,
    summary: Mapping[str, Any] | None = None,
) -> None:
    """Write results.json, the last act of a job; whole or not at all.

    Raises:
        DiskError: it cannot be written.
    """
    content = {
        "schema": SCHEMA_VERSION,
        "task": task,
        "status": status,
        "stop_reason": stop_reason,
        "error": error,
        "engine": engine or {},
        "wall_seconds": round(seconds, 3),
        "summary": summary or {},
    }
    text = json.dumps(finite(content), indent=1, sort_keys=True) + "\n"
    temporary = _temporary(folder)
    try:
        # In place of the reserved room, which a new file would first give up.
        with temporary.open("r+b" if temporary.exists() else "wb") as handle:
            handle.write(text.encode())
            handle.truncate()
        temporary.replace(folder / RESULTS)
    except OSError as problem:
        raise DiskError(f"'{RESULTS}' could not be written: {problem}") from problem


def _temporary(folder: Path) -> Path:
    return folder / f"{RESULTS}.tmp"


def finite(value: Any) -> Any:
    """The same with None for every NaN and infinity, which JSON does not know."""
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read_settings(file: Path, task: str) -> dict[str, Any]:
    try:
        if file.stat().st_size > _MAX_SETTINGS_BYTES:
            raise SettingsError(f"'{file.name}' is too large for a settings file")
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise SettingsError(
            f"there is no file '{file}'; write one, such as {{\"settings\": {{}}}} for all defaults"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise SettingsError(f"'{file.name}' cannot be read as JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("settings"), dict):
        raise SettingsError(f"'{file.name}' must be a table with the key 'settings'")
    if content.get("schema", SCHEMA_VERSION) != SCHEMA_VERSION:
        raise SettingsError(
            f"'{file.name}' has schema {brief(content['schema'])}, this engine reads "
            f"{SCHEMA_VERSION}; use the same version of aiida-rm on both machines"
        )
    if content.get("task", task) != task:
        raise SettingsError(f"'{file.name}' is for the task {brief(content['task'])}, not '{task}'")
    if not isinstance(content.get("run", {}), dict):
        raise SettingsError(f"'run' in '{file.name}' must be a table")
    return content
