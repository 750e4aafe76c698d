"""The three systems that potentials are judged on: stable structures, starts, and what is good."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.scoring.geometry import measure
from aiida_rm.engine.scoring.judging import choose, close_chemists, judge_all
from aiida_rm.engine.scoring.pool import Runner, workers
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import (
    GenerateSettings,
    PerturbSettings,
    ScoreSettings,
    Stage,
    TrainSettings,
    parse_settings,
)
from aiida_rm.engine.training.statistics import describe_training_set
from aiida_rm.workflows.loop import LoopWorkChain

#: Closed-shell formulas of seven heavy atoms, as in the paper's test on QM7b.
FORMULAS = (
    "C6H6O",
    "C6H10O",
    "C6H14O",
    "C5H6O2",
    "C5H12O2",
    "C5H7NO",
    "C5H13NO",
    "C5H8N2",
    "C4H8N2O",
)
Verdicts = dict[str, float]


@dataclass(frozen=True)
class System:
    """What a potential is trained on and how its structures are judged.

    Attributes:
        stable: training structures.
        held: structures that it never sees.
        recipe: how they are perturbed.
        train: how the potential is trained.
        starts: random starts, the same for every potential of a seed: seed, number, and changes
            to the settings.
        stages: the relaxation.
        judge: relaxed starts to shares.
    """

    stable: Frames
    held: Frames
    recipe: PerturbSettings
    train: TrainSettings
    starts: Callable[..., Frames]
    stages: tuple[Stage, ...]
    judge: Callable[[Frames], Verdicts]


def data_folder() -> Path:
    """The folder with the benchmark data, from the environment variable AIIDA_RM_DATA."""
    folder = os.environ.get("AIIDA_RM_DATA")
    if not folder or not Path(folder).is_dir():
        sys.exit("set AIIDA_RM_DATA to the folder that holds qm7b.extxyz and mp_pool.extxyz")
    return Path(folder)


def shipped(*kinds: str) -> tuple[PerturbSettings, TrainSettings]:
    """What the protocol takes for a kind of dataset."""
    inputs = LoopWorkChain.get_protocol_inputs(kinds=kinds)
    return (
        parse_settings(PerturbSettings, inputs["perturb"]["settings"]),
        parse_settings(TrainSettings, inputs["train"]["train"]["settings"]),
    )


def load(name: str, file: str) -> Frames:
    """One of the data files; the converted arrays are kept beside it."""
    folder = data_folder()
    kept = folder / f"{name}.frames"
    if not kept.is_dir():
        path = folder / file
        if not path.is_file():
            sys.exit(f"'{file}' is not in {folder}; decompress '{file}.gz' there first")
        read_dataset(path, skip=False).frames.without_labels().save(kept)
    return Frames.load(kept)


def diamond() -> System:
    """One diamond: good are converged structures of three- and fourfold atoms."""
    half = 3.567 / 2
    cell = half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    stable = Frames.build([[6, 6]], [[[0, 0, 0], [half / 2] * 3]], [cell])
    notes = describe_training_set(stable)

    def starts(seed: int, count: int, **knobs: Any) -> Frames:
        settings = replace(GenerateSettings(seed=seed, n_structures=count), **knobs)
        return make_starts(range(count), settings, notes)[0]

    def judge(frames: Frames) -> Verdicts:
        sensible, fourfold = good_carbons(frames)
        return {"good": float(sensible.mean()), "fourfold": float(fourfold.mean())}

    return System(
        stable,
        stable,
        PerturbSettings(),
        TrainSettings(),
        starts,
        (Stage(max_steps=500),),
        judge,
    )


def good_carbons(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """(S,), (S,) bool: converged and three- or fourfold, or fourfold alone."""
    converged = frames.structure["status"] == 0
    low, high = [], []
    for index in range(len(frames)):
        numbers = measure(frames, index, bond_length=1.85, rdf_max=6.0, rdf_bins=10).coordination
        low.append(numbers.min(initial=99))
        high.append(numbers.max(initial=0))
    fourfold = converged & (np.array(low) == 4) & (np.array(high) == 4)
    sensible = converged & (np.array(low) >= 3) & (np.array(high) <= 4)
    return sensible, fourfold


def qm7b_molecules() -> Frames:
    """All molecules of QM7b."""
    frames = load("qm7b", "qm7b.extxyz")
    return replace(frames, cells=np.zeros_like(frames.cells), pbc=np.zeros_like(frames.pbc))


def qm7b() -> System:
    """Molecules of seven heavy atoms: good are connected closed-shell ones (RDKit)."""
    frames = qm7b_molecules()
    order = np.random.default_rng(0).permutation(len(frames))
    notes = describe_training_set(frames.select(np.sort(order[500:])))

    def starts(seed: int, count: int, **knobs: Any) -> Frames:
        each = -(-count // len(FORMULAS))
        parts = []
        for number, formula in enumerate(FORMULAS):
            settings = GenerateSettings(
                seed=seed + number, formulas=(formula,), periodic=False, n_structures=each
            )
            parts.append(make_starts(range(each), replace(settings, **knobs), notes)[0])
        return concatenate(parts)

    return System(
        frames.select(np.sort(order[500:])),
        frames.select(np.sort(order[:500])),
        *shipped("molecules", "many_molecules"),
        starts,
        (
            Stage(cell="fixed", fmax=1e-3, max_steps=500),
            Stage(kind="jitter", cell="fixed", amplitude=0.75),
            Stage(cell="fixed", fmax=1e-3, max_steps=1000),
        ),
        judge_molecules,
    )


def chemistry_of(frames: Frames, level: str) -> dict[str, Any]:
    """The labels of aiida_rm.engine.scoring.judging; level: perceive or posebusters."""
    settings = ScoreSettings(chemistry=level)
    nearest = np.array([frames.minimum_distance(index) for index in range(len(frames))])
    chosen = choose(settings, frames)
    try:
        with workers(settings, len(frames)) as pool:
            return judge_all(frames, nearest, settings, chosen, Runner(pool, None)).labels
    finally:
        close_chemists()


def judge_molecules(frames: Frames) -> Verdicts:
    """Shares of converged, and of converged, connected and closed-shell molecules."""
    sound = chemistry_of(frames, "perceive")["sound"]
    converged = frames.structure["status"] == 0
    return {"good": float(sound.mean()), "converged": float(converged.mean())}


def mp() -> System:
    """Crystals of 88 elements: good are those that match the known one of their composition."""
    frames = load("mp_pool", "mp_pool.extxyz")
    test = load("mp_dev_test", "mp_dev_test.extxyz")
    small = np.flatnonzero(test.counts <= 8)
    chosen = np.sort(np.random.default_rng(0).permutation(small)[:60])
    targets = test.select(chosen)
    notes = describe_training_set(frames)

    def starts(seed: int, count: int, **knobs: Any) -> Frames:
        each = -(-count // len(targets))
        parts = []
        for number, formula in enumerate(targets.formulas()):
            settings = GenerateSettings(
                seed=seed + number,
                formulas=(formula,),
                volume_scale=(0.95, 1.15),
                min_distance=1.0,
                n_structures=each,
            )
            part = make_starts(range(each), replace(settings, **knobs), notes)[0]
            parts.append(part.with_labels(structure={"target": np.full(len(part), number)}))
        return concatenate(parts)

    def judge(found: Frames) -> Verdicts:
        from pymatgen.analysis.structure_matcher import StructureMatcher

        known = [to_pymatgen(targets, index) for index in range(len(targets))]
        shares: Verdicts = {}
        for name, matcher in (
            ("tight", StructureMatcher(0.2, 0.3, 5)),
            ("loose", StructureMatcher(0.3, 0.5, 10)),
        ):
            hits = np.zeros(len(found), bool)
            for index in range(len(found)):
                if found.structure["status"][index] < 2:
                    target = known[int(found.structure["target"][index])]
                    hits[index] = matcher.fit(to_pymatgen(found, index), target)
            owner = found.structure["target"]
            lowest = [
                rows[np.argmin(np.nan_to_num(found.structure["energy"][rows], nan=np.inf))]
                for rows in (np.flatnonzero(owner == n) for n in range(len(known)))
                if len(rows)
            ]
            shares |= {
                f"{name}": float(hits.mean()),
                f"{name}_any": float(np.mean([hits[owner == n].any() for n in range(len(known))])),
                f"{name}_lowest": float(hits[lowest].mean()),
            }
        return {
            "good": shares.pop("tight"),
            **shares,
            "converged": float((found.structure["status"] == 0).mean()),
        }

    return System(
        frames,
        test.select(np.setdiff1d(np.arange(len(test)), chosen)[:300]),
        *shipped("many_crystals"),
        starts,
        (Stage(cell="fixed", fmax=0.05, max_steps=60), Stage(fmax=5e-3, max_steps=400)),
        judge,
    )


SYSTEMS: dict[str, Callable[[], System]] = {"diamond": diamond, "qm7b": qm7b, "mp": mp}
