"""The task ``score``: verdicts on every structure of a set, and a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring import pool as pool_module
from aiida_rm.engine.scoring.composition import (
    choose_smact,
    summarise_compositions,
    valid_compositions,
)
from aiida_rm.engine.scoring.crystals import spacegroup
from aiida_rm.engine.scoring.fingerprint import find_repeats
from aiida_rm.engine.scoring.geometry import Geometry, measure
from aiida_rm.engine.scoring.judging import (
    Chemistry,
    choose,
    close_chemists,
    judge_all,
    smiles_of,
    summarise_molecules,
)
from aiida_rm.engine.scoring.matching import (
    Candidate,
    Judge,
    find_duplicates,
    first_match,
    grouped,
    prepare,
)
from aiida_rm.engine.scoring.pool import Progress, Runner, chunks, sizes_of, workers
from aiida_rm.engine.scoring.recognition import compare_all, summarise_recognition
from aiida_rm.engine.scoring.solids import structure_labels, summarise_crystals
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: Structures in a piece of work where each is compared with many others.
_PIECE = 5


def score(
    frames: Frames,
    settings: ScoreSettings,
    references: Frames | None = None,
    known: Frames | None = None,
    progress: Progress | None = None,
) -> tuple[Frames, dict[str, Any]]:
    """Judge every structure of a set.

    No structure stops the batch: one with NaN positions or a flat cell gets ``valid`` False.
    Molecules are equal when their canonical SMILES are, so conformers and mirror images are one;
    without bonds (see 'chemistry'), when their distances are.
    Whatever the number of processes, the result is the same. The time of finding duplicates grows
    with the square of the number of *different* structures of one composition and size of the
    reduced cell (a few ms a pair); everything else grows with the number of structures.

    Args:
        frames: the set; its labels ``status`` (0: converged), ``energy_per_atom`` or ``energy``
            are used where there are any. Of equal structures, the one lowest in energy (without
            energies: the first) is the representative; clean and sound molecules go before others.
        settings: tolerances and limits.
        references: structures that are not novel, the training set for example.
        known: structures to recognise, with a label ``name``.
        progress: called with {"stage", "finished", "total", "seconds"} as work gets done.

    Returns:
        The frames with all their labels and, new, of each structure ``valid``, ``converged``,
        ``min_distance``, ``min_radii_ratio``, ``volume_per_atom``, ``spacegroup``,
        ``spacegroup_loose``, ``duplicate_of``, ``unique``, ``novel``, ``match``, ``match_rmsd``,
        ``match_loose``, ``match_rmsd_loose`` (see scoring.recognition), ``coordination_min``,
        ``coordination_max``, ``coordination_mean``, ``rdf``; for crystals ``structure_valid``,
        ``structure_strict``, ``density``, ``composition_valid`` (see scoring.solids and
        scoring.composition); for molecules (of others: false, "" or NaN)
        ``verdict``, ``smiles``, ``connected``, ``perceived``, ``sound``, ``clean``, ``check_...``,
        ``stable_atoms``, ``stable_molecule`` (see scoring.judging); of each atom ``coordination``
        and ``stable``. And the summary: numbers of structures, converged, valid, unique, novel, the
        matches by name, and what is said of ``molecules`` and ``crystals`` where there are any.

    Raises:
        SettingsError: 'chemistry' asks for RDKit or PoseBusters, or 'smact' for SMACT, which are
            not installed.
        FramesError: the references or the known structures cannot be used.
        OutOfMemoryError: a process died.
    """
    names = _names(known)
    chemistry, smact = choose(settings, frames), choose_smact(settings, frames)
    try:
        with workers(settings, len(frames)) as pool:
            runner = Runner(pool, progress)
            labels, atom_labels, prints = _measure_all(frames, settings, runner)
            judged = judge_all(frames, labels["min_distance"], settings, chemistry, runner)
            labels.update(judged.labels)
            atom_labels["stable"] = judged.stable
            labels["composition_valid"] = valid_compositions(
                frames, settings, smact, "compositions", runner
            )
            solids: dict[str, Any] = {
                "smact": summarise_compositions(labels, frames, references, settings, smact, runner)
            }
            chosen = np.flatnonzero(labels["valid"]).tolist()
            candidates = _prepare_all(frames, chosen, "reduce", labels["smiles"], runner)
            labels["duplicate_of"] = _duplicates(
                frames, candidates, prints, settings, runner, labels
            )
            labels["unique"] = labels["duplicate_of"] == np.arange(len(frames))
            old, famous = (
                _prepared(what, others, settings, chemistry, runner)
                for what, others in (("references", references), ("known structures", known))
            )
            compared = compare_all(candidates, settings, len(frames), (old, famous, names), runner)
            labels.update(compared.labels)
            solids |= summarise_recognition(frames, known, compared.matches, settings)
    finally:
        close_chemists()
    scored = frames.with_labels(structure=labels, atom=atom_labels)
    summary = summarise(scored) | summarise_molecules(scored, chemistry, judged.versions)
    return scored, summary | summarise_crystals(scored, settings, solids)


def summarise(scored: Frames) -> dict[str, Any]:
    """Plain numbers: how many structures are converged, valid, unique, novel, and known."""
    matches = Counter(str(name) for name in scored.structure["match"] if name)
    return {
        "n_structures": len(scored),
        **{
            name: int(np.count_nonzero(scored.structure[name]))
            for name in ("converged", "valid", "unique", "novel")
        },
        "matches": dict(sorted(matches.items(), key=lambda item: (-item[1], item[0]))),
    }


def _names(known: Frames | None) -> list[str]:
    if known is None:
        return []
    if "name" not in known.structure:
        raise FramesError("the known structures lack the label 'name'; give each one a name")
    return [str(name) for name in known.structure["name"]]


def _measure_all(
    frames: Frames, settings: ScoreSettings, runner: Runner
) -> tuple[dict[str, Array], dict[str, Array], Array]:
    """Geometry, validity and space group; the fingerprints."""
    total = len(frames)
    parts = chunks(list(range(total)))
    bare = frames.without_labels()
    work = [(bare.select(part), settings) for part in parts]
    done = runner.run("measure", _measure_chunk, work, sizes_of(parts))
    shapes = [shape for chunk in done for shape, *_ in chunk]
    converged = np.ones(total, bool)
    if "status" in frames.structure:
        converged = np.asarray(frames.structure["status"]) == 0
    valid = np.array([is_valid(shape, settings) for shape in shapes], bool).reshape(total)
    if settings.require_converged:
        valid &= converged
    groups = np.array([numbers for chunk in done for _, *numbers in chunk], np.int16)
    tight, loose = np.where(valid[:, None], groups.reshape(total, 2), 0).T.astype(np.int16)
    labels: dict[str, Array] = {
        "valid": valid,
        "converged": converged,
        "min_distance": np.array([shape.min_distance for shape in shapes], float),
        "min_radii_ratio": np.array([shape.min_radii_ratio for shape in shapes], float),
        "volume_per_atom": np.array([shape.volume_per_atom for shape in shapes], float),
        "spacegroup": tight,
        "spacegroup_loose": loose,
        **structure_labels(frames, shapes, settings),
        "rdf": np.array([shape.rdf for shape in shapes], np.float32).reshape(
            total, settings.rdf_bins
        ),
    }
    neighbors = [shape.coordination for shape in shapes]
    for name, function, kind in (
        ("min", np.min, np.int16),
        ("max", np.max, np.int16),
        ("mean", np.mean, np.float64),
    ):
        values = [function(item) if len(item) else 0 for item in neighbors]
        labels[f"coordination_{name}"] = np.array(values, kind)
    each = np.concatenate(neighbors) if neighbors else np.zeros(0)
    prints = np.array([shape.fingerprint for shape in shapes], np.float32)
    return labels, {"coordination": each.astype(np.int16)}, prints


def _measure_chunk(work: tuple[Frames, ScoreSettings]) -> list[tuple[Geometry, int, int]]:
    frames, settings = work
    found = []
    for index in range(len(frames)):
        shape = measure(
            frames,
            index,
            bond_length=settings.bond_length,
            rdf_max=settings.rdf_max,
            rdf_bins=settings.rdf_bins,
        )
        tight = loose = 0
        if is_valid(shape, settings):
            tight = spacegroup(frames, index, settings.symprec)
            loose = spacegroup(frames, index, settings.symprec_loose)
        found.append((shape, tight, loose))
    return found


def is_valid(shape: Geometry, settings: ScoreSettings) -> bool:
    """Whether a geometry passes the limits of the settings (convergence apart)."""
    if not shape.finite or shape.min_distance < settings.min_distance:
        return False
    if shape.volume_per_atom < settings.min_volume:  # NaN, a molecule, is not smaller
        return False
    return not settings.coordination or bool(
        np.isin(shape.coordination, settings.coordination).all()
    )


def _prepare_all(
    frames: Frames,
    chosen: list[int],
    stage: str,
    smiles: Array,
    runner: Runner,
) -> list[Candidate]:
    parts = chunks(chosen)
    bare = frames.without_labels()
    work = [(bare.select(part), part, smiles[part].tolist()) for part in parts]
    done = runner.run(stage, _prepare_chunk, work, sizes_of(parts))
    return [candidate for chunk in done for candidate in chunk]


def _prepare_chunk(work: tuple[Frames, Sequence[int], Sequence[str]]) -> list[Candidate]:
    frames, indices, smiles = work
    return [
        replace(prepare(frames, place, smiles[place]), index=index)
        for place, index in enumerate(indices)
    ]


def _prepared(
    what: str,
    frames: Frames | None,
    settings: ScoreSettings,
    chemistry: Chemistry,
    runner: Runner,
) -> dict[str, list[Candidate]]:
    """References or known structures, by group."""
    if frames is None or len(frames) == 0:
        return {}
    try:
        frames.check()
    except FramesError as error:
        raise FramesError(f"the {what}: {error}") from error
    smiles = smiles_of(frames, settings, chemistry, f"bonds of {what}", runner)
    return grouped(_prepare_all(frames, list(range(len(frames))), what, smiles, runner))


def _energies(frames: Frames) -> Array:
    """Energy of each structure per atom, to rank by; zeros without any."""
    if "energy_per_atom" in frames.structure:
        return np.asarray(frames.structure["energy_per_atom"], float)
    if "energy" in frames.structure:
        return np.asarray(frames.structure["energy"], float) / np.maximum(frames.counts, 1)
    return np.zeros(len(frames))


def _duplicates(
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
    energies = _energies(frames)
    # A molecule that passes must not be given up for an equal one that does not. NaN sorts last;
    # equal energies keep their order.
    faults = [~labels[name] for name in ("perceived", "sound", "clean")]
    rank = np.empty(len(frames), int)
    rank[np.lexsort((energies, *reversed(faults)))] = np.arange(len(frames))
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

    Each wave is compared with the representatives of the earlier ones, all at once; what equals
    none of them is then compared among itself.
    """
    finished, total = progress
    owners: dict[int, int] = {}
    representatives: list[Candidate] = []
    for wave in chunks(group):
        pieces = [wave[first : first + _PIECE] for first in range(0, len(wave), _PIECE)]
        work = [(piece, representatives, settings) for piece in pieces]
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
    work: tuple[Sequence[Candidate], Sequence[Candidate], ScoreSettings],
) -> list[int]:
    candidates, others, settings = work
    judge = Judge(settings)
    return [first_match(item, others, judge) for item in candidates]


def _duplicates_chunk(work: tuple[list[Candidate], ScoreSettings]) -> dict[int, int]:
    return find_duplicates(*work)
