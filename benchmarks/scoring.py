"""Scores of 10,000 structures against 15,000 references: how long, and is anything missed?

Crystals (``mp_pool.extxyz`` and ``mp_dev_test.extxyz``) and molecules (``qm7b.extxyz``) of the
folder that AIIDA_RM_DATA names. References are these, then stretched copies of them. Generated are

- copies of references, stirred by 0.02 A, turned, permuted, crystals in another cell: not new;
- copies that are stretched and stirred by 0.2 A: at the edge of being new;
- copies in which one element is another one.

``--alike`` more crystals, half of them references, have one composition and size: eight carbon
atoms at random, each set of places ``--copies`` times, stirred by 0.02 A, half of the sets in the
references, too. A fifth of ``--checked`` of them are. ``--nearest`` is that knob.

Prints the seconds of each stage, and those of the processor. For ``--checked`` structures of each
set, drawn at random, every verdict is made anew without fingerprints and groups: by pymatgen's
StructureMatcher (molecules: by RDKit's SMILES) on whole structures, with all references and all
others of the same composition.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from typing import Any

import numpy as np
from common import arguments, finish, table
from pymatgen.analysis.structure_matcher import StructureMatcher
from systems import load

from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.scoring.composition import composition_of
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, ScoreSettings, parse_settings

Figures = dict[str, Any]
#: Cells that hold the same crystal.
_BASES = (np.eye(3), [[1, 1, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 2, 1], [0, 0, 1]])
#: One element for another, where there is one.
_SWAPS = {8: 16, 9: 17, 11: 19, 12: 20, 14: 32, 26: 27, 7: 15, 6: 7}


def main() -> None:
    """Crystals, alike crystals, molecules."""
    given = arguments(
        __doc__ or "",
        generated=10_000,
        references=15_000,
        alike=4_000,
        copies=10,
        checked=300,
        processes=0,
        nearest=100,
    )
    if given.quick:
        given.generated, given.references, given.alike, given.checked = 600, 900, 400, 60
    rng = np.random.default_rng(given.seed)
    settings = ScoreSettings(processes=given.processes, nearest=given.nearest)
    figures: Figures = {}
    crystals = concatenate(
        [load(name, f"{name}.extxyz") for name in ("mp_pool", "mp_dev_test")]
    ).without_labels()
    molecules = load("qm7b", "qm7b.extxyz").without_labels()
    for name, stable in (("crystals", crystals), ("molecules", molecules)):
        references = enlarged(stable, given.references, rng)
        generated = made_of(references, given.generated, rng)
        figures[name] = judged(name, generated, references, settings, given.checked, rng)
    if given.alike:
        generated, references = alike(given.alike, given.copies, rng)
        figures["alike"] = judged("alike", generated, references, settings, given.checked // 5, rng)
    finish("scoring", given.seed, figures)


def enlarged(stable: Frames, count: int, rng: np.random.Generator) -> Frames:
    """``count`` structures: the stable ones in random order, then stretched ones."""
    rows = [*rng.permutation(len(stable)), *rng.integers(len(stable), size=count)][:count]
    extra = np.arange(count) >= len(stable)
    return changed(stable.select(np.array(rows)), np.where(extra, 0.25, 0.0), 0.0 * extra, rng)


def made_of(references: Frames, count: int, rng: np.random.Generator) -> Frames:
    """Copies, disguised; a quarter of them far from what they were, a quarter of other elements."""
    parts = references.select(rng.integers(len(references), size=count))
    kind = rng.choice(["copy", "copy", "edge", "swap"], size=count)
    edge = kind == "edge"
    moved = changed(parts, np.where(edge, 0.1, 0.0), np.where(edge, 0.2, 0.02), rng)
    return concatenate([disguised(moved[i], kind[i] == "swap", rng) for i in range(count)])


def changed(frames: Frames, stretch: Any, stir: Any, rng: np.random.Generator) -> Frames:
    """Random strains and displacements (A) of such widths, one for each structure."""
    cells, positions = np.array(frames.cells), np.array(frames.positions)
    for row in range(len(frames)):
        atoms = slice(int(frames.ptr[row]), int(frames.ptr[row + 1]))
        strain = np.eye(3) + rng.normal(0, stretch[row], (3, 3)) if stretch[row] else np.eye(3)
        cells[row] = cells[row] @ strain
        positions[atoms] = positions[atoms] @ strain
        positions[atoms] += rng.normal(0, 1, positions[atoms].shape) * stir[row]
    numbers = np.split(np.asarray(frames.numbers), frames.ptr[1:-1])
    return Frames.build(
        numbers, np.split(positions, frames.ptr[1:-1]), cells, np.asarray(frames.pbc)
    )


def disguised(one: Frames, swap: bool, rng: np.random.Generator) -> Frames:
    """The same structure turned, permuted and in another cell; with ``swap`` of other elements."""
    numbers, positions = np.array(one.numbers), np.array(one.positions)
    cell = np.array(one.cells[0])
    if one.pbc[0].all():
        basis = np.array(_BASES[rng.integers(len(_BASES))])
        copies = [np.zeros(3), cell[1]][: round(abs(np.linalg.det(basis)))]
        numbers = np.tile(numbers, len(copies))
        positions = np.concatenate([positions + shift for shift in copies])
        cell = basis @ cell
    if swap:
        here = [number for number in _SWAPS if number in numbers]
        if here:
            numbers[numbers == here[0]] = _SWAPS[here[0]]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    order = rng.permutation(len(numbers))
    return Frames.build([numbers[order]], [positions[order] @ turn], [cell @ turn], one.pbc)


def alike(count: int, copies: int, rng: np.random.Generator) -> tuple[Frames, Frames]:
    """Generated and references of one composition and size; half of the places are in both."""
    settings = parse_settings(
        GenerateSettings, {"formulas": ["C8"], "volume_per_atom": [5.7, 12.0], "min_distance": 1.2}
    )
    half = count // 2
    different = max(2, half // copies)
    starts = make_starts(range(different), settings, {"elemental_volumes": {"C": 5.7}})[0]
    sets = []
    for those in (different, different // 2):
        part = starts.without_labels().select(rng.permutation(np.arange(half) % those))
        moved = changed(part, np.zeros(half), np.full(half, 0.02), rng)
        sets.append(concatenate([disguised(moved[i], False, rng) for i in range(half)]))
    return sets[0], sets[1]


def judged(
    name: str,
    generated: Frames,
    references: Frames,
    settings: ScoreSettings,
    checked: int,
    rng: np.random.Generator,
) -> Figures:
    """Seconds of each stage, verdicts, and those that are others without shortcuts."""
    stages: dict[str, float] = {}
    last = 0.0

    def progress(line: dict[str, Any]) -> None:
        nonlocal last
        stages[line["stage"]] = stages.get(line["stage"], 0.0) + line["seconds"] - last
        last = line["seconds"]

    began, used = time.perf_counter(), processor_time()
    scored, summary = score(generated, settings, references, progress=progress)
    figures: Figures = {
        "generated": len(generated),
        "references": len(references),
        **{key: summary[key] for key in ("valid", "unique", "novel")},
        "seconds": time.perf_counter() - began,
        "processor_seconds": processor_time() - used,
        "stages": {stage: round(seconds, 1) for stage, seconds in stages.items()},
    }
    rows = rng.permutation(np.flatnonzero(scored.structure["valid"]))[:checked]
    began = time.perf_counter()
    figures |= differences(scored, references, rows)
    figures["seconds_checking"] = time.perf_counter() - began
    print(name)
    table([(key, value) for key, value in figures.items() if key != "stages"])
    table([(f"  {stage}", seconds) for stage, seconds in figures["stages"].items()])
    print(json.dumps({name: figures}), flush=True)
    return figures


def processor_time() -> float:
    """Of this process and those that it has ended: on a busy machine the better figure."""
    mine, ended = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return mine.ru_utime + mine.ru_stime + ended.ru_utime + ended.ru_stime


def differences(scored: Frames, references: Frames, rows: Any) -> Figures:
    """How many of the verdicts ``novel`` and ``unique`` on some rows are others, compared fully.

    A repeat must equal its representative, a representative none of the others.
    """
    same = Same()
    among, beside = by_composition(scored), by_composition(references)
    labels = scored.structure
    found = {"checked": len(rows), "pairs": 0, "wrong_novel": 0, "wrong_repeat": 0, "missed": 0}
    for row in rows.tolist():
        what = composition_of(atoms_of(scored, row))
        others = beside[what]
        known = any(same(references, other, scored, row) for other in others)
        found["wrong_novel"] += known == bool(labels["novel"][row])
        owner = int(labels["duplicate_of"][row])
        if owner != row:
            found["wrong_repeat"] += not same(scored, owner, scored, row)
            continue
        peers = [
            other
            for other in among[what]
            if other != row and labels["duplicate_of"][other] == other
        ]
        # The matcher is not symmetric: the earlier one comes first, as in the task.
        pairs = [sorted((other, row)) for other in peers]
        found["missed"] += any(same(scored, one, scored, two) for one, two in pairs)
        found["pairs"] += len(others) + len(peers)
    return found


def atoms_of(frames: Frames, row: int) -> Any:
    """Atomic numbers of a structure."""
    return np.asarray(frames.numbers[int(frames.ptr[row]) : int(frames.ptr[row + 1])])


def by_composition(frames: Frames) -> dict[Any, list[int]]:
    """Places of the structures of each reduced composition."""
    found: dict[Any, list[int]] = defaultdict(list)
    for row in range(len(frames)):
        found[composition_of(atoms_of(frames, row))].append(row)
    return found


class Same:
    """Equality of two structures, with nothing of ours but the tolerances."""

    def __init__(self) -> None:
        self._matcher = StructureMatcher()
        self._kept: dict[tuple[int, int], Any] = {}

    def __call__(self, one: Frames, first: int, two: Frames, second: int) -> bool:
        """Whether they are equal."""
        a, b = self._made(one, first), self._made(two, second)
        if one.pbc[first].all():
            return bool(self._matcher.fit(a, b))
        if len(a[1]) != len(b[1]) or (a[0] and b[0]):
            return bool(a[0] == b[0] and a[0])
        return bool(np.abs(a[1] - b[1]).max() <= 0.1)

    def _made(self, frames: Frames, row: int) -> Any:
        key = id(frames), row
        if key not in self._kept:
            self._kept[key] = (
                to_pymatgen(frames, row) if frames.pbc[row].all() else molecule(frames, row)
            )
        return self._kept[key]


def molecule(frames: Frames, row: int) -> tuple[str, Any]:
    """SMILES ("" without bonds), and the distances sorted within each pair of elements."""
    from aiida_rm.engine.scoring.chemistry import perceive

    numbers = atoms_of(frames, row)
    positions = np.asarray(frames.positions[int(frames.ptr[row]) : int(frames.ptr[row + 1])])
    pairs = sorted(
        (*sorted((int(numbers[i]), int(numbers[j]))), float(np.linalg.norm(gap)))
        for i in range(len(numbers))
        for j in range(i)
        for gap in [positions[i] - positions[j]]
    )
    return perceive(numbers, positions).smiles, np.array([length for *_, length in pairs])


if __name__ == "__main__":
    main()
