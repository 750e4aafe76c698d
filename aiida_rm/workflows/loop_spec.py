"""Inputs, outputs and exit codes of rm.loop."""

from __future__ import annotations

from aiida import orm
from aiida.engine import ProcessSpec

from aiida_rm.calculations.perturb import PerturbCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.workflows.committee import define_committee
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.loop_checks import (
    check_first_round,
    check_rounds,
    check_stop,
    check_together,
)
from aiida_rm.workflows.train import TrainWorkChain
from aiida_rm.workflows.validate import ValidateWorkChain


def define_loop(spec: ProcessSpec) -> None:
    """One namespace a stage; the dataset, the potential and all verdicts out."""
    _define_inputs(spec)
    _define_outputs(spec)
    _define_exit_codes(spec)


def _define_inputs(spec: ProcessSpec) -> None:
    spec.input("dataset", valid_type=FramesData, help="Stable structures to begin with.")
    spec.input(
        "known",
        valid_type=FramesData,
        required=False,
        help="Structures to recognise by name, with the label `name`.",
    )
    spec.input(
        "rounds",
        valid_type=orm.Int,
        default=lambda: orm.Int(2),
        serializer=orm.to_aiida_type,
        validator=check_rounds,
        help="How many rounds, each of perturb, train, generate and validate.",
    )
    spec.input(
        "first_round",
        valid_type=orm.Int,
        default=lambda: orm.Int(1),
        serializer=orm.to_aiida_type,
        validator=check_first_round,
        help="Number of the first round, which decides the seeds: more than 1 to go on where "
        "another loop ended (get_builder_from_loop).",
    )
    spec.input(
        "stop",
        valid_type=orm.Dict,
        default=lambda: orm.Dict({}),
        serializer=orm.to_aiida_type,
        validator=check_stop,
        help="When to end before the last round; `aiida-rm knobs stop` lists the criteria. The "
        "extra `stop` of the running loop's node ends it after the round, too.",
    )
    spec.input_namespace(
        "earlier",
        dynamic=True,
        required=False,
        valid_type=orm.Dict,
        help="Rows of the rounds before the first one, `round_01` and so on: `stop` looks at them, "
        "too (get_builder_from_loop).",
    )
    spec.input(
        "warm_start",
        valid_type=orm.Bool,
        default=lambda: orm.Bool(True),
        serializer=orm.to_aiida_type,
        help="Begin a training with the weights of the round before.",
    )
    define_committee(spec)
    of = "Inputs of the stage, but for those from the loop (`verdi plugin list aiida.{}`)."
    spec.expose_inputs(
        PerturbCalculation,
        namespace="perturb",
        exclude=("frames",),
        namespace_options={"help": of.format("calculations rm.perturb")},
    )
    spec.expose_inputs(
        TrainWorkChain,
        namespace="train",
        exclude=("train.frames", "train.state", "clean_workdir"),
        namespace_options={"help": of.format("workflows rm.train")},
    )
    spec.expose_inputs(
        GenerateWorkChain,
        namespace="generate",
        exclude=("generate.potential", "generate.committee", "clean_workdir"),
        namespace_options={"help": of.format("workflows rm.generate")},
    )
    spec.expose_inputs(
        ValidateWorkChain,
        namespace="validate",
        exclude=("score.frames", "score.references", "score.known", "clean_workdir"),
        namespace_options={"help": of.format("workflows rm.validate")},
    )
    spec.inputs.validator = check_together


def _define_outputs(spec: ProcessSpec) -> None:
    spec.output(
        "dataset",
        valid_type=FramesData,
        required=False,
        help="The given one with all that was accepted.",
    )
    spec.output(
        "potential", valid_type=PotentialData, required=False, help="That of the last round."
    )
    spec.output(
        "accepted",
        valid_type=FramesData,
        required=False,
        help="The accepted structures of all rounds.",
    )
    spec.output_namespace(
        "scored",
        dynamic=True,
        valid_type=FramesData,
        help="All generated structures with verdicts, `round_01` and so on.",
    )
    spec.output_namespace(
        "judged",
        dynamic=True,
        valid_type=FramesData,
        help="Structures that the referees got, with what they said, `round_01` and so on.",
    )
    spec.output(
        "rounds",
        valid_type=orm.Dict,
        required=False,
        help="One row a round: counts, yield, E~ (angstrom^2 per atom), errors, seconds.",
    )


def _define_exit_codes(spec: ProcessSpec) -> None:
    for number, stage in enumerate(("perturb", "train", "generate", "validate", "join")):
        spec.exit_code(
            321 + number,
            f"ERROR_{stage.upper()}_FAILED",
            message=f"The stage '{stage}' of round {{round}} failed: {{message}} "
            "What the rounds before found is in the outputs.",
        )
    spec.exit_code(
        703,
        "WARNING_NOTHING_ACCEPTED",
        message="No round found a structure that meets the rules; loosen `validate.rules`, "
        "train longer, or generate more.",
    )
