"""Calcfunctions of the referees: structures into files, and many verdicts into one set."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict, List, SinglefileData, Str

from aiida_rm.data.frames import FramesData
from aiida_rm.data.plain import plain_text
from aiida_rm.engine.converters import write
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import JUDGED, problem_of_labels
from aiida_rm.engine.scoring.displacement import moved_rmsd
from aiida_rm.referees.base import CONVERGED, FAILED
from aiida_rm.referees.hull import above_hull

#: Name of the file of one structure, by format; a name decides the format (ASE).
FILES = {
    "xyz": "structure.xyz",
    "extxyz": "structure.extxyz",
    "cif": "structure.cif",
    "poscar": "POSCAR",
}
#: Letters of a verdict or a note, which a job wrote.
MAX_TEXT = 1000
#: Reasons in the summary; the rest is in the labels.
MAX_REASONS = 20

ERROR_NOT_WRITTEN = ExitCode(211, "The structures could not be written: {message}.")


def row_key(row: int) -> str:
    """The link label of what belongs to one structure."""
    return f"row_{row:06d}"


@calcfunction
def structure_files(
    frames: FramesData, rows: List, format: Str
) -> dict[str, SinglefileData] | ExitCode:
    """Each of these rows as a file, bare of its labels."""
    name = FILES[format.value]
    bare = frames.get_frames().without_labels()
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        for row in rows.get_list():
            try:
                write(bare[row], path)
            except FramesError as error:
                return ERROR_NOT_WRITTEN.format(message=f"structure {row}: {error}")
            files[row_key(row)] = SinglefileData(path, filename=name)
    return files


@calcfunction
def gather_verdicts(
    frames: FramesData,
    label: Str,
    told: Dict,
    references: FramesData | None = None,
    **judged: FramesData,
) -> dict[str, FramesData | Dict]:
    """The verdicts of all runs on one set of structures.

    Args:
        frames: the structures that were given.
        label: what the names of the new labels begin with.
        told: what the work chain saw: ``rows`` of each run, by its key, and ``verdicts`` of the
            structures that no run judged, by row.
        references: phases that the same referee has judged under the same label, for the hull.
        judged: the output `frames` of each run.

    Returns:
        ``frames``: row i is row i of the input, relaxed where the referee did, with the input's
        labels and ``LABEL_row``, ``LABEL_energy`` (eV), ``LABEL_energy_per_atom`` (eV),
        ``LABEL_above_hull`` (eV per atom; NaN without references), ``LABEL_rmsd`` (angstrom),
        ``LABEL_verdict`` and ``LABEL_note``. Without an energy the structure is as it was given
        and the numbers are NaN. ``results``: a summary.
    """
    given, seen = frames.get_frames(), told.get_dict()
    size = len(given)
    verdicts = [f"{FAILED}no run judged it; look at the report of the work chain"] * size
    for row, text in seen["verdicts"].items():
        verdicts[int(row)] = text
    notes, energies, rmsds = [""] * size, np.full(size, np.nan), np.full(size, np.nan)
    positions, cells = np.array(given.positions), np.array(given.cells)
    for key in sorted(judged):
        part, rows = judged[key].get_frames(), seen["rows"][key]
        for index in range(len(part)):
            row = rows[int(part.structure["row"][index])]
            new, old = part[index], given[row]
            if not np.array_equal(new.numbers, old.numbers):
                verdicts[row] = f"{FAILED}the run brought back another structure"
                continue
            verdicts[row] = plain_text(str(new.structure["verdict"][0]))[:MAX_TEXT]
            notes[row] = plain_text(str(new.structure["note"][0]))[:MAX_TEXT]
            energies[row] = new.structure["energy"][0]
            if not np.isfinite(energies[row]):
                continue
            if not new.structure.get("relaxed", [True])[0]:
                rmsds[row] = 0.0  # a file's rounding, or turn of the cell, is no move
                continue
            pbc = old.pbc[0]
            rmsds[row] = moved_rmsd(old.positions, new.positions, old.cells[0], new.cells[0], pbc)
            positions[given.ptr[row] : given.ptr[row + 1]] = new.positions
            if pbc.any():
                cells[row] = new.cells[0]
    prefix = label.value
    hull = np.full(size, np.nan)
    if references is not None:
        phases = references.get_frames()
        hull, why = above_hull(given, energies, phases, _energies_of(phases, prefix))
        notes = ["; ".join(filter(None, pair)) for pair in zip(notes, why, strict=True)]
    labels = {
        f"{prefix}_row": np.arange(size),
        f"{prefix}_energy": energies,
        f"{prefix}_energy_per_atom": energies / given.counts,
        f"{prefix}_above_hull": hull,
        f"{prefix}_rmsd": rmsds,
        f"{prefix}_verdict": np.array(verdicts, dtype=str),
        f"{prefix}_note": np.array(notes, dtype=str),
    }
    core = (given.numbers, positions, cells, given.pbc, given.ptr)
    whole = Frames(*core, {**given.structure, **labels}, given.atom)
    per_atom = labels[f"{prefix}_energy_per_atom"]
    summary = _summary(verdicts, notes, per_atom, hull)
    return {"frames": FramesData(whole), "results": Dict(summary)}


def is_judged(frames: Frames, label: str) -> bool:
    """Whether a set holds what a hull needs of its phases."""
    needed = {f"{label}_energy_per_atom": "f", f"{label}_verdict": "U"}
    return needed.items() <= {n: v.dtype.kind for n, v in frames.structure.items()}.items()


def _energies_of(frames: Frames, label: str) -> Any:
    """Total energies of what converged; NaN elsewhere."""
    energies = np.asarray(frames.structure[f"{label}_energy_per_atom"]) * frames.counts
    good = np.asarray(frames.structure[f"{label}_verdict"]) == CONVERGED
    return np.where(good, energies, np.nan)


def check_judged(frames: Frames, n_rows: int) -> str | None:
    """Say why structures cannot be those of a referee's run on so many rows, or None."""
    optional = {"relaxed": "b"} if "relaxed" in frames.structure else {}
    if problem := problem_of_labels(frames.structure, {**JUDGED, **optional}):
        return problem
    rows = frames.structure["row"]
    if len(np.unique(rows)) != len(rows) or not np.isin(rows, np.arange(n_rows)).all():
        return f"the label row does not count within the {n_rows} structures of the run"
    return None


def _summary(verdicts: list[str], notes: list[str], per_atom: Any, hull: Any) -> dict[str, Any]:
    good = [verdict == CONVERGED for verdict in verdicts]
    finite = per_atom[np.array(good) & np.isfinite(per_atom)]
    placed = hull[np.array(good) & np.isfinite(hull)]
    return {
        "n_structures": len(verdicts),
        "converged": sum(good),
        "failed": len(verdicts) - sum(good),
        "lowest_energy_per_atom": float(finite.min()) if len(finite) else None,
        "lowest_above_hull": float(placed.min()) if len(placed) else None,
        "reasons": _most(Counter(v for v in verdicts if v != CONVERGED)),
        "notes": _most(Counter(note for note in notes if note)),
    }


def _most(counts: Mapping[str, int]) -> list[list[Any]]:
    """The most frequent texts, and how often: no keys, for they hold points and slashes."""
    return [[text, count] for text, count in Counter(counts).most_common(MAX_REASONS)]
