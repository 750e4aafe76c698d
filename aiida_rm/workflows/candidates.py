"""Calcfunctions between the scoring and the referees: whom they get, and what they all said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict, Int, List

from aiida_rm.calculations.functions import (
    ERROR_BAD_FRAMES,
    ERROR_BAD_RULES,
    ERROR_EMPTY_SELECTION,
)
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError, funnel, select_indices, spread
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import VERDICTS
from aiida_rm.referees.base import FAILED

#: What the links to the runs of referees begin with, whose names may be anything.
JUDGE = "judge_"
#: The label of the row that a candidate had among the scored.
SCORED_ROW = "scored_row"


@calcfunction
def choose_candidates(
    frames: FramesData, rules: Dict, limit: Int, referees: List
) -> FramesData | ExitCode:
    """The structures that referees get: the best of those that meet all other rules.

    Rules on what the referees will say wait until they did; so do the limits where the order is
    a referee's. Without an order it is that of their likeness to known crystals, where they have
    one, or of E~ per atom, and the best of each composition come before the second best.

    Args:
        frames: structures with the verdicts of rm.score.
        rules: what an accepted structure must meet (aiida_rm.data.selection).
        limit: so many structures at most.
        referees: names of the referees.

    Returns:
        The structures, with their row in ``frames`` as the label ``scored_row``.
    """
    given = frames.get_frames()
    first = rules_before(rules.get_dict(), referees.get_list())
    spreads = "sort" not in first and "energy_per_atom" in given.structure
    if spreads:
        alike = np.isfinite(given.structure.get("substitution_distance", [])).any()
        best = "ranking" if "ranking" in given.structure else "energy_per_atom"
        first["sort"] = "substitution_distance" if alike else best
    try:
        chosen = select_indices(given, first)
    except RuleError as error:
        return ERROR_BAD_RULES.format(message=str(error))
    if len(chosen) == 0:
        return ERROR_EMPTY_SELECTION.format(count=str(len(given)), left=funnel(given, first))
    if spreads:
        ranked = np.isfinite(given.structure[first["sort"]][chosen])
        chosen = np.concatenate([spread(given, chosen[ranked]), chosen[~ranked]])
    chosen = chosen[: limit.value]
    return FramesData(given.select(chosen).with_labels(structure={SCORED_ROW: chosen}))


def left_by(frames: FramesData, rules: Mapping[str, Any]) -> str:
    """How many structures each rule leaves, in brackets; nothing without a rule."""
    words = funnel(frames.get_frames(), rules)
    return f" ({words})" if words else ""


def rules_before(rules: Mapping[str, Any], referees: Sequence[str]) -> dict[str, Any]:
    """The rules that can be applied while the labels of these referees are not there yet."""
    later = tuple(f"{name}_" for name in referees)

    def waits(name: str) -> bool:
        bare = name.removeprefix("min_").removeprefix("max_")
        return name.startswith(later) or bare.startswith(later)

    order = str(rules.get("sort", "")).removeprefix("-")
    if order.startswith(later):
        rules = {n: v for n, v in rules.items() if n not in ("sort", "limit_per_composition")}
    return {name: value for name, value in rules.items() if name != "limit" and not waits(name)}


@calcfunction
def join_verdicts(
    candidates: FramesData, told: Dict, **judged: FramesData
) -> FramesData | ExitCode:
    """The candidates with what all referees said of them.

    Args:
        candidates: the structures that the referees got.
        told: ``adopt``, the referee whose relaxed structures replace the candidates (or empty),
            and ``failed``, why a referee brought nothing, by its name.
        judged: the output `frames` of rm.judge by ``judge_`` and the referee's name; row i is
            candidate i.
    """
    given, seen = candidates.get_frames(), told.get_dict()
    size = len(given)
    labels: dict[str, Any] = {}
    for name, reason in seen["failed"].items():
        empty = {"i": np.arange(size), "f": np.full(size, np.nan)}
        text = {"verdict": f"{FAILED}{reason}", "note": ""}
        for part, kind in VERDICTS.items():
            values = empty.get(kind)
            labels[f"{name}_{part}"] = np.array([text[part]] * size) if values is None else values
    for key, node in judged.items():
        name = key.removeprefix(JUDGE)
        frames = node.get_frames()
        if not np.array_equal(frames.numbers, given.numbers):
            return ERROR_BAD_FRAMES.format(message=f"'{name}' judged other structures")
        told_by = {n: v for n, v in frames.structure.items() if n.startswith(f"{name}_")}
        labels.update(told_by)
    adopted = judged.get(JUDGE + seen["adopt"])
    kept = given if adopted is None else adopted.get_frames()
    core = (given.numbers, kept.positions, kept.cells, given.pbc, given.ptr)
    return FramesData(Frames(*core, {**given.structure, **labels}, given.atom))
