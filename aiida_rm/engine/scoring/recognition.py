"""Comparison of a set with references (novelty) and with known structures (recognition)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.composition import compositions_of
from aiida_rm.engine.scoring.matching import (
    Candidate,
    Judge,
    Rivals,
    first_match,
    recognise,
    tolerances,
)
from aiida_rm.engine.scoring.null import beside_null
from aiida_rm.engine.scoring.pool import Runner, chunks, sizes_of
from aiida_rm.engine.scoring.solids import is_crystal
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]
#: Known structures and their rmsd, the nearest first, of each structure that has any.
Matches = dict[int, list[tuple[int, float]]]

#: Endings of the labels, and whether the tolerances are the loose ones.
KINDS: Final = {"": False, "_loose": True}
#: Compositions in the summary, the most frequent ones.
_MAX_COMPOSITIONS = 100

#: Candidates, for each the references to compare it with, known structures by group.
_Work = tuple[
    Sequence[Candidate], list[Sequence[Candidate]], dict[str, list[Candidate]], ScoreSettings
]


@dataclass(frozen=True)
class Compared:
    """What became of a set.

    Attributes:
        labels: of structures, by name.
        matches: by the keys of :data:`KINDS`.
    """

    labels: dict[str, Array]
    matches: dict[str, Matches]


def compare_all(
    candidates: list[Candidate],
    settings: ScoreSettings,
    total: int,
    others: tuple[dict[str, list[Candidate]], dict[str, list[Candidate]], list[str]],
    runner: Runner,
    stage: str = "compare",
) -> Compared:
    """Novelty and recognition, by the references, the known structures and their names.

    The labels are ``novel``, ``match`` (the name of the nearest known structure, or "") and
    ``match_rmsd`` (crystals: over (volume / atoms)^(1/3), as the field gives it; molecules: of the
    distances, in angstrom), and the latter two again for the loose tolerances.
    """
    references, known, names = others
    parts = chunks(candidates)
    rivals = {group: Rivals(others, settings) for group, others in references.items()}
    nobody = Rivals([], settings)
    work = [
        (
            part,
            [rivals.get(item.group, nobody).of(item) for item in part],
            _near(known, part),
            settings,
        )
        for part in parts
    ]
    done = runner.run(stage, _compare_chunk, work, sizes_of(parts))
    novel = np.zeros(total, bool)
    matches: dict[str, Matches] = {kind: {} for kind in KINDS}
    for chunk in done:
        for index, is_new, found in chunk:
            novel[index] = is_new
            for kind, these in found.items():
                if these:
                    matches[kind][index] = these
    labels: dict[str, Array] = {"novel": novel}
    for kind, of_kind in matches.items():
        nearest, rmsd = [""] * total, np.full(total, np.nan)
        for index, these in of_kind.items():
            nearest[index], rmsd[index] = names[these[0][0]], these[0][1]
        # An array of empty texts alone would have no width to store.
        width = max([1, *map(len, nearest)])
        labels |= {f"match{kind}": np.array(nearest, f"<U{width}"), f"match_rmsd{kind}": rmsd}
    return Compared(labels, matches)


def _near(
    others: dict[str, list[Candidate]], part: Sequence[Candidate]
) -> dict[str, list[Candidate]]:
    """Only the groups that a piece of work can ask for: less to send."""
    return {group: others[group] for group in {item.group for item in part} & set(others)}


def _compare_chunk(work: _Work) -> list[tuple[int, bool, dict[str, list[tuple[int, float]]]]]:
    candidates, rivals, known, settings = work
    judges = {kind: Judge(settings, loose=loose) for kind, loose in KINDS.items()}
    return [
        (
            item.index,
            first_match(item, others, judges[""]) < 0,
            {kind: recognise(item, known, judge) for kind, judge in judges.items()},
        )
        for item, others in zip(candidates, rivals, strict=True)
    ]


def summarise_recognition(
    frames: Frames,
    known: Frames | None,
    matches: dict[str, Matches],
    settings: ScoreSettings,
    null: tuple[Frames, dict[str, Matches]] | None = None,
) -> dict[str, Any]:
    """How many of the known crystals are found, and by how many of the samples.

    Samples are the crystals of a composition among the known ones', valid or not. Of each
    tolerance:

    - ``per_sample``: share of the samples that equal a known structure;
    - ``any_of_k``: share of the known *compositions* with a sample that equals one of them;
    - ``metre``: share of the known *structures* that a sample equals: METRe, "match everyone to
      reference" (Martirossyan et al., arXiv:2509.12178, 2025);
    - ``rmsd``: mean over the found structures of that of the nearest sample; ``crmse``: over all,
      with 'stol' for those that are not found (the same);
    - ``beside_null``: per sample and any of k beside those of ``null``, another set and its
      matches (see scoring.null).

    Returns:
        Plain numbers; {} without known crystals.
    """
    if known is None or not is_crystal(known).any():
        return {}
    targets = compositions_of(known)
    wanted = Counter(targets.values())
    samples = {row: what for row, what in compositions_of(frames).items() if what in wanted}
    found: dict[str, Any] = {
        "known": len(targets),
        "compositions": len(wanted),
        "samples": len(samples),
    }
    table = {
        what: {"known": wanted[what], "samples": count}
        for what, count in Counter(samples.values()).most_common(_MAX_COMPOSITIONS)
    }
    for kind, loose in KINDS.items():
        ltol, stol, angle_tol = tolerances(settings, loose=loose)
        best: dict[int, float] = {}
        matched = [row for row in samples if row in matches[kind]]
        for row in matched:
            for target, rmsd in matches[kind][row]:
                # A match without an rmsd is still a match, at the tolerance.
                best[target] = min(best.get(target, stol), rmsd if np.isfinite(rmsd) else stol)
        hits = Counter(samples[row] for row in matched)
        found[f"match{kind}"] = {
            "tolerances": {"ltol": ltol, "stol": stol, "angle_tol": angle_tol},
            "per_sample": len(matched) / len(samples) if samples else None,
            "any_of_k": len({targets[target] for target in best}) / len(wanted),
            "metre": len(best) / len(targets),
            "rmsd": float(np.mean(list(best.values()))) if best else None,
            "crmse": float(np.mean([best.get(target, stol) for target in targets])),
        }
        if null:
            chance = {row: what for row, what in compositions_of(null[0]).items() if what in wanted}
            lucky = [row for row in chance if row in null[1][kind]]
            found[f"match{kind}"]["beside_null"] = beside_null(samples, matched, chance, lucky)
            totals, by_chance = Counter(chance.values()), Counter(chance[row] for row in lucky)
            for what, line in table.items():
                line |= {"null": totals[what], f"null_matched{kind}": by_chance[what]}
        found_of: dict[Any, int] = defaultdict(int)
        for target in best:
            found_of[targets[target]] += 1
        for what, line in table.items():
            line |= {f"matched{kind}": hits[what], f"found{kind}": found_of[what]}
    found["by_composition"] = {
        "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in what): line
        for what, line in table.items()
    }
    return {"recognition": found}
