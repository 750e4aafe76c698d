"""rm.perturb: stable structures to perturbed ones with response targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.errors import FramesError

#: Atoms of a stable structure nearer than this, in angstrom, are a mistake in the data.
OVERLAP = 0.3


class PerturbCalculation(EngineCalculation):
    """Displace atoms and strain cells; the targets are the forces and stress that lead back."""

    TASK = "perturb"
    TEMPORARY = (files.OUTPUT_FRAMES,)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Stable structures in, perturbed structures out."""
        super().define(spec)
        spec.input(
            "frames",
            valid_type=FramesData,
            help="Stable structures: molecules, crystals or both.",
        )
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="Perturbed structures with the targets as labels: force, stress, energy; `parent` "
            "is the index of the structure they come from.",
        )
        define_cut_short(spec, resumable=False)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse structures that no perturbation can mend."""
        frames = inputs.get("frames")
        message = unusable(frames) if frames is not None else None
        return f"`frames`: {message}" if message else None

    def copies(self) -> list[tuple[str, str, str]]:
        """The stable structures."""
        return list(self.inputs.frames.local_copy_list(files.INPUT_FRAMES))


def unusable(node: FramesData) -> str | None:
    """Say why structures cannot be perturbed, or None."""
    frames = node.get_frames()
    try:
        frames.check(min_distance=OVERLAP)
    except FramesError as error:
        return str(error)
    partial = np.flatnonzero(frames.pbc.any(axis=1) & ~frames.pbc.all(axis=1))
    if len(partial):
        return (
            f"structure {partial[0]} is periodic in only some directions; put it into a full cell "
            "(pbc all true) or make it a molecule (pbc all false)"
        )
    return None
