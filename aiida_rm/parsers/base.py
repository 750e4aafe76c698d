"""What all parsers share: from the files that came back to outputs and one exit code."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from aiida import orm
from aiida.engine import ExitCode
from aiida.parsers import Parser

from aiida_rm.calculations.base import EXIT_CODE_OF_ERROR
from aiida_rm.engine import files
from aiida_rm.engine.settings import SETTINGS, parse_settings
from aiida_rm.parsers.reading import (
    MAX_METRICS_BYTES,
    MAX_RESULTS_BYTES,
    UnreadableError,
    read_results,
)

#: The scheduler's own verdicts (aiida-core): out of memory, out of walltime, node failure.
SCHEDULER_MEMORY, SCHEDULER_WALLTIME, SCHEDULER_NODE = 110, 120, 140

_NOT_FOUND = (
    "command not found",
    ": not found",
    "no such file or directory",
    "no module named",
    "cannot execute",
    "permission denied",
    "executable file not found",
)
#: A package that the engine needs is absent or broken.
_NO_IMPORT = ("ModuleNotFoundError", "ImportError")
_NO_SPACE = ("no space left on device", "disk quota exceeded")
_NO_MEMORY = (
    "out of memory",
    "oom-kill",
    "oom_kill",
    "cannot allocate memory",
    "memoryerror",
    "bad_alloc",
)
_TAIL_BYTES = _PIECE_BYTES = 64 * 1024
#: Letters of an exit message that are the engine's.
_MAX_MESSAGE = 2000


class EngineParser(Parser):
    """Attach every valid output first, then decide how the job ended.

    A subclass attaches its outputs in :meth:`collect` and says what is wrong with them.
    """

    CACHE_VERSION = 1
    TASK: ClassVar[str]

    #: The exit code of outputs that are missing or not valid.
    MISSING: ClassVar[str] = "ERROR_FRAMES_MISSING"
    #: Whether the engine says that it finished; known before the outputs are collected.
    finished = False
    #: Whether a job that was killed left something to go on from.
    can_go_on = False
    #: What the engine counted; empty without results.
    summary: Mapping[str, Any] = MappingProxyType({})

    def parse(self, **kwargs: Any) -> ExitCode | None:
        """Make output nodes of the files of a job.

        Args:
            **kwargs: ``retrieved_temporary_folder``, where the large outputs lie.

        Returns:
            None when all is well or when the scheduler's own verdict says more.
        """
        folder = Path(str(kwargs.get("retrieved_temporary_folder") or "/nonexistent"))
        results: dict[str, Any] | None = None
        unreadable: str | None = None
        content = self.read(files.RESULTS, MAX_RESULTS_BYTES + 1)
        if content is not None:
            try:
                results = read_results(content, self.TASK)
            except UnreadableError as error:
                unreadable = str(error)
        if results is not None:
            self.out("results", orm.Dict(results))
            self.finished = results["status"] == "finished"
            self.summary = results["summary"]
        problem = self.collect(folder)
        if results is None:
            return self._without_results(unreadable)
        if results["status"] == "failed":
            return self._failed(results)
        if results["status"] == "stopped":
            return self._stopped(results)
        if problem is not None:
            return self._missing(problem)
        # Not None: a finished job is good even if the scheduler had something to say.
        return ExitCode(0)

    @abstractmethod
    def collect(self, folder: Path) -> str | None:
        """Attach the outputs that are valid.

        Args:
            folder: where the large outputs lie; may be absent.

        Returns:
            What is wrong with the outputs that a finished job must have, or None.
        """

    @property
    def settings(self) -> Any:
        """The complete settings of the job."""
        return parse_settings(SETTINGS[self.TASK], self.node.inputs.settings.get_dict())

    def read(self, name: str, limit: int = MAX_METRICS_BYTES) -> bytes | None:
        """At most ``limit`` bytes of a retrieved file, or None without it."""
        try:
            with self.retrieved.base.repository.open(name, "rb") as handle:
                # In pieces: read(limit) would take that much memory for any file.
                pieces = iter(lambda: handle.read(_PIECE_BYTES), b"")
                return b"".join(itertools.islice(pieces, -(-limit // _PIECE_BYTES)))[:limit]
        except (OSError, KeyError, ValueError):
            return None

    def exit(self, label: str, **values: Any) -> ExitCode:
        """An exit code of the job's class, its message filled in."""
        code: ExitCode = getattr(self.exit_codes, label)
        return code.format(**values)

    def _failed(self, results: dict[str, Any]) -> ExitCode:
        error = results["error"]
        if error["code"] == "internal" and error["message"].startswith(_NO_IMPORT):
            return self._not_found(error["message"].strip()[:_MAX_MESSAGE].rstrip("."))
        label = EXIT_CODE_OF_ERROR.get(error["code"], "ERROR_ENGINE_DIED")
        message = (
            error["message"].strip()[:_MAX_MESSAGE].rstrip(".") or error["code"][:_MAX_MESSAGE]
        )
        return self.exit(label, message=message)

    def _stopped(self, results: dict[str, Any]) -> ExitCode:
        if "state" in self.node.process_class.spec().outputs and not self.can_go_on:
            return self.exit("ERROR_STATE_MISSING", message="no valid file came back")
        label = "ERROR_SIGNAL" if results.get("stop_reason") == "signal" else "ERROR_WALLTIME"
        return self.exit(label, message=self.progress())

    def progress(self) -> str:
        """How far a job got that was cut short."""
        kept = "frames" in self.outputs or "potential" in self.outputs
        return "what it had finished is kept" if kept else "nothing was finished"

    def _missing(self, problem: str) -> ExitCode:
        if _mentions(self._errors(), _NO_SPACE):
            return self.exit("ERROR_DISK_FULL", message="no space left on the device")
        return self.exit(self.MISSING, message=problem)

    def _without_results(self, unreadable: str | None) -> ExitCode | None:
        """No word from the engine: ask the scheduler and the error streams."""
        verdict = self.node.exit_status
        errors = self._errors()
        if verdict == SCHEDULER_MEMORY or _mentions(errors, _NO_MEMORY):
            return self.exit("ERROR_OUT_OF_MEMORY", message="the job was ended for it")
        if self.can_go_on:
            return self.exit("ERROR_KILLED", message=self.progress())
        if verdict in (SCHEDULER_WALLTIME, SCHEDULER_NODE):
            return None  # its own code is the better one
        if _mentions(errors, _NO_SPACE):
            return self.exit("ERROR_DISK_FULL", message="no space left on the device")
        if unreadable is not None:
            return self.exit("ERROR_RESULTS_UNREADABLE", message=unreadable)
        return self._died(errors)

    def _died(self, errors: str) -> ExitCode:
        last = [line.strip() for line in errors.splitlines() if line.strip()][-1:]
        # The engine opens this file before anything else.
        if files.METRICS not in self.retrieved.base.repository.list_object_names():
            line = _mentions(errors, _NOT_FOUND) or (last[0][:200] if last else "")
            return self._not_found(line or "the program said nothing, so it may be another one")
        message = last[0][:200] if last else "it was killed, or the disk is full"
        return self.exit("ERROR_ENGINE_DIED", message=message)

    def _not_found(self, message: str) -> ExitCode:
        computer = self.node.computer
        launcher = computer.get_mpirun_command()[:1] if computer else []
        if launcher and f"{launcher[0]}: " in message:
            message += "; where there is none, set the option `withmpi` to False"
        name = computer.label if computer else "the computer"
        return self.exit("ERROR_ENGINE_NOT_FOUND", computer=name, message=message)

    def _errors(self) -> str:
        """The error streams of the engine and of the scheduler."""
        names = [files.STDERR, self.node.get_option("scheduler_stderr")]
        contents = [self.read(name, _TAIL_BYTES) or b"" for name in names if name]
        return "\n".join(content.decode("utf-8", "replace") for content in contents)


def _mentions(text: str, phrases: tuple[str, ...]) -> str:
    """The first line that holds one of the phrases (in lower case), or nothing."""
    for line in text.splitlines():
        if any(phrase in line.lower() for phrase in phrases):
            return line.strip()[:200]
    return ""
