"""rm.judge_pw: one crystal by pw.x, from a row of a set to energy, geometry and verdict."""

from __future__ import annotations

from typing import Any

import numpy as np
from aiida import orm
from aiida.engine import ExitCode, ProcessSpec, ToContext, WorkChain, calcfunction, if_

from aiida_rm.calculations.functions import extract_structure
from aiida_rm.data.converters import from_structures
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.referee_settings import PwSettings
from aiida_rm.engine.settings import parse_settings
from aiida_rm.referees.base import CONVERGED, FAILED
from aiida_rm.referees.pw_verdicts import last_usable, runs_of, why_it_failed
from aiida_rm.workflows.common import call, exit_with, verdict

#: K-points of the rough first relaxation are so much farther apart, as in the protocol balanced.
ROUGH = 2.0


class PwJudgeWorkChain(WorkChain):
    """Relax one crystal with PwRelaxWorkChain, or take its energy with PwBaseWorkChain."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """A set and a row in, that structure with energy and verdict out."""
        super().define(spec)
        spec.input("code", valid_type=orm.AbstractCode, help="The program pw.x.")
        spec.input("frames", valid_type=FramesData, help="A set of crystals.")
        spec.input(
            "row",
            valid_type=orm.Int,
            serializer=orm.to_aiida_type,
            help="Index of the crystal that is judged, from 0.",
        )
        spec.input(
            "settings",
            valid_type=orm.Dict,
            serializer=orm.to_aiida_type,
            help="Knobs; what is not given has its default. `aiida-rm knobs pw` lists them "
            "with units.",
        )
        spec.input(
            "options",
            valid_type=orm.Dict,
            default=lambda: orm.Dict({}),
            serializer=orm.to_aiida_type,
            help="`metadata.options` of every job.",
        )
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="The structure with `row` (0), `energy` (eV), `verdict`, `note` and `relaxed`.",
        )
        spec.outline(cls.setup, if_(cls.has_structure)(cls.run_pw), cls.gather)
        spec.exit_code(
            332, "ERROR_NOT_GATHERED", message="The verdict could not be gathered: {message}"
        )
        spec.exit_code(
            704, "WARNING_NOT_CONVERGED", message="The structure was not judged well: {verdict}"
        )

    def setup(self) -> None:
        """The structure as a node of its own."""
        self.ctx.reason = None
        made, node = call(extract_structure, self.inputs.frames, self.inputs.row)
        if node.is_finished_ok:
            self.ctx.structure = made
        else:
            self.ctx.reason = verdict(node)

    def has_structure(self) -> bool:
        """Whether there is something to run."""
        return self.ctx.reason is None

    def run_pw(self) -> Any:
        """Submit the work chain that relaxes, or takes the energy."""
        from aiida_quantumespresso.common.types import ElectronicType, RelaxType, SpinType
        from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
        from aiida_quantumespresso.workflows.pw.relax import PwRelaxWorkChain

        settings = parse_settings(PwSettings, self.inputs.settings.get_dict())
        common = {
            "code": self.inputs.code,
            "structure": self.ctx.structure,
            "protocol": settings.protocol,
            "overrides": overrides(settings),
            "electronic_type": ElectronicType(settings.electronic_type),
            "spin_type": SpinType(settings.spin_type),
            "options": self.inputs.options.get_dict(),
        }
        kinds = {"positions": RelaxType.POSITIONS, "cell": RelaxType.POSITIONS_CELL}
        try:
            if settings.relax == "none":
                builder = PwBaseWorkChain.get_builder_from_protocol(**common)
            else:
                kind = kinds[settings.relax]
                builder = PwRelaxWorkChain.get_builder_from_protocol(**common, relax_type=kind)
                if not settings.first_relax:
                    builder.pop("base_init_relax")
            node = self.submit(builder)
        except ValueError as error:
            self.ctx.reason = f"its inputs were refused: {error}"
            return None
        return ToContext(pw=node)

    def gather(self) -> ExitCode | None:
        """The verdict, with the numbers that stand behind it."""
        told: dict[str, Any] = {"verdict": CONVERGED}
        sources: dict[str, Any] = {}
        settings = parse_settings(PwSettings, self.inputs.settings.get_dict())
        if self.ctx.reason is None and self.ctx.pw.is_finished_ok:
            sources["parameters"] = self.ctx.pw.outputs.output_parameters
            if settings.relax != "none":
                sources["structure"] = self.ctx.pw.outputs.output_structure
        elif self.ctx.reason is None:
            runs = runs_of(self.ctx.pw)
            self.ctx.reason = why_it_failed(self.ctx.pw, runs, settings)
            usable = last_usable(runs) if settings.relax != "none" else None
            if usable is not None:
                sources["trajectory"] = usable.outputs.output_trajectory
                self.ctx.reason = f"not relaxed: {self.ctx.reason}"
        if self.ctx.reason is not None:
            told["verdict"] = FAILED + self.ctx.reason
        row, frames = self.inputs.row, self.inputs.frames
        made, node = call(verdict_of_pw, frames, row, orm.Dict(told), **sources)
        if not node.is_finished_ok:
            return exit_with(self, "ERROR_NOT_GATHERED", message=verdict(node))
        self.out("frames", made)
        if told["verdict"] != CONVERGED:
            return exit_with(self, "WARNING_NOT_CONVERGED", verdict=told["verdict"])
        return None


def overrides(settings: PwSettings) -> dict[str, Any]:
    """What the settings change in a protocol of aiida-quantumespresso."""
    parameters: dict[str, Any] = {}
    if settings.ecutwfc:
        parameters["SYSTEM"] = {"ecutwfc": settings.ecutwfc, "ecutrho": settings.ecutrho}
    if settings.relax != "none":
        parameters["CONTROL"] = {"nstep": settings.max_steps}
    base: dict[str, Any] = {"pw": {"parameters": parameters}, "max_iterations": settings.max_runs}
    if settings.npool:
        base["pw"]["parallelization"] = {"npool": settings.npool}
    if settings.pseudo_family:
        base["pseudo_family"] = settings.pseudo_family
    distance = settings.kpoints_distance
    fine = {**base, "kpoints_distance": distance} if distance else base
    if settings.relax == "none":
        return fine
    rough = {**base, "kpoints_distance": ROUGH * distance} if distance else base
    return {"base_relax": fine, "base_init_relax": rough}


@calcfunction
def verdict_of_pw(
    frames: FramesData,
    row: orm.Int,
    told: orm.Dict,
    structure: orm.StructureData | None = None,
    parameters: orm.Dict | None = None,
    trajectory: orm.TrajectoryData | None = None,
) -> FramesData:
    """One structure with the labels of a referee's run.

    Args:
        frames: the set that was given.
        row: of the structure in it.
        told: ``verdict``.
        structure: as it was relaxed.
        parameters: of the last run, for the energy.
        trajectory: of a relaxation that did not end: geometry and energy of its last whole step.
    """
    given = frames.get_frames()[row.value].without_labels()
    energy, positions, cell = np.nan, given.positions, given.cells
    if parameters is not None:
        energy = float(parameters["energy"])
    if structure is not None:
        relaxed = from_structures([structure])
        positions, cell = relaxed.positions, relaxed.cells
    elif trajectory is not None:
        energies, steps = trajectory.get_array("energy"), trajectory.get_positions()
        last = min(len(energies), len(steps)) - 1
        energy, positions = float(energies[last]), steps[last]
        cell = trajectory.get_array("cells")[last : last + 1]
    labels: dict[str, Any] = {
        "row": [0],
        "energy": [energy],
        "verdict": [told["verdict"]],
        "note": [""],
        "relaxed": [structure is not None or trajectory is not None],
    }
    core = (given.numbers, np.asarray(positions), np.asarray(cell), given.pbc, given.ptr)
    return FramesData(Frames(*core).with_labels(structure=labels))
