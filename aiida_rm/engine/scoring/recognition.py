"""Comparison of a set with references (novelty) and with known structures (recognition)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.scoring.matching import Candidate, Judge, is_novel, recognise
from aiida_rm.engine.scoring.pool import Runner, chunks, sizes_of
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]


def compare_all(
    candidates: list[Candidate],
    settings: ScoreSettings,
    total: int,
    others: tuple[dict[str, list[Candidate]], dict[str, list[Candidate]], list[str]],
    runner: Runner,
) -> dict[str, Array]:
    """Novelty and recognition, by the references, the known structures and their names."""
    references, known, names = others
    parts = chunks(candidates)
    work = [(part, _near(references, part), _near(known, part), settings) for part in parts]
    done = runner.run("compare", _compare_chunk, work, sizes_of(parts))
    novel, rmsd = np.zeros(total, bool), np.full(total, np.nan)
    matches = [""] * total
    for chunk in done:
        for index, is_new, match, distance in chunk:
            novel[index], rmsd[index] = is_new, distance
            matches[index] = names[match] if match >= 0 else ""
    # An array of empty texts alone would have no width to store.
    width = max([1, *(len(name) for name in matches)])
    return {"novel": novel, "match": np.array(matches, f"<U{width}"), "match_rmsd": rmsd}


def _near(
    others: dict[str, list[Candidate]], part: Sequence[Candidate]
) -> dict[str, list[Candidate]]:
    """Only the groups that a piece of work can ask for: less to send."""
    return {group: others[group] for group in {item.group for item in part} & set(others)}


def _compare_chunk(
    work: tuple[
        Sequence[Candidate], dict[str, list[Candidate]], dict[str, list[Candidate]], ScoreSettings
    ],
) -> list[tuple[int, bool, int, float]]:
    candidates, references, known, settings = work
    judge = Judge(settings)
    return [
        (item.index, is_novel(item, references, judge), *recognise(item, known, judge))
        for item in candidates
    ]
