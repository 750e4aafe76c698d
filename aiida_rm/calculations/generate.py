"""rm.generate: a potential to new structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine import files
from aiida_rm.engine.elements import parse_formula
from aiida_rm.engine.settings import GenerateSettings


class GenerateCalculation(EngineCalculation):
    """Random sensible starts, relaxed in batches on a potential."""

    TASK = "generate"
    TEMPORARY = (files.OUTPUT_FRAMES,)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """A potential in, new structures out."""
        super().define(spec)
        spec.input("potential", valid_type=PotentialData, help="The potential to relax on.")
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="New structures with `energy_per_atom`, `fmax`, `steps`, `status`, and `seed` "
            "and `index` of the random start.",
        )
        define_cut_short(spec, resumable=False)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse elements that the potential never saw, and crystals from molecules alone."""
        potential = inputs.get("potential")
        if potential is None:
            return None
        settings = cls.settings_of(inputs)
        message = absent_elements(settings, list(potential.elements))
        if (
            message is None
            and settings.periodic
            and not potential.get_header().get("elemental_volumes")
        ):
            return (
                "`potential` was trained on molecules and knows no volumes, but the settings ask "
                "for crystals; set 'periodic' to false and the 'cell' of every stage to 'fixed'"
            )
        return message

    def copies(self) -> list[tuple[str, str, str]]:
        """The potential."""
        potential = self.inputs.potential
        return [(potential.uuid, potential.filename, files.INPUT_POTENTIAL)]


def absent_elements(settings: GenerateSettings, elements: list[str]) -> str | None:
    """Say which elements of the formulas are not among ``elements``, or None."""
    wanted = {symbol for formula in settings.formulas for symbol in parse_formula(formula)}
    absent = sorted(wanted - set(elements))
    if not absent:
        return None
    return (
        f"'formulas' ask for {', '.join(absent)}, which the training set did not hold; "
        f"known are {', '.join(elements)}"
    )
