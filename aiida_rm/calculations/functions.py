"""Calcfunctions: the small steps between jobs, each with its place in the provenance.

Where an input cannot be used they end with an exit code, never with a trace. A calcfunction
that is called returns ``{}`` then; use ``results, node = function.run_get_node(...)`` and look
at ``node.exit_status`` and ``node.exit_message`` to tell.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict, Int, List, StructureData

from aiida_rm.data.converters import from_structures, to_structure
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError, funnel, select_indices
from aiida_rm.engine.errors import FramesError, SettingsError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.parts import join
from aiida_rm.engine.settings import GenerateSettings, parse_settings

#: Prime that keeps the seeds of rounds apart: no loop has so many structures or steps.
SEED_STRIDE = 1_000_003
#: Prime that keeps the members of a committee apart, also from those of 999 rounds.
MEMBER_STRIDE = 1_000_000_007

ERROR_BAD_SETTINGS = ExitCode(201, "The settings were refused: {message}. Mend them.")
ERROR_BAD_FRAMES = ExitCode(202, "The structures were refused: {message}. Mend them.")
ERROR_NO_SUCH_STRUCTURE = ExitCode(
    206, "Structure {index} does not exist; the frames hold 0..{last}. Give one of these."
)
ERROR_BAD_RULES = ExitCode(207, "The rules were refused: {message}. Mend them.")
ERROR_EMPTY_SELECTION = ExitCode(
    500, "None of {count} structures meets the rules ({left}). Loosen them, or generate more."
)


@calcfunction
def frames_from_structures(**structures: StructureData) -> FramesData | ExitCode:
    """One set of structures of one or many StructureData, in order of their keys.

    Any names will do: ``frames_from_structures(diamond=node, graphite=other)``. The
    label ``name`` of each is that of its node, or its formula where the node has none.
    """
    if not structures:
        return ERROR_BAD_FRAMES.format(message="there are no structures; give at least one")
    try:
        return FramesData(from_structures([structures[key] for key in sorted(structures)]))
    except FramesError as error:
        return ERROR_BAD_FRAMES.format(message=str(error))


@calcfunction
def extract_structure(frames: FramesData, index: Int) -> StructureData | ExitCode:
    """One structure of a set as StructureData, linked to the set and its index.

    Args:
        frames: The set of structures.
        index: Which structure, from 0.
    """
    position = index.value
    if not 0 <= position < len(frames):
        return ERROR_NO_SUCH_STRUCTURE.format(index=str(position), last=str(len(frames) - 1))
    try:
        return to_structure(frames.get_frames(), position)
    except (FramesError, ValueError, TypeError) as error:
        return ERROR_BAD_FRAMES.format(message=str(error))


@calcfunction
def merge_frames(labels: List | None = None, **frames: FramesData) -> FramesData | ExitCode:
    """Join sets of structures, in order of their keys.

    Args:
        labels: Names of the labels to keep, which all sets must have; an empty list leaves the
            bare structures. Without it, all labels that the sets share are kept.
        frames: The sets, by any names.
    """
    if not frames:
        return ERROR_BAD_FRAMES.format(message="there is nothing to join; give at least one set")
    if message := foreign(frames, FramesData):
        return ERROR_BAD_FRAMES.format(message=message)
    parts = [frames[key].get_frames() for key in sorted(frames)]
    try:
        if labels is not None:
            parts = [_keep(part, labels.get_list()) for part in parts]
        return FramesData(concatenate(parts))
    except FramesError as error:
        return ERROR_BAD_FRAMES.format(message=str(error))


@calcfunction
def select_frames(frames: FramesData, rules: Dict) -> FramesData | ExitCode:
    """The structures that meet all rules, with their labels.

    Rules are, for example, ``{"valid": true, "unique": true, "max_energy_per_atom": 0.5,
    "match": ["diamond"], "sort": "energy_per_atom", "limit": 10}``; the module
    :mod:`aiida_rm.data.selection` has them all. The label ``source_index`` of a selected
    structure is its index in ``frames``.

    Args:
        frames: The set of structures.
        rules: A table; structures must meet them all.
    """
    given = frames.get_frames()
    try:
        chosen = select_indices(given, rules.get_dict())
    except RuleError as error:
        return ERROR_BAD_RULES.format(message=str(error))
    if len(chosen) == 0:
        return ERROR_EMPTY_SELECTION.format(
            count=str(len(given)), left=funnel(given, rules.get_dict())
        )
    return FramesData(given.select(chosen).with_labels(structure={"source_index": chosen}))


@calcfunction
def settings_of_round(settings: Dict, round: Int) -> Dict | ExitCode:
    """Settings of one round of a loop: as given, with another seed in every round.

    The seed becomes ``seed + round * 1_000_003``: defined, and never the same in two rounds.
    Round 0 keeps it.
    """
    return _with_seed(settings, "round", round.value, SEED_STRIDE)


@calcfunction
def settings_of_member(settings: Dict, number: Int) -> Dict | ExitCode:
    """Settings of one member of a committee: as given, with another seed for every member.

    The seed becomes ``seed + number * 1_000_000_007``, which no round of a loop has, nor a member
    in another round of fewer than 1,000. Member 0 keeps it.
    """
    return _with_seed(settings, "member", number.value, MEMBER_STRIDE)


@calcfunction
def split_generation(settings: Dict, n_jobs: Int) -> dict[str, Dict] | ExitCode:
    """Settings of ``rm.generate`` for several jobs that share the work.

    Structure i of a seed is the same in any job, so that the jobs together make exactly what
    one job would. There are never more jobs than structures.

    Returns:
        Settings under ``job_000``, ``job_001`` and so on.
    """
    values, jobs = settings.get_dict(), n_jobs.value
    if jobs < 1:
        return ERROR_BAD_SETTINGS.format(message=f"'n_jobs' must be at least 1, is {jobs}")
    try:
        parsed = parse_settings(GenerateSettings, values)
    except SettingsError as error:
        return ERROR_BAD_SETTINGS.format(message=str(error))
    jobs = min(jobs, parsed.n_structures)
    edges = [parsed.n_structures * job // jobs for job in range(jobs + 1)]
    width = max(3, len(str(jobs - 1)))
    parts = {}
    for job, (first, end) in enumerate(itertools.pairwise(edges)):
        part = {**values, "n_structures": end - first}
        if parsed.indices:
            part["indices"] = list(parsed.indices[first:end])
        else:
            part["first_index"] = parsed.first_index + first
        parts[f"job_{job:0{width}d}"] = Dict(part)
    return parts


@calcfunction
def settings_of_missing(settings: Dict, **found: FramesData) -> Dict | ExitCode:
    """Settings of ``rm.generate`` for the structures that earlier jobs did not bring.

    Structure i of a seed is the same in any job, so that all of them together are what one
    undisturbed job would have brought.

    Args:
        settings: of the first job.
        found: what came back, with the label ``index``.
    """
    if message := foreign(found, FramesData):
        return ERROR_BAD_FRAMES.format(message=message)
    values = settings.get_dict()
    try:
        wanted = np.asarray(parse_settings(GenerateSettings, values).all_indices)
    except SettingsError as error:
        return ERROR_BAD_SETTINGS.format(message=str(error))
    there = [frames.get_frames().structure["index"] for frames in found.values()]
    missing = np.setdiff1d(wanted, np.concatenate(there)) if there else wanted
    if not len(missing):
        return ERROR_BAD_FRAMES.format(message="no structure is missing")
    return Dict({**values, "indices": missing.tolist(), "n_structures": len(missing)})


@calcfunction
def gather_generated(**frames: FramesData) -> FramesData | ExitCode:
    """All structures of a search by their label ``index``, whichever job they come from."""
    if message := foreign(frames, FramesData):
        return ERROR_BAD_FRAMES.format(message=message)
    try:
        return FramesData(join([frames[key].get_frames() for key in sorted(frames)]))
    except FramesError as error:
        return ERROR_BAD_FRAMES.format(message=str(error))


def _with_seed(settings: Dict, what: str, number: int, stride: int) -> Dict | ExitCode:
    values = settings.get_dict()
    seed = values.get("seed", 0)
    if type(seed) is not int or seed < 0:
        return ERROR_BAD_SETTINGS.format(message=f"'seed' must be a whole number, is {seed!r}")
    if number < 0:
        return ERROR_BAD_SETTINGS.format(message=f"the {what} must be at least 0, is {number}")
    return Dict({**values, "seed": seed + number * stride})


def foreign(nodes: dict[str, Any], kind: type) -> str:
    """Which input is of a wrong type; AiiDA does not look into inputs of any name."""
    for key, node in sorted(nodes.items()):
        if not isinstance(node, kind):
            return f"'{key}' is a {type(node).__name__}, no {kind.__name__}"
    return ""


def _keep(frames: Frames, labels: list[str]) -> Frames:
    missing = [name for name in labels if name not in frames.structure and name not in frames.atom]
    if missing:
        known = ", ".join(sorted({*frames.structure, *frames.atom})) or "none"
        raise FramesError(f"a set has no label '{missing[0]}'; its labels are {known}")
    return Frames(
        frames.numbers,
        frames.positions,
        frames.cells,
        frames.pbc,
        frames.ptr,
        {name: np.asarray(frames.structure[name]) for name in labels if name in frames.structure},
        {name: np.asarray(frames.atom[name]) for name in labels if name in frames.atom},
    )
