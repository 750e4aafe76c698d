"""rm.generate: a potential to new structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine import files
from aiida_rm.engine.search import check_committee, check_search


class GenerateCalculation(EngineCalculation):
    """Random sensible starts, or such made of given structures, relaxed on a potential."""

    TASK = "generate"
    TEMPORARY = (files.OUTPUT_FRAMES, files.FINISHED_FRAMES)

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """A potential in, new structures out."""
        super().define(spec)
        spec.input("potential", valid_type=PotentialData, help="The potential to relax on.")
        spec.input(
            "starts",
            valid_type=FramesData,
            required=False,
            help="Structures to make the starts of, as 'seeding' says; without it the starts are "
            "random.",
        )
        spec.input_namespace(
            "committee",
            dynamic=True,
            required=False,
            valid_type=PotentialData,
            help="Potentials trained like `potential` but for the seed. The mean E~ of all of them "
            "judges what stages of kind hop come to, and what they disagree about becomes the "
            "labels `uncertainty` and so on.",
        )
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="New structures with `energy_per_atom`, `energy_percentile` (among the training "
            "set), `latent_distance` and `latent_percentile` (how unlike it), `ranking`, `fmax`, "
            "`steps`, `status`, and `seed`, `index`, `start` (row in `starts`, or -1), "
            "`start_spacegroup` and `substitution_distance` of the start; with a `committee` also "
            "`committee_energy_per_atom`, `uncertainty`, `uncertainty_mean`, "
            "`energy_deviation`, `cell_deviation`, and `force_deviation` of the atoms.",
        )
        define_cut_short(spec, resumable=False)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse what the potential cannot do, or what no random start can be."""
        potential, starts = inputs.get("potential"), inputs.get("starts")
        if potential is None:
            return None
        given = None if starts is None else starts.get_frames()
        check_search(cls.settings_of(inputs), potential.elements, potential.get_header(), given)
        return _unfit(potential, inputs.get("committee") or {})

    def copies(self) -> list[tuple[str, str, str]]:
        """The potential, its committee, and the structures to make the starts of."""
        potential, starts = self.inputs.potential, self.inputs.get("starts")
        copies = [] if starts is None else list(starts.local_copy_list(files.INPUT_FRAMES))
        for name, member in (self.inputs.get("committee") or {}).items():
            target = f"{files.INPUT_COMMITTEE}/{name}.safetensors"
            copies.append((member.uuid, member.filename, target))
        return [*copies, (potential.uuid, potential.filename, files.INPUT_POTENTIAL)]


def _unfit(potential: PotentialData, committee: Mapping[str, PotentialData]) -> str | None:
    """Say why these potentials cannot judge together, or None."""
    check_committee(potential.elements, {name: one.elements for name, one in committee.items()})
    seen = {potential.base.repository.hash(): "potential"}
    for name, member in sorted(committee.items()):
        own = f"committee.{name}"
        before = seen.setdefault(member.base.repository.hash(), own)
        if before != own:
            return (
                f"`{own}` is the same as `{before}` and can only agree with it; train it with "
                "another seed, or leave it out"
            )
    return None
