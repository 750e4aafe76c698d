"""shell: any command with a file in and an energy out, one job a structure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from aiida.orm import AbstractCode, Data, Dict
from aiida.parsers import Parser

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.referee_settings import ENERGY_UNITS, ShellSettings
from aiida_rm.engine.settings import to_plain
from aiida_rm.referees.base import CONVERGED, FAILED, RefereeError, RefereeJob
from aiida_rm.referees.functions import FILES
from aiida_rm.referees.programs import (
    ProgramReferee,
    files_of_rows,
    given_structure,
    how_it_failed,
    job_inputs,
    judged,
    judged_without,
    last_words,
    output_text,
    read_structure,
)

#: What the reader of the files must know.
READING = ("energy_pattern", "energy_unit", "energy_file", "relaxed_file", "converged_pattern")


class ShellReferee(ProgramReferee):
    """Ask a command for the energy of each structure."""

    SETTINGS = ShellSettings
    PROGRAM = "any command"

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As of any program; what it reads is not the user's to say."""
        own = {"filename_stdin": FILES[self.settings.format]} if self.settings.stdin else {}
        return {**super().options(given), **own}

    def needed_options(self) -> dict[str, Any]:
        """With the files to bring back."""
        s = self.settings
        files = [file for file in (s.energy_file, s.relaxed_file) if file]
        return {**super().needed_options(), "additional_retrieve": files}

    def check(self, frames: Frames) -> None:
        """Refuse structures that the format cannot hold."""
        name, periodic = self.settings.format, frames.pbc.any(axis=1)
        if name == "extxyz":
            return
        lost = periodic if name == "xyz" else ~frames.pbc.all(axis=1)
        for row in np.flatnonzero(lost):
            what = "is periodic" if name == "xyz" else "is not periodic in all directions"
            raise RefereeError(
                f"structure {row} ({frames.formula(int(row))}) {what}, which the format {name} "
                "does not hold; set 'format' to extxyz, or select others"
            )

    def jobs(self, frames: FramesData, rows: Sequence[int], code: AbstractCode) -> list[RefereeJob]:
        """One job a structure: none can end another one."""
        plain = to_plain(self.settings)
        files = files_of_rows(frames, list(rows), self.settings.format)
        reading = Dict({name: plain[name] for name in READING}).store()
        jobs = []
        for row in rows:
            inputs = job_inputs(code, files[row], plain["arguments"], "shell")
            inputs["nodes"]["reading"] = reading
            jobs.append(RefereeJob((row,), inputs))
        return jobs


def read_shell(dirpath: Path, parser: Parser) -> dict[str, Data]:
    """Verdict, energy and relaxed structure of one run of a command, for aiida-shell.

    Args:
        dirpath: the folder of what came back.
        parser: that of the ShellJob.
    """
    reading = parser.node.inputs.nodes["reading"].get_dict()
    printed = output_text(dirpath)
    program = f"'{parser.node.inputs.code.label}'"
    if failure := how_it_failed(dirpath, parser, program, printed):
        return judged_without(parser, failure)
    file = reading["energy_file"]
    text = output_text(dirpath, file) if file else printed
    energy = find_energy(text, reading["energy_pattern"], reading["energy_unit"])
    if isinstance(energy, str):
        where = f"'{file}'" if file else "what the command printed"
        return judged_without(parser, f"{energy} in {where}{last_words(text)}")
    given = given_structure(parser)
    verdict, pattern = CONVERGED, reading["converged_pattern"]
    if pattern and not re.search(pattern, text, re.MULTILINE):
        verdict = f"{FAILED}'converged_pattern' does not match; give the command more steps"
    if not reading["relaxed_file"]:
        return judged(given, energy, verdict, relaxed=False)
    relaxed = read_structure(dirpath / reading["relaxed_file"], given)
    if isinstance(relaxed, str):
        return judged_without(parser, relaxed)
    return judged(relaxed, energy, verdict)


def find_energy(text: str, pattern: str, unit: str) -> float | str:
    """The energy in eV of the last match, or why there is none."""
    found = None
    for found in re.finditer(pattern, text, re.MULTILINE):  # noqa: B007 - the last one
        pass
    if found is None:
        return "'energy_pattern' does not match anything"
    number = found[1] or ""
    try:
        # Fortran writes 1.0D+02.
        energy = float(re.sub("[dD]", "e", number)) * ENERGY_UNITS[unit]
    except ValueError:
        return f"'energy_pattern' finds '{number[:40]}', which is no number,"
    return energy if math.isfinite(energy) else f"'energy_pattern' finds the energy {number[:40]}"
