"""rm.train: perturbed structures to a potential."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import CalcJobProcessSpec

from aiida_rm.calculations.base import EngineCalculation, define_cut_short
from aiida_rm.calculations.perturb import unusable
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine import files
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.settings import TrainSettings, to_plain
from aiida_rm.engine.training.digest import OTHER_TRAINING, training_digest
from aiida_rm.engine.training.targets import check_labels, check_learnable

#: Knobs that must be those of a potential to begin with.
_SHAPE = ("architecture", "cutoff", "channels", "radial", "l_max", "hidden", "features", "layers")


class TrainCalculation(EngineCalculation):
    """Train a potential on the fictitious response, anew, from a potential, or from a state."""

    TASK = "train"
    TEMPORARY = (
        files.OUTPUT_POTENTIAL,
        files.OUTPUT_STATE,
        files.PREVIOUS_STATE,
        files.OUTPUT_FRAMES,
    )

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Perturbed structures in, a potential out; a state when it was cut short."""
        super().define(spec)
        spec.input(
            "frames",
            valid_type=FramesData,
            help="Perturbed structures with their targets: the output of rm.perturb. With the "
            "setting 'draw' of 'fresh': stable structures, as rm.perturb takes them.",
        )
        spec.input(
            "potential",
            valid_type=PotentialData,
            required=False,
            help="Begin with the weights of this potential (warm start).",
        )
        spec.input(
            "state",
            valid_type=TrainingStateData,
            required=False,
            help="Go on where a training with the same inputs was cut short.",
        )
        spec.output(
            "potential", valid_type=PotentialData, required=False, help="The trained potential E~."
        )
        spec.output(
            "state",
            valid_type=TrainingStateData,
            required=False,
            help="What it takes to go on; only when the training was cut short.",
        )
        spec.output(
            "learning_curves",
            valid_type=orm.ArrayData,
            required=False,
            help="One array a quantity, one value an epoch: loss, validation_loss, force_error "
            "and stress_error (squared error over the mean square of the target), learning_rate...",
        )
        spec.output(
            "validation",
            valid_type=FramesData,
            required=False,
            help="Structures that were kept for validation, with their targets and what the "
            "potential predicts: `predicted_force`, `predicted_stress`, `predicted_energy`.",
        )
        define_cut_short(spec, resumable=True)

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:
        """Refuse structures without targets, a potential of another shape, a state of others."""
        frames = inputs.get("frames")
        if frames is None:
            return None
        settings = cls.settings_of(inputs)
        fresh = settings.draw == "fresh"
        message = (
            needless_targets(frames)
            if fresh
            else missing_targets(frames, energy=settings.energy_weight > 0)
        )
        potential, state = inputs.get("potential"), inputs.get("state")
        core = (settings.recipe.core_scale, settings.recipe.core_strength)
        if message is None:
            try:
                molecules = frames.pbc_kind == "molecule"
                check_learnable(settings, len(frames.elements), molecules=molecules)
                if not fresh:
                    core = check_labels(frames.get_frames(), energy=settings.energy_weight > 0)
            except EngineError as error:
                message = f"`frames`: {error}"
        if message is None and potential is not None:
            message = cannot_begin_with(potential, settings, core)
        if message is None and state is not None:
            digest = training_digest(frames.get_frames(), settings)
            if state.digest != digest:
                return f"`state`: {OTHER_TRAINING}, or leave `state` out to begin anew"
        return message

    def with_mpi(self) -> bool | None:
        """Several processes train together when the resources ask for them."""
        return self.processes() > 1 if self._mpi_chosen() is None else None

    def processes(self) -> int:
        """What the resources ask for."""
        resources = self.inputs.metadata.options["resources"]
        per_machine = resources.get("num_mpiprocs_per_machine") or 1
        return int(
            resources.get("tot_num_mpiprocs") or resources.get("num_machines", 1) * per_machine
        )

    def parameters(self) -> list[str]:
        """Without MPI the engine starts its processes itself, which it can on one machine."""
        machines = self.inputs.metadata.options["resources"].get("num_machines", 1)
        if self._mpi_chosen() is not False or self.processes() == 1 or machines > 1:
            return []
        return ["--processes", str(self.processes())]

    def _mpi_chosen(self) -> bool | None:
        """What the options, or else the code, say about MPI."""
        option = self.inputs.metadata.options.get("withmpi")
        return self.inputs.code.with_mpi if option is None else bool(option)

    def copies(self) -> list[tuple[str, str, str]]:
        """The structures; the weights or the state to begin with."""
        copies = list(self.inputs.frames.local_copy_list(files.INPUT_FRAMES))
        for name, target in (
            ("potential", files.INPUT_POTENTIAL),
            ("state", files.INPUT_STATE),
        ):
            node = self.inputs.get(name)
            if node is not None:
                copies.append((node.uuid, node.filename, target))
        return copies


def cannot_begin_with(
    potential: PotentialData, settings: TrainSettings, core: tuple[float, float]
) -> str | None:
    """Say why a training cannot start from this potential, or None.

    Args:
        potential: to begin with.
        settings: of the training.
        core: 'core_scale' and 'core_strength' of the perturbation.
    """
    header, wanted = potential.get_header(), to_plain(settings)
    shape = {**header.get("hyperparameters", {}), "architecture": header.get("architecture")}
    for name in _SHAPE:
        if name in shape and shape[name] != wanted[name]:
            return (
                f"`potential` has '{name}' of {shape[name]}, but the settings say {wanted[name]}; "
                "make them equal, or leave `potential` out to train anew"
            )
    own = header.get("core") or {}
    for name, value in zip(("scale", "strength"), core, strict=True):
        if name in own and own[name] != value:
            return (
                f"`potential` has 'core_{name}' of {own[name]}, but the structures are perturbed "
                f"with {value}; make them equal, or leave `potential` out to train anew"
            )
    return None


def needless_targets(frames: FramesData) -> str | None:
    """Say why new copies cannot be made of a set of structures, or None."""
    if "force" in frames.atom_labels:
        return (
            "`frames` carry targets, but the setting 'draw' is 'fresh'; give the stable structures "
            "instead, or set 'draw' to 'stored'"
        )
    problem = unusable(frames)
    return f"`frames`: {problem}" if problem else None


def missing_targets(frames: FramesData, *, energy: bool = False) -> str | None:
    """Say which targets a set of structures lacks to be trained on, E~ too or not, or None."""
    missing = [] if "force" in frames.atom_labels else ["force"]
    if energy and "energy" not in frames.structure_labels:
        missing.append("energy")
    if "stress" not in frames.structure_labels:
        missing.append("stress")
    if not missing:
        return None
    return (
        f"`frames` lack the label{'s' if len(missing) > 1 else ''} {' and '.join(missing)}; "
        "run rm.perturb first and give its output `frames`, or set 'draw' to 'fresh'"
    )
