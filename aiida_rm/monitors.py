"""Monitors: what a job's files say while it runs, and whether it is better ended.

AiiDA calls a monitor when it asks the scheduler for a job, if it is among the job's inputs:
``monitors={"silent": {"entry_point": "rm.silent", "kwargs": {"seconds": 1800}}}``. A job that is
ended so brings back its files, as any other; its exit status is 150, with the monitor's message.
"""

from __future__ import annotations

import json
import math
from pathlib import PurePosixPath

from aiida.common.escaping import escape_for_bash
from aiida.engine import CalcJob
from aiida.orm import CalcJobNode
from aiida.schedulers import JobState
from aiida.transports import Transport

from aiida_rm.engine import files

#: How the messages begin, by which the work chains tell them apart.
EXPLODING = "the training diverges"
SILENT = "the engine has said nothing"
UNUSED = "the GPU waits for data"

_MEASURES = ("loss", "validation_loss", "force_error")
#: Of the metrics; more than two thousand epochs.
_TAIL_BYTES = 1024 * 1024


def exploding(node: CalcJobNode, transport: Transport, factor: float = 1000.0) -> str | None:
    """End a training whose last epoch was far worse than its best one, or no number.

    Args:
        node: the job.
        transport: open, to its computer.
        factor: how much worse the loss or the error of the forces may become; 0 switches the
            monitor off.
    """
    if factor <= 0 or not _works(node, transport):
        return None
    rows = _metrics(node, transport)
    for name in _MEASURES:
        values = [row[name] for row in rows if name in row]
        if not values:
            continue
        last = values[-1]
        # The engine writes null for what is no number.
        if last is None or not math.isfinite(last):
            return f"{EXPLODING}: '{name}' is no number in the last of {len(values)} epochs"
        best = min(value for value in values if value is not None and math.isfinite(value))
        if last > factor * best > 0:
            return f"{EXPLODING}: '{name}' is {last:.4g} now, and was {best:.4g}"
    return None


def silent(node: CalcJobNode, transport: Transport, seconds: float = 3600.0) -> str | None:
    """End a job whose engine has written nothing for too long.

    Args:
        node: the job.
        transport: open, to its computer.
        seconds: longest silence, by the computer's own clock; 0 switches the monitor off.
    """
    if seconds <= 0 or not _works(node, transport):
        return None
    paths = [_path(node, name) for name in (files.STDOUT, files.STDERR, files.METRICS)]
    spoken = [transport.get_attribute(path)["st_mtime"] for path in paths if transport.isfile(path)]
    status, clock, _ = transport.exec_command_wait("date +%s")
    now = clock.split()[-1:]  # a login shell may have greeted first
    if not spoken or status != 0 or not now or not now[0].isdigit():
        return None
    quiet = int(now[0]) - max(spoken)
    return f"{SILENT} for {quiet:.0f} s, longer than {seconds:g} s" if quiet > seconds else None


def gpu_unused(
    node: CalcJobNode, transport: Transport, share: float = 0.9, epochs: int = 3
) -> str | None:
    """End a training on a GPU that mostly waits for its next batch.

    Args:
        node: the job.
        transport: open, to its computer.
        share: of the time of an epoch that may be spent waiting; 0 switches the monitor off.
        epochs: in a row that have to be so. The first one of a job, which finds its pace, does not
            count, nor do those before it that came with a state.
    """
    if share <= 0 or not _works(node, transport):
        return None
    epochs = max(1, epochs)
    first = (node.inputs.state.epoch if "state" in node.inputs else 0) + 1
    rows = [row for row in _metrics(node, transport) if (row.get("epoch") or 0) > first]
    rows = rows[-epochs:]
    waiting = [row.get("waiting") or 0.0 for row in rows if row.get("gpu") == 1.0]
    if len(waiting) < epochs or min(waiting) <= share:
        return None
    return f"{UNUSED} {min(waiting):.0%} of the time, for {epochs} epochs"


def ended_by(node: CalcJobNode, what: str) -> bool:
    """Whether a monitor ended a job for this reason: EXPLODING, SILENT or UNUSED."""
    stopped = node.exit_status == CalcJob.exit_codes.STOPPED_BY_MONITOR.status
    return stopped and (node.exit_message or "").startswith(what)


def _works(node: CalcJobNode, transport: Transport) -> bool:
    """Whether a job runs and is not at its end: results are the last thing the engine writes."""
    running = node.get_scheduler_state() is JobState.RUNNING and node.get_remote_workdir()
    return bool(running) and not transport.isfile(_path(node, files.RESULTS))


def _path(node: CalcJobNode, name: str) -> str:
    return str(PurePosixPath(node.get_remote_workdir() or "/") / name)


def _metrics(node: CalcJobNode, transport: Transport) -> list[dict[str, float | None]]:
    """The last epochs that a job wrote down."""
    path = _path(node, files.METRICS)
    if not transport.isfile(path):
        return []
    status, tail, _ = transport.exec_command_wait(f"tail -c {_TAIL_BYTES} {escape_for_bash(path)}")
    return _rows(tail) if status == 0 else []


def _rows(text: str) -> list[dict[str, float | None]]:
    """The numbers (or nulls) of each whole line of the metrics; never raising."""
    rows = []
    for line in text.split("\n")[:-1]:
        try:
            row = json.loads(line, parse_int=float)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict):
            kinds = (float, type(None))
            rows.append({name: value for name, value in row.items() if isinstance(value, kinds)})
    return rows
