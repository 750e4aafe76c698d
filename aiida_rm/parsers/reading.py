"""Read what the engine wrote, and trust none of it: sizes capped, types checked, never raising."""

from __future__ import annotations

import io
import json
import math
import re
from array import array
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.data.plain import plain_text
from aiida_rm.engine import files

#: results.json holds a few kB; metrics.jsonl a few hundred bytes an epoch.
MAX_RESULTS_BYTES = 10 * 1024 * 1024
MAX_METRICS_BYTES = 64 * 1024 * 1024
MAX_METRICS_KEYS = 64
MAX_METRICS_ROWS = 200_000
_MAX_DEPTH = 12

STATUSES = ("finished", "stopped", "failed")
STOP_REASONS = ("completed", "early_stopping", "walltime", "signal", None)
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}\Z")


class UnreadableError(Exception):
    """The bytes are not what the engine writes. The message says what is wrong."""


def read_results(content: bytes, task: str) -> dict[str, Any]:
    """Read results.json.

    Args:
        content: the bytes of the file.
        task: the task that the job was to do.

    Returns:
        The content, safe for a database: numbers that are not finite are None, no NUL characters.

    Raises:
        UnreadableError: too large, no JSON, of another schema or task, or of wrong types.
    """
    if len(content) > MAX_RESULTS_BYTES:
        raise UnreadableError(f"it has {len(content)} bytes, at most {MAX_RESULTS_BYTES} are read")
    if not content.strip():
        raise UnreadableError("it is empty")
    try:
        raw = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"it is not whole JSON ({_short(error)})") from error
    if not isinstance(raw, dict):
        raise UnreadableError(f"it holds a {type(raw).__name__}, not a table")
    try:
        results: dict[str, Any] = plain(raw)
    except ValueError as error:
        raise UnreadableError(str(error)) from error
    problem = _problem_of(results, task)
    if problem:
        raise UnreadableError(problem)
    return results


def _problem_of(results: dict[str, Any], task: str) -> str | None:
    schema, error = results.get("schema"), results.get("error")
    told = isinstance(error, dict) and all(
        isinstance(error.get(name), str) for name in ("code", "message")
    )
    checks = [
        (
            not isinstance(schema, bool) and schema == files.SCHEMA_VERSION,
            f"its schema is {_short(schema)}, this plugin reads {files.SCHEMA_VERSION}",
        ),
        (
            results.get("task") == task,
            f"it is of the task {_short(results.get('task'))}, not of '{task}'",
        ),
        (
            results.get("status") in STATUSES,
            f"its status is {_short(results.get('status'))}, not one of {', '.join(STATUSES)}",
        ),
        (
            results.get("stop_reason") in STOP_REASONS,
            f"its stop_reason is {_short(results.get('stop_reason'))}",
        ),
        (error is None or told, "its error is not a code and a message"),
        (
            results.get("status") != "failed" or error is not None,
            "it says 'failed' without an error",
        ),
        (isinstance(results.get("summary"), dict), "its summary is not a table"),
        (isinstance(results.get("engine"), dict), "its engine is not a table"),
        (_number(results.get("wall_seconds")) is not None, "its wall_seconds is no number"),
    ]
    return next((message for good, message in checks if not good), None)


def read_metrics(content: bytes) -> dict[str, NDArray[Any]]:
    """Read metrics.jsonl into one array a quantity.

    Lines that cannot be read (the last one of a killed job) are left out. A quantity that a line
    lacks is NaN there; what is not a number is left out, and so is what exceeds MAX_METRICS_ROWS
    lines and MAX_METRICS_KEYS quantities.

    Args:
        content: the bytes of the file.

    Returns:
        (N,) float64 arrays, N being the number of readable lines; empty without any.
    """
    columns: dict[str, array[float]] = {}
    rows = 0
    for line in io.BytesIO(content[:MAX_METRICS_BYTES]):
        numbers = _numbers(line)
        if not numbers or rows == MAX_METRICS_ROWS:
            continue
        for name, value in numbers.items():
            if name not in columns and len(columns) < MAX_METRICS_KEYS:
                columns[name] = array("d", [math.nan]) * rows
            if name in columns:
                columns[name].append(value)
        rows += 1
        for column in columns.values():
            if len(column) < rows:
                column.append(math.nan)
    return {name: np.array(column, dtype=np.float64) for name, column in columns.items()}


def _numbers(line: bytes) -> dict[str, float]:
    """The numbers of a line; none of what is no table."""
    try:
        raw = json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(raw, dict):
        return {}
    row = {name: _number(value) for name, value in raw.items() if _NAME.match(name)}
    return {name: value for name, value in row.items() if value is not None}


def plain(value: Any, depth: int = 0) -> Any:
    """Make JSON content safe for a database.

    Raises:
        ValueError: it is nested too deeply.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"it is nested deeper than {_MAX_DEPTH} levels")
    if isinstance(value, dict):
        return {plain_text(str(name)): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return float(value) if abs(value) < 1e300 else None
    return value


def _number(value: Any) -> float | None:
    if isinstance(value, bool | int | float):
        try:
            return float(value)
        except OverflowError:
            return None
    return None


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, Exception) else str(value)
    return plain_text(text if len(text) <= 80 else text[:77] + "...")
