"""rm.score: generated structures to verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files

#: What is said of known structures without names.
NAMELESS = (
    "`known` lacks the label `name`; give each structure the name to report: in a file, `name=...` "
    "in the second line of an extxyz; of nodes, the label of each StructureData "
    "(rm.frames_from_structures takes it)"
)


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
        spec.input(
            "null",
            valid_type=FramesData,
            required=False,
            help="Random structures of the compositions of `known`, relaxed or not: what chance "
            "finds is put beside the match rates.",
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
        """Refuse known structures without names, and a null without known structures."""
        known = inputs.get("known")
        # Where the frames come later, so may the known structures.
        if "null" in inputs and "frames" in inputs and known is None:
            return "`null` says what chance finds of the `known` structures; give these, too"
        frames = inputs.get("frames")
        covers = frames is not None and frames.pbc_kind != "molecule"
        if covers and "references" not in inputs and cls.settings_of(inputs).coverage == "on":
            return "the setting 'coverage' is on; give `references`, or set it to auto"
        if known is not None and "name" not in known.structure_labels:
            return NAMELESS
        return None

    def copies(self) -> list[tuple[str, str, str]]:
        """The structures, and what they are compared with."""
        copies: list[tuple[str, str, str]] = []
        for label, target in (
            ("frames", files.INPUT_FRAMES),
            ("references", files.REFERENCE_FRAMES),
            ("known", files.KNOWN_FRAMES),
            ("null", files.NULL_FRAMES),
        ):
            node = self.inputs.get(label)
            if node is not None:
                copies.extend(node.local_copy_list(target))
        return copies
