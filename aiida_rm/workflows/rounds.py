"""The table of a loop: a row a round, and when the rows say that it is enough."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict, Int, Str

from aiida_rm.calculations.functions import ERROR_BAD_SETTINGS, foreign
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.knobs import knob
from aiida_rm.referees.base import CONVERGED

#: The first columns of the table, in this order; what referees said comes after them.
COLUMNS = (
    "round",
    "dataset",
    "generated",
    "converged",
    "valid",
    "unique",
    "novel",
    "judged",
    "accepted",
    "yield",
    "lowest_energy_per_atom",
    "median_uncertainty",
    "force_error",
    "seconds_training",
    "seconds_generating",
)


@dataclass(frozen=True)
class StopSettings:
    """When a loop ends before its last round; what is 0 is not asked for."""

    min_accepted: int = knob(0, "end after a round that accepts fewer structures", low=0)
    min_yield: float = knob(
        0.0, "end after a round whose accepted are a smaller share of its generated", low=0, high=1
    )
    patience: int = knob(1, "so many such rounds, one after the other", low=1)
    recovered: float = knob(
        0.0, "end when so large a share of the known structures was found", low=0, high=1
    )


def why_stop(rows: Sequence[Mapping[str, Any]], settings: StopSettings, n_known: int) -> str:
    """Say why a loop with these rounds behind it ends, or nothing.

    Args:
        rows: of :func:`describe_round`, in order.
        settings: the criteria.
        n_known: how many names the known structures have.
    """
    s = settings
    if s.recovered and n_known:
        found = len(names_found(rows))
        if found >= s.recovered * n_known:
            return f"{found} of {n_known} known structures were found"
    last = rows[-s.patience :]
    if len(last) < s.patience:
        return ""
    rounds = "the last round" if s.patience == 1 else f"each of the last {s.patience} rounds"
    if s.min_accepted and all(row["accepted"] < s.min_accepted for row in last):
        return f"{rounds} accepted fewer than {s.min_accepted} structures"
    if s.min_yield and all(row["yield"] < s.min_yield for row in last):
        return f"{rounds} accepted less than {s.min_yield:.3g} of the generated"
    return ""


def names_found(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the known structures that any of these rounds found."""
    return {name for row in rows for name in row.get("matches") or {}}


@calcfunction
def describe_round(
    number: Int,
    dataset: FramesData,
    scored: FramesData,
    training: Dict,
    scores: Dict,
    accepted: FramesData | None = None,
    judged: FramesData | None = None,
    **searches: Dict,
) -> Dict:
    """What one round of a loop found, as one flat row.

    Args:
        number: of the round, from 1.
        dataset: the structures that the round began with.
        scored: the generated structures with their verdicts.
        training: results of the training.
        scores: results of the scoring.
        accepted: the structures that joined the dataset, if any.
        judged: the structures that the referees got, if any, with what they said.
        searches: results of the jobs that generated.
    """
    row: dict[str, Any] = {
        "round": number.value,
        "dataset": len(dataset),
        "generated": len(scored),
        **_times(training.get_dict(), [node.get_dict() for node in searches.values()]),
    }
    told = _table(scores.get_dict(), "summary")
    for name in ("converged", "valid", "unique", "novel"):
        row[name] = _number(told.get(name))
    row["accepted"] = len(accepted) if accepted is not None else 0
    row["yield"] = row["accepted"] / max(len(scored), 1)
    labels = scored.get_frames().structure
    row["lowest_energy_per_atom"] = _finite(np.min, labels.get("energy_per_atom"))
    row["median_uncertainty"] = _finite(np.median, labels.get("uncertainty"))
    validation = _table(training.get_dict(), "summary", "validation")
    row["force_error"] = _number(validation.get("force_error"))
    if judged is not None:
        row |= _judged(judged)
    found = _table(told, "matches")
    row["matches"] = {name: count for name, count in found.items() if type(count) is int}
    return Dict(row)


@calcfunction
def summarise_rounds(stopped: Str | None = None, **rounds: Dict) -> Dict | ExitCode:
    """The rounds of a loop as one table.

    Args:
        stopped: why the loop ended before its last round.
        rounds: what each round found, under keys whose order is that of the rounds. Numbers and
            texts become columns, tables of numbers (such as ``matches``) are added up.

    Returns:
        ``rounds``: a row a round, with ``None`` where it says nothing, and ``found``: how many
        different known structures there were up to it; ``columns``: their names; ``total``: sums
        of whole numbers over the rounds, and the sums of the tables; ``stopped``.
    """
    if message := foreign(rounds, Dict):
        return ERROR_BAD_SETTINGS.format(message=message)
    tables = [rounds[key].get_dict() for key in sorted(rounds)]
    names = {name for table in tables for name, value in table.items() if _scalar(value)}
    # A database may have turned the order of the names.
    columns = [*(n for n in COLUMNS if n in names), *sorted(names - {*COLUMNS})]
    rows = [
        {
            **{name: table.get(name) for name in columns},
            "found": len(names_found(tables[: place + 1])),
        }
        for place, table in enumerate(tables)
    ]
    total: dict[str, Any] = {}
    for table in tables:
        for name, value in table.items():
            if type(value) is int and name not in ("round", "dataset"):
                total[name] = total.get(name, 0) + value
            elif isinstance(value, dict):
                total[name] = _add(total.get(name, {}), value)
    return Dict(
        {
            "n_rounds": len(rows),
            "columns": [*columns, "found"],
            "rounds": rows,
            "total": total,
            "stopped": stopped.value if stopped is not None else "",
        }
    )


def _judged(judged: FramesData) -> dict[str, Any]:
    """What each referee said, by its name."""
    labels = judged.get_frames().structure
    row: dict[str, Any] = {"judged": len(judged)}
    for name in sorted(label.removesuffix("_row") for label in labels if label.endswith("_row")):
        if f"{name}_verdict" not in labels:
            continue
        good = labels[f"{name}_verdict"] == CONVERGED
        row[f"{name}_converged"] = int(good.sum())
        for part in ("energy_per_atom", "above_hull"):
            values = labels.get(f"{name}_{part}")
            if values is not None:
                row[f"{name}_lowest_{part}"] = _finite(np.min, values[good])
    return row


def _times(training: Mapping[str, Any], searches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds of the jobs, where they say so."""
    seconds = [_number(search.get("wall_seconds")) for search in searches]
    generating = [one for one in seconds if one]
    return {
        "seconds_training": _number(training.get("wall_seconds")),
        "seconds_generating": sum(generating) if generating else None,
    }


def _table(values: Mapping[str, Any], *path: str) -> dict[str, Any]:
    """A table within what a job said of itself, which is foreign; empty where it is none."""
    found: Any = values
    for name in path:
        found = found.get(name)
        if not isinstance(found, dict):
            return {}
    return dict(found)


def _number(value: Any) -> float | None:
    """What is a number, in what a job said; None otherwise."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _finite(function: Any, values: Any) -> float | None:
    """A number of those values that are finite; None where there is none."""
    numbers = values is not None and values.dtype.kind in "iuf"
    finite = values[np.isfinite(values)] if numbers else []
    return float(function(finite)) if len(finite) else None


def _scalar(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)


def _add(sums: Any, table: dict[str, Any]) -> dict[str, Any]:
    result = dict(sums) if isinstance(sums, dict) else {}
    for name, value in table.items():
        if type(value) is int:
            result[name] = result.get(name, 0) + value
    return result
