"""rm.relax: structures to energies and relaxed structures, by any ASE calculator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames


class RelaxCalculation(EngineCalculation):
    """Relax structures one after the other with a calculator named by its import path."""

    TASK = "relax"
    TEMPORARY = (files.OUTPUT_FRAMES,)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Structures in, the same structures with energies and verdicts out."""
        super().define(spec)
        spec.input("frames", valid_type=FramesData, help="The structures to relax.")
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="The structures, relaxed, row by row, with `energy` (eV), `verdict`, `note`, "
            "`steps`, `fmax` (eV/angstrom) and `row`.",
        )
        define_cut_short(spec, resumable=False)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse slabs whose cell should move."""
        frames, settings = inputs.get("frames"), inputs.get("settings")
        if frames is None or settings is None:
            return None
        message = unmovable(frames.get_frames(), cls.settings_of(inputs).cell)
        return f"`frames`: {message}" if message else None

    def copies(self) -> list[tuple[str, str, str]]:
        """The structures."""
        return list(self.inputs.frames.local_copy_list(files.INPUT_FRAMES))


def unmovable(frames: Frames, cell: str) -> str | None:
    """Say why the cells of structures cannot be relaxed, or None."""
    partial = np.flatnonzero(frames.pbc.any(axis=1) & ~frames.pbc.all(axis=1))
    if cell == "fixed" or not len(partial):
        return None
    return (
        f"structure {partial[0]} is periodic in only some directions, and its cell cannot be "
        "relaxed; set 'cell' to fixed"
    )
