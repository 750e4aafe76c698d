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
from aiida_rm.engine.scoring.composition import (
    choose_smact,
    summarise_compositions,
    valid_compositions,
)
from aiida_rm.engine.scoring.coverage import choose_coverage, summarise_coverage
from aiida_rm.engine.scoring.distributions import summarise_distributions
from aiida_rm.engine.scoring.judging import (
    Chemistry,
    choose,
    close_chemists,
    judge_all,
    smiles_of,
    summarise_molecules,
)
from aiida_rm.engine.scoring.matching import Candidate, grouped, prepare
from aiida_rm.engine.scoring.measuring import measure_all
from aiida_rm.engine.scoring.pool import Progress, Runner, chunks, sizes_of, workers
from aiida_rm.engine.scoring.recognition import Matches, compare_all, summarise_recognition
from aiida_rm.engine.scoring.solids import is_crystal, summarise_crystals
from aiida_rm.engine.scoring.uniqueness import duplicates_of
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]


def score(
    frames: Frames,
    settings: ScoreSettings,
    references: Frames | None = None,
    known: Frames | None = None,
    progress: Progress | None = None,
    null: Frames | None = None,
) -> tuple[Frames, dict[str, Any]]:
    """Judge every structure of a set.

    No structure stops the batch: one with NaN positions or a flat cell gets ``valid`` False.
    Molecules are equal when their canonical SMILES are, so conformers and mirror images are one;
    without bonds (see 'chemistry'), when their distances are.
    Whatever the number of processes, the result is the same. The time grows with the number of
    structures: each is matched with at most 'nearest' others of its composition and size, a few ms
    a pair.

    Args:
        frames: the set; its labels ``status`` (0: converged), ``energy_per_atom`` or ``energy``
            are used where there are any. Of equal structures, the one lowest in energy (without
            energies: the first) is the representative; clean and sound molecules go before others.
        settings: tolerances and limits.
        references: structures that are not novel, the training set for example.
        known: structures to recognise, with a label ``name``.
        progress: called with {"stage", "finished", "total", "seconds"} as work gets done.
        null: random structures of the known ones' compositions, whose match rates are put beside.

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
        SettingsError: 'chemistry' asks for RDKit or PoseBusters, 'smact' for SMACT, or 'coverage'
            for matminer, which are not installed; or 'coverage' for references that are not given.
        FramesError: the references or the known structures cannot be used.
        OutOfMemoryError: a process died.
    """
    names = _names(known)
    chemistry, smact = choose(settings, frames), choose_smact(settings, frames)
    coverage = choose_coverage(settings, frames, references)
    try:
        with workers(settings, len(frames)) as pool:
            runner = Runner(pool, progress)
            labels, atom_labels, prints = measure_all(frames, settings, runner)
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
            labels["duplicate_of"] = duplicates_of(
                frames, candidates, prints, settings, runner, labels
            )
            labels["unique"] = labels["duplicate_of"] == np.arange(len(frames))
            old, famous = (
                _prepared(what, others, settings, chemistry, runner)
                for what, others in (("references", references), ("known structures", known))
            )
            compared = compare_all(candidates, settings, len(frames), (old, famous, names), runner)
            labels.update(compared.labels)
            chance = _chance(null, famous, names, settings, runner) if known is not None else None
            solids |= summarise_recognition(frames, known, compared.matches, settings, chance)
            judged_crystals = frames.with_labels(structure=labels)
            solids |= summarise_distributions(
                judged_crystals, references, settings, runner, judged=smact.on
            )
            solids["coverage"] = summarise_coverage(
                judged_crystals, references, settings, coverage, runner
            )
    finally:
        close_chemists()
    scored = frames.with_labels(structure=labels, atom=atom_labels)
    summary = summarise(scored) | summarise_molecules(scored, chemistry, judged.versions)
    return scored, summary | summarise_crystals(scored, settings, solids)


def _chance(
    null: Frames | None,
    famous: dict[str, list[Candidate]],
    names: list[str],
    settings: ScoreSettings,
    runner: Runner,
) -> tuple[Frames, dict[str, Matches]] | None:
    """The crystals of the null, and which known structures they equal."""
    if null is None:
        return None
    crystals = null.select(np.flatnonzero(is_crystal(null)))
    # Starts that were never to be relaxed did not converge.
    lenient = replace(settings, require_converged=False)
    labels = measure_all(crystals, lenient, runner, "measure null", symmetry=False)[0]
    chosen = np.flatnonzero(labels["valid"]).tolist()
    none = np.zeros(len(crystals), "<U1")
    candidates = _prepare_all(crystals, chosen, "reduce null", none, runner)
    others: tuple[Any, Any, list[str]] = ({}, famous, names)
    found = compare_all(candidates, settings, len(crystals), others, runner, "compare null")
    return crystals, found.matches


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
