"""Duplicates within a set: what repeats what, in groups of one composition and size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring import pool as pool_module
from aiida_rm.engine.scoring.fingerprint import find_repeats
from aiida_rm.engine.scoring.matching import (
    Candidate,
    Judge,
    Rivals,
    find_duplicates,
    first_match,
    grouped,
)
from aiida_rm.engine.scoring.pool import Runner, chunks, sizes_of
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: Structures in a piece of work where each is compared with many others.
_PIECE = 5


def energies_of(frames: Frames) -> Array:
    """Energy of each structure per atom, to rank by; zeros without any."""
    if "energy_per_atom" in frames.structure:
        return np.asarray(frames.structure["energy_per_atom"], float)
    if "energy" in frames.structure:
        return np.asarray(frames.structure["energy"], float) / np.maximum(frames.counts, 1)
    return np.zeros(len(frames))


def duplicates_of(
    frames: Frames,
    candidates: list[Candidate],
    prints: Array,
    settings: ScoreSettings,
    runner: Runner,
    labels: dict[str, Array],
) -> Array:
    """The representative of each structure, -1 of what is no candidate.

    Repeats by SMILES, or by energy and fingerprint, go first; only what is left is matched.
    """
    energies = energies_of(frames)
    # A molecule that passes must not be given up for an equal one that does not, nor the most
    # similar of substituted crystals. NaN sorts last; equal energies keep their order.
    faults = [~labels[name] for name in ("perceived", "sound", "clean")]
    steps = frames.structure.get("substitution_distance", np.zeros(len(frames)))
    rank = np.empty(len(frames), int)
    rank[np.lexsort((energies, steps, *reversed(faults)))] = np.arange(len(frames))
    every = list(grouped(sorted(candidates, key=lambda item: int(rank[item.index]))).values())
    repeats: dict[int, int] = {}
    groups = []
    for group in every:
        repeats.update(_repeats(group, energies, prints))
        groups.append([item for item in group if repeats[item.index] == item.index])
    # The largest groups first, so that none of them is left for the end.
    groups.sort(key=len, reverse=True)
    owners = np.full(len(frames), -1, np.int64)
    finished, total = 0, sum(len(group) for group in groups)
    for group in groups:
        if len(group) > pool_module.CHUNK:
            for index, owner in _in_waves(group, settings, runner, (finished, total)).items():
                owners[index] = owner
            finished += len(group)
    small = [group for group in groups if len(group) <= pool_module.CHUNK]
    work = [(group, settings) for group in small]
    for found in runner.run(
        "unique", _duplicates_chunk, work, sizes_of(small), before=finished, total=total
    ):
        for index, owner in found.items():
            owners[index] = owner
    for index, first in repeats.items():
        owners[index] = owners[first]
    return owners


def _repeats(group: Sequence[Candidate], energies: Array, prints: Array) -> dict[int, int]:
    """For each of a group, the first that it repeats; itself where there is none."""
    first_of: dict[str, int] = {}
    named = [item for item in group if item.smiles]
    repeats = {item.index: first_of.setdefault(item.smiles, item.index) for item in named}
    rows = np.array([item.index for item in group if not item.smiles], int)
    firsts = find_repeats(energies[rows], prints[rows])
    return repeats | dict(zip(rows.tolist(), rows[firsts].tolist(), strict=True))


def _in_waves(
    group: Sequence[Candidate],
    settings: ScoreSettings,
    runner: Runner,
    progress: tuple[int, int],
) -> dict[int, int]:
    """What :func:`find_duplicates` says of a large group, shared among the processes.

    Each wave is compared with the representatives of the earlier ones, all at once (with the
    nearest, where they are many); what equals none of them is then compared among itself.
    """
    finished, total = progress
    owners: dict[int, int] = {}
    representatives: list[Candidate] = []
    for wave in chunks(group):
        pieces = [wave[first : first + _PIECE] for first in range(0, len(wave), _PIECE)]
        rivals = Rivals(representatives, settings)
        work = [([(item, rivals.of(item)) for item in piece], settings) for piece in pieces]
        found = runner.run(
            "unique", _first_chunk, work, sizes_of(pieces), before=finished, total=total
        )
        matches = [match for piece in found for match in piece]
        finished += len(wave)
        owners.update({item.index: match for item, match in zip(wave, matches, strict=True)})
        rest = [item for item in wave if owners[item.index] < 0]
        owners.update(find_duplicates(rest, settings))
        representatives += [item for item in rest if owners[item.index] == item.index]
    return owners


def _first_chunk(
    work: tuple[list[tuple[Candidate, Sequence[Candidate]]], ScoreSettings],
) -> list[int]:
    pairs, settings = work
    judge = Judge(settings)
    return [first_match(item, others, judge) for item, others in pairs]


def _duplicates_chunk(work: tuple[list[Candidate], ScoreSettings]) -> dict[int, int]:
    return find_duplicates(*work)
