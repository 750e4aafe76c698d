"""Energies above the convex hull of reference phases."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.formulas import element_table
from aiida_rm.engine.frames import Array, Frames

NO_CRYSTAL = "no hull for what is not periodic in all directions"


def above_hull(
    frames: Frames, energies: ArrayLike, references: Frames, reference_energies: ArrayLike
) -> tuple[Array, list[str]]:
    """How far structures are above the convex hull of reference phases.

    The hull is that of the references alone, so that a new ground state is below it. Of many
    references of one composition the lowest counts.

    Args:
        frames: the structures.
        energies: (S,) of them, in eV; NaN where there is none.
        references: the phases.
        reference_energies: (R,) of these, by the same method, in eV; those that are NaN, or of
            molecules, are left out.

    Returns:
        (S,) in eV per atom (pymatgen's PhaseDiagram, doi:10.1021/cm702327g), and a note each: why
        it is NaN although there is an energy.
    """
    given, phases = np.asarray(energies, float), _compositions(references)
    told = np.asarray(reference_energies, float)
    usable = np.flatnonzero(np.isfinite(told) & references.pbc.all(axis=1))
    entries = [(phases[row], float(told[row])) for row in usable]
    values, notes = np.full(len(frames), np.nan), [""] * len(frames)
    diagrams: dict[frozenset[str], Any] = {}
    for row, composition in enumerate(_compositions(frames)):
        if not np.isfinite(given[row]):
            continue
        if not frames.pbc[row].all():
            notes[row] = NO_CRYSTAL
            continue
        system = frozenset(composition)
        if system not in diagrams:
            diagrams[system] = _diagram(system, entries)
        found = diagrams[system]
        if isinstance(found, str):
            notes[row] = found
            continue
        entry = _entry(composition, float(given[row]))
        values[row] = found.get_e_above_hull(entry, allow_negative=True)
    return values, notes


def _diagram(system: frozenset[str], entries: list[tuple[dict[str, int], float]]) -> Any:
    """The diagram of some elements, or which of them have no phase of their own."""
    from pymatgen.analysis.phase_diagram import PhaseDiagram

    inside = [(composition, energy) for composition, energy in entries if system >= {*composition}]
    alone = {next(iter(composition)) for composition, _ in inside if len(composition) == 1}
    missing = sorted(system - alone)
    if missing:
        return f"no hull: no judged reference is a phase of {', '.join(missing)}"
    return PhaseDiagram([_entry(composition, energy) for composition, energy in inside])


def _entry(composition: dict[str, int], energy: float) -> Any:
    from pymatgen.analysis.phase_diagram import PDEntry
    from pymatgen.core import Composition

    return PDEntry(Composition(composition), energy)


def _compositions(frames: Frames) -> list[dict[str, int]]:
    present, table = element_table(frames)
    symbols = [SYMBOLS[number] for number in present]
    return [
        {symbol: int(count) for symbol, count in zip(symbols, row, strict=True) if count}
        for row in table
    ]
