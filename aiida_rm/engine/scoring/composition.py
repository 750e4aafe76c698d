"""Validity of compositions by SMACT, as CDVAE and DiffCSP ask for it.

The answer moves with SMACT's version and its set of oxidation states, so both are pinned.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import MAX_NUMBER, SYMBOLS
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.pool import Runner, chunks, sizes_of
from aiida_rm.engine.scoring.solids import is_crystal
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]
#: Symbols and numbers of the reduced composition, by atomic number.
Composition = tuple[tuple[str, int], ...]

#: The version whose tables and rules count.
VERSION: Final = "3.2.0"
REMEDY: Final = "pip install 'aiida-rm[crystals]'"
#: Beyond so many combinations of oxidation states nothing is looked for (as DiffCSP has it).
_MAX_COMBINATIONS = 10_000_000


@dataclass(frozen=True)
class Smact:
    """Whether compositions are judged.

    Attributes:
        on: whether they are.
        why: who decided.
    """

    on: bool
    why: str


def choose_smact(settings: ScoreSettings, frames: Frames) -> Smact:
    """Decide whether compositions are judged.

    Raises:
        SettingsError: there are crystals, and the settings ask for SMACT, which is not there.
    """
    if settings.smact == "off" or not is_crystal(frames).any():
        return Smact(False, "by the settings")
    try:
        found = version("smact")
    except PackageNotFoundError:
        found = ""
    if found == VERSION:
        return Smact(True, "by the settings" if settings.smact == "on" else "auto: it is installed")
    problem = f"SMACT {found} is not the pinned {VERSION}" if found else "SMACT is missing"
    if settings.smact == "auto":
        return Smact(False, f"auto: {problem}; {REMEDY}")
    raise SettingsError(f"'smact' is on, but where the job runs {problem}; {REMEDY}")


def composition_of(numbers: Array) -> Composition:
    """The reduced composition of atomic numbers; () with one that is no element."""
    elements, counts = np.unique(numbers, return_counts=True)
    if not len(elements) or elements[0] < 1 or elements[-1] > MAX_NUMBER:
        return ()
    reduced = counts // np.gcd.reduce(counts)
    return tuple((SYMBOLS[z], int(n)) for z, n in zip(elements, reduced, strict=True))


def compositions_of(frames: Frames) -> dict[int, Composition]:
    """The reduced compositions of the crystals of a set, by their places."""
    numbers = np.asarray(frames.numbers)
    return {
        row: composition_of(numbers[int(frames.ptr[row]) : int(frames.ptr[row + 1])])
        for row in np.flatnonzero(is_crystal(frames)).tolist()
    }


def valid_compositions(
    frames: Frames, settings: ScoreSettings, smact: Smact, stage: str, runner: Runner
) -> NDArray[np.bool_]:
    """(structures,) whether the crystals have valid compositions; one check a composition.

    False for what is no crystal, and everywhere where compositions are not judged.
    """
    valid = np.zeros(len(frames), bool)
    if not smact.on:
        return valid
    compositions = compositions_of(frames)
    different = sorted(set(compositions.values()))
    parts = chunks(different)
    work = [(part, settings.smact_states) for part in parts]
    done = runner.run(stage, _check_chunk, work, sizes_of(parts))
    passed = dict(zip(different, [answer for piece in done for answer in piece], strict=True))
    valid[list(compositions)] = [passed[composition] for composition in compositions.values()]
    return valid


def summarise_compositions(
    labels: dict[str, Array],
    frames: Frames,
    references: Frames | None,
    settings: ScoreSettings,
    smact: Smact,
    runner: Runner,
) -> dict[str, Any]:
    """What became of the compositions of the crystals, beside the references' own, in numbers."""
    found: dict[str, Any] = {"on": smact.on, "chosen": smact.why}
    if not smact.on:
        return found
    passed = labels["composition_valid"]
    found |= {
        "version": VERSION,
        "states": settings.smact_states,
        "composition_valid": int(np.count_nonzero(passed)),
        "and_structure_valid": int(np.count_nonzero(passed & labels["structure_valid"])),
        "share": float(passed[is_crystal(frames)].mean()),
    }
    if references is not None and (crystals := is_crystal(references)).any():
        passed = valid_compositions(
            references, settings, smact, "compositions of references", runner
        )
        found["references"] = {
            "n_crystals": int(np.count_nonzero(crystals)),
            "share": float(passed[crystals].mean()),
        }
    return found


def _check_chunk(work: tuple[Sequence[Composition], str]) -> list[bool]:
    compositions, states = work
    return [is_valid_composition(composition, states) for composition in compositions]


def is_valid_composition(composition: Composition, states: str) -> bool:
    """Charge neutrality and Pauling's electronegativities (Davies et al., Chem 1, 617, 2016).

    As ``smact_validity`` of CDVAE (Xie et al., arXiv:2110.06197, 2021): elements and alloys of
    metals are valid; any other composition is, if one oxidation state for each element makes the
    sum of charges zero, with every cation less electronegative than every anion.

    Args:
        composition: reduced.
        states: SMACT's set of oxidation states, ``smact14`` (the default of its versions below 3,
            with which the field's numbers are made) or ``icsd24``.
    """
    import smact
    from smact.screening import pauling_test

    symbols = [symbol for symbol, _ in composition]
    if not symbols:
        return False
    if len(symbols) == 1 or all(symbol in smact.metals for symbol in symbols):
        return True
    known = [_element(symbol, states) for symbol in symbols]
    if not all(charges for charges, _ in known):
        return False
    if math.prod(len(charges) for charges, _ in known) > _MAX_COMBINATIONS:
        return False
    total = np.zeros((), np.int32)
    for (charges, _), (_, count) in zip(known, composition, strict=True):
        total = total[..., None] + np.array(charges, np.int32) * count
    enegs = [eneg for _, eneg in known]
    return any(
        pauling_test([known[axis][0][place] for axis, place in enumerate(places)], enegs)
        for places in np.argwhere(total == 0)
    )


@functools.cache
def _element(symbol: str, states: str) -> tuple[tuple[int, ...], float | None]:
    """Oxidation states and electronegativity; none of what SMACT does not know."""
    import smact

    try:
        element = smact.Element(symbol)
    except NameError:  # beyond its table
        return (), None
    return tuple(getattr(element, f"oxidation_states_{states}") or ()), element.pauling_eneg
