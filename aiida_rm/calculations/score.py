"""rm.score: generated structures to verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files


class ScoreCalculation(EngineCalculation):
    """Which structures are valid, unique, novel, and which are known ones."""

    TASK = "score"
    TEMPORARY = (files.OUTPUT_FRAMES,)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Structures in, the same structures with verdicts out."""
        super().define(spec)
        spec.input("frames", valid_type=FramesData, help="The structures to judge.")
        spec.input(
            "references",
            valid_type=FramesData,
            required=False,
            help="Structures that are not novel, such as the training set.",
        )
        spec.input(
            "known",
            valid_type=FramesData,
            required=False,
            help="Structures to recognise, with the label `name`.",
        )
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="The input with verdicts: `valid`, `unique`, `novel`, `match`, `spacegroup`...",
        )
        define_cut_short(spec, resumable=False)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse known structures without names."""
        known = inputs.get("known")
        if known is not None and "name" not in known.structure_labels:
            return "`known` lacks the label `name`; give each structure the name to report"
        return None

    def copies(self) -> list[tuple[str, str, str]]:
        """The structures, and what they are compared with."""
        copies: list[tuple[str, str, str]] = []
        for label, target in (
            ("frames", files.INPUT_FRAMES),
            ("references", files.REFERENCE_FRAMES),
            ("known", files.KNOWN_FRAMES),
        ):
            node = self.inputs.get(label)
            if node is not None:
                copies.extend(node.local_copy_list(target))
        return copies
