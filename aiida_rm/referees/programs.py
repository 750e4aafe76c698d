"""What referees share that run a program through aiida-shell, one job a structure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from aiida.orm import Data, List, SinglefileData, Str
from aiida.parsers import Parser
from aiida_shell import ShellJob

from aiida_rm.calculations.base import WALLTIME_MARGIN
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.readers import read_dataset
from aiida_rm.parsers.base import SCHEDULER_MEMORY, SCHEDULER_WALLTIME
from aiida_rm.parsers.reading import plain
from aiida_rm.referees.base import FAILED, Referee, RefereeError
from aiida_rm.referees.functions import row_key, structure_files
from aiida_rm.workflows.common import call, verdict

#: More of a program's output is not read.
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
#: Options of every job: both streams in one file, since programs talk on stderr when all is well.
OPTIONS: Mapping[str, Any] = {
    "redirect_stderr": True,
    "withmpi": False,
    "environment_variables": {"OMP_NUM_THREADS": "1"},
}

_WALLTIME = "give a longer `max_wallclock_seconds`, or judge smaller structures"
_SIGNALS = {24: f"its walltime was over; {_WALLTIME}", 15: f"it was told to stop; {_WALLTIME}"}


class ProgramReferee(Referee):
    """A referee that runs one ShellJob a structure."""

    PROCESS = ShellJob
    OPTIONS: ClassVar[Mapping[str, Any]] = OPTIONS

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As of any referee, with a limit of processor time a little below the walltime.

        Not every scheduler keeps the walltime (core.direct does not), and a program that is ended
        by the limit leaves a word that a killed job would not.
        """
        options = super().options(given)
        limit = options.get("max_wallclock_seconds")
        if limit:
            threads = str(options["environment_variables"].get("OMP_NUM_THREADS", 1))
            seconds = int(WALLTIME_MARGIN * limit * (int(threads) if threads.isdigit() else 1))
            own = f"ulimit -S -t {max(seconds, 1)}"
            options["prepend_text"] = f"{options.get('prepend_text', '')}\n{own}".strip()
        return options


def files_of_rows(frames: FramesData, rows: list[int], kind: str) -> dict[int, SinglefileData]:
    """One file a row, made by a calcfunction.

    Raises:
        RefereeError: a structure cannot be written in this format.
    """
    found, node = call(structure_files, frames, List(rows), Str(kind))
    if not node.is_finished_ok:
        raise RefereeError(verdict(node))
    return {row: found[row_key(row)] for row in rows}


def judged(
    frames: Frames, energy: float, text: str, note: str = "", *, relaxed: bool = True
) -> dict[str, Data]:
    """The output of a run on one structure."""
    labels: dict[str, Any] = {"row": [0], "energy": [energy], "verdict": [text], "note": [note]}
    labels["relaxed"] = [relaxed]
    bare = frames.without_labels()
    return {"frames": FramesData(bare.with_labels(structure=labels))}


def judged_without(parser: Parser, reason: str, note: str = "") -> dict[str, Data]:
    """The output of a run that gave no energy: the structure as it was given."""
    return judged(given_structure(parser), np.nan, FAILED + reason, note)


def given_structure(parser: Parser) -> Frames:
    """The structure in the input file of a run."""
    node = parser.node.inputs.nodes["structure"]
    with node.as_path() as path:
        return read_dataset(path).frames.without_labels()


def read_structure(path: Path, given: Frames) -> Frames | str:
    """What a program relaxed, or why it cannot be used."""
    if path.is_symlink() or not path.is_file():
        return f"the relaxed structure '{path.name}' did not come back"
    if path.stat().st_size > MAX_OUTPUT_BYTES:
        return f"the relaxed structure '{path.name}' is no structure: it is much too large"
    try:
        frames = read_dataset(path).frames.without_labels()
        frames.check()
    except FramesError as error:
        return f"the relaxed structure cannot be read: {error}"
    last = frames[len(frames) - 1]
    if not np.array_equal(last.numbers, given.numbers):
        return "the relaxed structure has other atoms, or in another order"
    if given.pbc.any() and not last.pbc.any():
        return "the relaxed structure has no cell; give a file that holds it"
    cells = last.cells if given.pbc.any() else given.cells
    return Frames(given.numbers, last.positions, cells, given.pbc, given.ptr)


def output_text(folder: Path, name: str = ShellJob.FILENAME_STDOUT) -> str:
    """What the program printed, or a file that it wrote; empty without it."""
    path = folder / name
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as stream:
        return stream.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


def how_it_failed(folder: Path, parser: Parser, program: str, text: str) -> str | None:
    """Why a program ended badly, with a remedy, or None when it ended well."""
    verdict_of_scheduler = parser.node.exit_status
    if verdict_of_scheduler == SCHEDULER_WALLTIME:
        return _SIGNALS[24]
    if verdict_of_scheduler == SCHEDULER_MEMORY:
        return "the memory did not suffice; ask for more of it"
    said = output_text(folder, ShellJob.FILENAME_STATUS).strip()
    if not said.isdigit():
        return f"it ended without a word (killed?); {_WALLTIME}, or ask for more memory"
    status = int(said)
    if status in (126, 127):
        computer = parser.node.computer
        name = computer.label if computer else "the computer"
        return (
            f"{program} did not start on {name}; install it there, and mend the path or the "
            "prepend text of the code"
        )
    if status > 128:
        number = status - 128
        other = f"signal {number} ended it (out of memory, or its walltime was over)"
        return _SIGNALS.get(number, f"{other}; ask for more memory, or {_WALLTIME}")
    return f"{program} ended with status {status}{last_words(text)}" if status else None


def last_words(text: str) -> str:
    """The last line, for the end of a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip(" #-*\t\r")]
    return f" ({plain(lines[-1][:160])})" if lines else ""


def job_inputs(code: Any, file: SinglefileData, arguments: list[str], reader: str) -> Any:
    """Inputs of a ShellJob on one structure, read by a function of the group of readers.

    Plain values: what a work chain keeps between its steps must not be an unstored node.
    """
    return {
        "code": code,
        "nodes": {"structure": file},
        "arguments": arguments,
        "parser": f"aiida_rm.referees.readers:{reader}",
    }
