"""rm.perturb: stable structures to perturbed ones with response targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        if frames is None:
            return None
        try:
            frames.get_frames().check(min_distance=OVERLAP)
        except FramesError as error:
            return f"`frames`: {error}"
        return None

    def copies(self) -> list[tuple[str, str, str]]:
        """The stable structures."""
        return list(self.inputs.frames.local_copy_list(files.INPUT_FRAMES))
