"""Structures from files, groups and archives into nodes, with a report of what was wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiida_rm.cli.command import one_line
from aiida_rm.cli.groups import join
from aiida_rm.cli.output import counted
from aiida_rm.engine.errors import EngineError

if TYPE_CHECKING:
    from aiida.orm import Group

    from aiida_rm.data.frames import FramesData
    from aiida_rm.engine.frames import Frames

#: Lines of duplicates and of broken entries that are printed; the rest is counted.
_LINES = 50


def report_of(source: str, function: Callable[..., Any], *given: Any, **how: Any) -> dict[str, Any]:
    """The report of an import; where nothing can be used, why not: the other sources go on."""
    from aiida.common.exceptions import AiidaException

    try:
        report: dict[str, Any] = function(*given, **how)
    except (EngineError, AiidaException, ValueError, OSError) as error:
        return _report(source, 0, [], []) | {"ok": False, "told": one_line(error)}
    return report


def import_path(path: Path, *, dry_run: bool, strict: bool, processes: int, **how: Any) -> Any:
    """Import a file, folder, zip or AiiDA archive.

    Returns:
        ``source``, ``pk`` (None if nothing was stored), ``ok``, ``n_structures``, ``n_left_out``,
        ``n_duplicates``, ``left_out`` and ``duplicates`` (lines, at most 50 and a count), likewise
        ``n_overlapping`` and ``overlapping`` of a file, and ``told``, a sentence.

    Raises:
        FramesError: nothing in it can be used.
    """
    if path.suffix == ".aiida":
        return _import_archive(path, dry_run=dry_run, **how)
    from aiida_rm.data.frames import FramesData
    from aiida_rm.data.source import SOURCE_EXTRA, source_of
    from aiida_rm.engine.readers import read_dataset

    dataset = read_dataset(path, processes=processes, skip=not strict, progress=_progress())
    frames, problems = dataset.frames, [str(problem) for problem in dataset.problems]
    places = dataset.places or tuple(f"structure {index}" for index in range(len(frames)))
    kept, found = _without_duplicates(frames, places, how["duplicates"], match=how["match"])
    frames = frames.select(kept)
    report = _report(str(path), len(frames), [f"left out: {line}" for line in problems], found)
    report |= _overlapping(frames, [places[row] for row in kept])
    if dry_run:
        return report | {"told": f"{_count(report)}; nothing was stored (--dry-run)"}
    node = FramesData(frames, label=(how["label"] or path.name)[:255])
    node.base.extras.set(SOURCE_EXTRA, source_of(path, dataset))
    return _store(node, report, how)


def import_group(given: Group, source: str, *, dry_run: bool, **how: Any) -> dict[str, Any]:
    """Make one set of all StructureData of a group; it is linked to them.

    Raises:
        ValueError: there are none, or one cannot be used.
    """
    from aiida_rm.calculations.functions import frames_from_structures
    from aiida_rm.data.converters import from_structures, structures_of_group

    nodes, others = structures_of_group(given)
    if not nodes:
        raise ValueError(f"the group '{given.label}' holds no StructureData")
    frames = from_structures(list(nodes.values()))
    places = [f"StructureData <{node.pk}>" for node in nodes.values()]
    kept, found = _without_duplicates(frames, places, how["duplicates"], match=how["match"])
    wanted = {*kept.tolist()}
    nodes = {key: node for row, (key, node) in enumerate(nodes.items()) if row in wanted}
    left_out = [
        f"left out: {type(node).__name__} <{node.pk}> is no StructureData" for node in others
    ]
    report = _report(source, len(kept), left_out, found)
    if dry_run:
        return report | {"told": f"{_count(report)}; nothing was stored (--dry-run)"}
    made, process = frames_from_structures.run_get_node(**nodes)
    if not process.is_finished_ok:
        raise ValueError(process.exit_message)
    results: Any = made
    results.label = (how["label"] or given.label)[:255]
    return _told(results, report, how)


def _import_archive(path: Path, *, dry_run: bool, **how: Any) -> dict[str, Any]:
    """Import an archive of AiiDA as a whole; its StructureData become one set."""
    from aiida import orm
    from aiida.common.exceptions import AiidaException
    from aiida.common.log import LOG_LEVEL_REPORT, override_log_level
    from aiida.tools.archive import import_archive

    from aiida_rm.data.frames import FramesData

    if dry_run:
        raise ValueError("--dry-run does not go with an archive: look with `verdi archive info`")
    try:
        with override_log_level(LOG_LEVEL_REPORT):
            pk = import_archive(path)
    except AiidaException as error:
        raise ValueError(f"'{path.name}' cannot be imported: {error}") from error
    report = _report(str(path), 0, [], [])
    if pk is None:
        return report | {"told": "the archive is empty"}
    group = orm.load_group(pk)
    sets = [int(node.pk) for node in group.nodes if isinstance(node, FramesData) and node.pk]
    told = f"the whole archive was imported, as the group '{group.label}'"
    if sets:
        told += f"; it holds the sets {', '.join(f'<{one}>' for one in sorted(sets))}"
    if sets or not any(isinstance(node, orm.StructureData) for node in group.nodes):
        return report | {"told": told}
    made = import_group(group, str(path), dry_run=False, **how)
    # Of an archive all nodes are wanted; that some are no structures is no news.
    return made | {"left_out": [], "n_left_out": 0, "told": f"{told}; {made['told']}"}


def _without_duplicates(
    frames: Frames, places: Any, wish: str, *, match: bool
) -> tuple[Any, list[str]]:
    """Indices of the structures to keep, and a line a duplicate."""
    import numpy as np

    from aiida_rm.data.duplicates import first_copies

    everything = np.arange(len(frames))
    if wish == "ignore":
        return everything, []
    firsts = _matching(frames) if match else first_copies(frames)
    again = np.flatnonzero(firsts != everything)
    verb = "left out: " if wish == "remove" else ""
    how = "matches" if match else "repeats"
    lines = [f"{verb}{places[row]} {how} {places[firsts[row]]}" for row in again]
    return np.setdiff1d(everything, again) if wish == "remove" else everything, lines


def _overlapping(frames: Frames, places: list[str]) -> dict[str, Any]:
    """A line for each structure that no loop would take."""
    from aiida_rm.calculations.perturb import OVERLAP

    lines = [
        f"{places[row]} has two atoms {distance:.3f} A apart; loops refuse it, so mend or remove it"
        for row, distance in frames.overlaps(OVERLAP)
    ]
    return {"n_overlapping": len(lines), "overlapping": _first(lines, "with atoms that overlap")}


def _matching(frames: Frames) -> Any:
    """As `first_copies`, by what rm.score calls equal."""
    import numpy as np

    from aiida_rm.engine.scoring.task import score
    from aiida_rm.engine.settings import ScoreSettings

    scored, _ = score(frames, ScoreSettings(require_converged=False, processes=0))
    owners = scored.structure["duplicate_of"]
    return np.where(owners < 0, np.arange(len(frames)), owners)


def _store(node: FramesData, report: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    from aiida import orm

    twin = None if how["again"] else twin_of(node)
    if twin is not None:
        told = f"the same structures are here already, as <{twin}>; --again stores them once more"
        return report | {"told": told}
    node.store()
    assert isinstance(node, orm.Data)
    return _told(node, report, how)


def twin_of(node: Any) -> int | None:
    """A stored node with the same content as this new one."""
    from aiida import orm
    from aiida.common.hashing import make_hash
    from aiida.orm.implementation.utils import clean_value

    # AiiDA has no hash of what is not stored; storing first cleans the attributes.
    content = node.base.caching.get_objects_to_hash()
    content["attributes"] = clean_value(content["attributes"])
    filters = {"extras._aiida_hash": make_hash(content)}
    found = orm.QueryBuilder().append(type(node), filters=filters, project="id").first(flat=True)
    return None if found is None else int(found)


def _told(node: Any, report: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    join(how["group"], node)
    told = f"{_count(report)} in <{node.pk}>"
    return report | {"pk": node.pk, "uuid": node.uuid, "told": told}


def _count(report: dict[str, Any]) -> str:
    parts = [counted(report["n_structures"], "structure")]
    for name, one, many in (
        ("n_left_out", "entry left out", "entries left out"),
        ("n_duplicates", "duplicate", "duplicates"),
        ("n_overlapping", "with atoms that overlap", "with atoms that overlap"),
    ):
        if report.get(name):
            parts.append(counted(report[name], one, many))
    return ", ".join(parts)


def _report(source: str, count: int, left_out: list[str], duplicates: list[str]) -> dict[str, Any]:
    return {
        "source": source,
        "pk": None,
        "ok": True,
        "n_structures": count,
        "n_left_out": len(left_out),
        "n_duplicates": len(duplicates),
        "left_out": _first(left_out, "entries were left out"),
        "duplicates": _first(duplicates, "duplicates"),
    }


def _first(lines: list[str], what: str) -> list[str]:
    more = len(lines) - _LINES
    return lines if more <= 0 else [*lines[:_LINES], f"and {more} more {what}"]


def _progress() -> Any:
    """A counter on the screen, for people alone."""
    if not sys.stderr.isatty():
        return None

    def show(read: int, problems: int) -> None:
        sys.stderr.write(f"\r{read} structures read, {problems} left out\033[K")
        sys.stderr.flush()

    return show
