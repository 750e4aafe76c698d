"""xtb: molecules by the semiempirical methods of the program of that name, one job each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from aiida.orm import AbstractCode, Data
from aiida.parsers import Parser

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.referee_settings import ENERGY_UNITS, XtbSettings
from aiida_rm.referees.base import CONVERGED, FAILED, RefereeError, RefereeJob
from aiida_rm.referees.programs import (
    OPTIONS,
    ProgramReferee,
    files_of_rows,
    given_structure,
    how_it_failed,
    job_inputs,
    judged,
    judged_without,
    output_text,
    read_structure,
)

RELAXED = "xtbopt.xyz"
_PERIODIC = (
    "is periodic, and xtb judges molecules alone; take the referee 'ase' for crystals, or select "
    "the molecules"
)
#: The methods know the elements up to radon.
LAST_ELEMENT = 86
_ENERGY = re.compile(r"TOTAL ENERGY\s+(-?\d+\.\d+)\s+Eh")
_STEPS = re.compile(r"FAILED TO CONVERGE GEOMETRY OPTIMIZATION IN\s+(\d+)")
#: What xtb says when it gives up, from the particular to the general.
_REASONS = (
    (re.compile(r"\|grad\| > 500"), "its atoms are much too near each other; discard it"),
    (
        re.compile(r"basis functions for filling|not parametri|parametrization"),
        "its elements are not known to the method; take another referee",
    ),
    (
        re.compile(r"SCC? (?:iterator )?did not converge|scf: .*not converge", re.IGNORECASE),
        "its electronic structure did not converge; give it another 'charge' or 'gfn'",
    ),
    (
        re.compile(r"Geometry optimization (?:did not converge|failed)"),
        "the relaxation failed; relax it first, or take a looser 'level'",
    ),
)


class XtbReferee(ProgramReferee):
    """Relax molecules with xtb."""

    SETTINGS = XtbSettings
    PROGRAM = "xtb"
    OPTIONS = MappingProxyType({**OPTIONS, "additional_retrieve": [RELAXED]})

    def check(self, frames: Frames) -> None:
        """Refuse crystals alone: the program knows them badly or not at all."""
        if len(frames) and frames.pbc.any(axis=1).all():
            raise RefereeError(f"structure 0 ({frames.formula(0)}) {_PERIODIC}")

    def refuse(self, frames: Frames) -> dict[int, str]:
        """Crystals, elements that xtb does not know, and odd electrons that are not wanted."""
        verdicts = {}
        for row in range(len(frames)):
            numbers = frames.numbers[frames.ptr[row] : frames.ptr[row + 1]]
            if frames.pbc[row].any():
                verdicts[row] = f"{FAILED}{frames.formula(row)} {_PERIODIC}"
            elif numbers.max() > LAST_ELEMENT:
                verdicts[row] = (
                    f"{FAILED}{frames.formula(row)} holds an element beyond radon, which xtb does "
                    "not know; take another referee"
                )
            elif self._unpaired(numbers) and self.settings.odd_electrons == "refuse":
                verdicts[row] = (
                    f"{FAILED}{frames.formula(row)} has an odd number of electrons at the charge "
                    f"{self.settings.charge}; set 'odd_electrons' to doublet, or discard it"
                )
        return verdicts

    def jobs(self, frames: FramesData, rows: Sequence[int], code: AbstractCode) -> list[RefereeJob]:
        """One job a structure: none can end another one."""
        files = files_of_rows(frames, list(rows), "xyz")
        whole = frames.get_frames()
        jobs = []
        for row in rows:
            unpaired = self._unpaired(whole.numbers[whole.ptr[row] : whole.ptr[row + 1]])
            inputs = job_inputs(code, files[row], self.arguments(unpaired), "xtb")
            jobs.append(RefereeJob((row,), inputs))
        return jobs

    def arguments(self, unpaired: int) -> list[str]:
        """What follows the program's name on its command line."""
        s = self.settings
        relax = ["--opt", s.level, "--cycles", str(s.max_steps)] if s.relax else ["--scc"]
        electrons = ["--chrg", str(s.charge), "--uhf", str(unpaired)]
        return ["{structure}", "--gfn", str(s.gfn), *relax, *electrons]

    def _unpaired(self, numbers: Any) -> int:
        return int((int(numbers.sum(dtype=np.int64)) - self.settings.charge) % 2)


def read_xtb(dirpath: Path, parser: Parser) -> dict[str, Data]:
    """Verdict, energy and relaxed structure of one run of xtb, for aiida-shell.

    Args:
        dirpath: the folder of what came back.
        parser: that of the ShellJob.
    """
    text = output_text(dirpath)
    arguments = parser.node.inputs.arguments.get_list()
    odd = arguments[arguments.index("--uhf") + 1] != "0"
    note = "odd number of electrons: one unpaired (doublet)" if odd else ""
    failure = how_it_failed(dirpath, parser, "xtb", text)
    if failure is not None:
        known = (reason for pattern, reason in _REASONS if pattern.search(text))
        return judged_without(parser, next(known, failure), note)
    found = _ENERGY.findall(text)
    if not found:
        reason = "xtb printed no energy; is the code's program xtb, from version 6.4 on?"
        return judged_without(parser, reason, note)
    energy = float(found[-1]) * ENERGY_UNITS["hartree"]
    given = given_structure(parser)
    if "--opt" not in arguments:
        return judged(given, energy, CONVERGED, note, relaxed=False)
    relaxed = read_structure(dirpath / RELAXED, given)
    if isinstance(relaxed, str):
        return judged_without(parser, relaxed, note)
    steps = _STEPS.search(text)
    verdict = CONVERGED
    if steps:
        verdict = f"{FAILED}not relaxed in {steps[1]} steps; raise 'max_steps', or loosen 'level'"
    return judged(relaxed, energy, verdict, note)
