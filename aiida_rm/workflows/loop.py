"""rm.loop: perturb, train, generate, validate; the accepted join the dataset; again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import (
    ExitCode,
    Process,
    ProcessBuilder,
    ProcessSpec,
    ToContext,
    WorkChain,
    while_,
)

from aiida_rm.calculations.functions import merge_frames, settings_of_round, summarise_rounds
from aiida_rm.calculations.generate import GenerateCalculation
from aiida_rm.calculations.perturb import PerturbCalculation, unusable
from aiida_rm.calculations.score import ScoreCalculation
from aiida_rm.calculations.train import TrainCalculation, cannot_begin_with
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.labels import GENERATED
from aiida_rm.engine.search import check_search
from aiida_rm.engine.training.statistics import describe_training_set
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, verdict
from aiida_rm.workflows.functions import describe_round
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.protocols import ProtocolMixin, kinds_of, merge, need
from aiida_rm.workflows.train import TrainWorkChain
from aiida_rm.workflows.validate import ValidateWorkChain, rules_problem

MAX_ROUNDS = 99
#: Some structures are missing; nothing met the rules: the round goes on without.
STRUCTURES_MISSING, NOTHING_ACCEPTED = 701, 702


class LoopWorkChain(CleaningMixin, ProtocolMixin, WorkChain):
    """From a few stable structures to new ones, learning from what was accepted."""

    PROTOCOL_FILE = "loop"

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """One namespace a stage; the dataset, the potential and all verdicts out."""
        super().define(spec)
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
            validator=_check_rounds,
            help="How often to go round.",
        )
        spec.input(
            "warm_start",
            valid_type=orm.Bool,
            default=lambda: orm.Bool(True),
            serializer=orm.to_aiida_type,
            help="Begin a training with the weights of the round before.",
        )
        spec.expose_inputs(PerturbCalculation, namespace="perturb", exclude=("frames",))
        spec.expose_inputs(
            TrainWorkChain,
            namespace="train",
            exclude=("train.frames", "train.state", "clean_workdir"),
        )
        spec.expose_inputs(
            GenerateWorkChain,
            namespace="generate",
            exclude=("generate.potential", "clean_workdir"),
        )
        spec.expose_inputs(
            ValidateWorkChain,
            namespace="validate",
            exclude=("score.frames", "score.references", "score.known", "clean_workdir"),
        )
        spec.inputs.validator = _check_together
        spec.output(
            "dataset", valid_type=FramesData, required=False, help="With all that was accepted."
        )
        spec.output("potential", valid_type=PotentialData, required=False, help="The last one.")
        spec.output(
            "accepted", valid_type=FramesData, required=False, help="The accepted of all rounds."
        )
        spec.output_namespace(
            "scored",
            dynamic=True,
            valid_type=FramesData,
            help="All generated structures with verdicts, `round_01` and so on.",
        )
        spec.output("rounds", valid_type=orm.Dict, required=False, help="One row a round.")
        spec.outline(
            cls.setup,
            while_(cls.should_run_round)(
                cls.begin_round,
                cls.run_perturb,
                cls.inspect_perturb,
                cls.run_train,
                cls.inspect_train,
                cls.run_generate,
                cls.inspect_generate,
                cls.run_validate,
                cls.inspect_validate,
                cls.end_round,
            ),
            cls.finish,
        )
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

    @classmethod
    def _inner_inputs(cls, protocol: str, kinds: Collection[str]) -> dict[str, Any]:
        inner = {
            "train": TrainWorkChain.get_protocol_inputs(protocol, kinds=kinds),
            "generate": GenerateWorkChain.get_protocol_inputs(protocol, kinds=kinds),
            "validate": ValidateWorkChain.get_protocol_inputs(protocol),
        }
        for inputs in inner.values():
            inputs.pop("clean_workdir", None)  # the loop cleans for all
        return inner

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        dataset: FramesData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        known: FramesData | None = None,
        computer: orm.Computer | None = None,
    ) -> ProcessBuilder:
        """A builder that is ready to run.

        Args:
            code: the engine, for all stages.
            dataset: stable structures; molecules alone make molecules.
            protocol: fast, balanced or stringent; None takes the default.
            overrides: inputs that replace the protocol's.
            options: `metadata.options` of every job.
            known: structures to recognise, with the label `name`.
            computer: where a code runs that belongs to no computer.
        """
        need(dataset, FramesData, "dataset")
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds_of(dataset))
        inputs = merge(inputs, {"dataset": dataset, "known": known})
        return cls._build(code, inputs, options, computer)

    def setup(self) -> None:
        """Begin with the dataset as it was given."""
        self.ctx.round = 0
        self.ctx.dataset = self.inputs.dataset
        self.ctx.potential = self.inputs.train.train.get("potential")
        self.ctx.trained = False
        self.ctx.accepted = {}
        self.ctx.table = {}

    def should_run_round(self) -> bool:
        """Whether a round is left."""
        return bool(self.ctx.round < self.inputs.rounds.value)

    def begin_round(self) -> None:
        """Count, and draw the seeds of the round."""
        self.ctx.round += 1
        self.report(
            f"round {self.ctx.round} of {self.inputs.rounds.value} begins with "
            f"{len(self.ctx.dataset)} structures"
        )

    def run_perturb(self) -> Any:
        """Perturb the dataset."""
        inputs = AttributeDict(self.exposed_inputs(PerturbCalculation, "perturb"))
        inputs.frames = self.ctx.dataset
        return self._launch("perturb", PerturbCalculation, inputs, inputs)

    def inspect_perturb(self) -> ExitCode | None:
        """Without perturbed structures the loop ends."""
        return self._inspect("perturb", "frames")

    def run_train(self) -> Any:
        """Train on the perturbed structures."""
        inputs = AttributeDict(self.exposed_inputs(TrainWorkChain, "train"))
        inputs.train = AttributeDict(inputs.train)
        inputs.train.frames = self.ctx.perturb.outputs.frames
        if self.ctx.potential is not None and (self.inputs.warm_start or not self.ctx.trained):
            inputs.train.potential = self.ctx.potential
        return self._launch("train", TrainWorkChain, inputs, inputs.train)

    def inspect_train(self) -> ExitCode | None:
        """Without a potential the loop ends."""
        exit_code = self._inspect("train", "potential")
        if exit_code is None:
            self.ctx.potential = self.ctx.train.outputs.potential
            self.ctx.trained = True
        return exit_code

    def run_generate(self) -> Any:
        """Generate structures."""
        inputs = AttributeDict(self.exposed_inputs(GenerateWorkChain, "generate"))
        inputs.generate = AttributeDict(inputs.generate)
        inputs.generate.potential = self.ctx.potential
        return self._launch("generate", GenerateWorkChain, inputs, inputs.generate)

    def inspect_generate(self) -> ExitCode | None:
        """Some missing structures are no reason to stop."""
        return self._inspect("generate", "frames", tolerated=STRUCTURES_MISSING)

    def run_validate(self) -> Any:
        """Judge the structures; what the dataset holds is not novel."""
        inputs = AttributeDict(self.exposed_inputs(ValidateWorkChain, "validate"))
        inputs.score = AttributeDict(inputs.score)
        inputs.score.frames = self.ctx.generate.outputs.frames
        inputs.score.references = self.ctx.dataset
        if "known" in self.inputs:
            inputs.score.known = self.inputs.known
        return self._launch("validate", ValidateWorkChain, inputs, None)

    def inspect_validate(self) -> ExitCode | None:
        """Keep the verdicts."""
        if "scored" in self.ctx.validate.outputs:
            self.out(f"scored.{self._key}", self.ctx.validate.outputs.scored)
        return self._inspect("validate", "scored", tolerated=NOTHING_ACCEPTED)

    def end_round(self) -> ExitCode | None:
        """Let the accepted join the dataset; write the row of the round."""
        outputs = self.ctx.validate.outputs
        accepted = outputs.accepted if "accepted" in outputs else None
        row = {
            "dataset": self.ctx.dataset,
            "scored": outputs.scored,
            "training": self.ctx.train.outputs.results,
            "scores": outputs.results,
        }
        if accepted is not None:
            row["accepted"] = accepted
        described, node = call(describe_round, **row)
        if node.is_finished_ok:
            self.ctx.table[self._key] = described
        if accepted is None:
            self.report(f"round {self.ctx.round} accepted nothing; the dataset stays as it is")
            return None
        self.ctx.accepted[self._key] = accepted
        merged, node = call(merge_frames, dataset=self.ctx.dataset, **{self._key: accepted})
        if not node.is_finished_ok:
            return self._stop("join", f"<{node.pk}> ended with {verdict(node)}")
        self.ctx.dataset = merged
        self.report(
            f"round {self.ctx.round} accepted {len(accepted)} structures; the dataset now holds "
            f"{len(merged)}"
        )
        return None

    def finish(self) -> ExitCode | None:
        """Attach the outputs of the whole loop."""
        self._attach()
        if not self.ctx.accepted:
            self.report("no round accepted a structure")
            return exit_with(self, "WARNING_NOTHING_ACCEPTED")
        return None

    @property
    def _key(self) -> str:
        return f"round_{self.ctx.round:02d}"

    def _launch(self, stage: str, process: type[Process], inputs: Any, seeded: Any) -> Any:
        """Submit a stage; ``seeded`` are the inputs whose settings get the seed of the round.

        The first round runs with the settings as they were given.
        """
        if seeded is not None and self.ctx.round > 1:
            settings, made = call(settings_of_round, seeded.settings, orm.Int(self.ctx.round - 1))
            if not made.is_finished_ok:
                return self._stop(stage, f"<{made.pk}> ended with {verdict(made)}")
            seeded.settings = settings
        metadata = inputs.get("metadata", {})
        inputs.metadata = {**metadata, "call_link_label": f"{self._key}_{stage}"}
        try:
            node = self.submit(process, **inputs)
        except ValueError as error:
            return self._stop(stage, f"its inputs were refused: {error}")
        self.report(f"round {self.ctx.round}: {stage} is <{node.pk}>")
        return ToContext(**{stage: node})

    def _inspect(self, stage: str, output: str, tolerated: int = 0) -> ExitCode | None:
        node = self.ctx[stage]
        good = node.is_finished_ok or (node.is_finished and node.exit_status == tolerated)
        if good and output in node.outputs:
            if not node.is_finished_ok:
                self.report(f"{stage} <{node.pk}> says {verdict(node)}")
            return None
        return self._stop(stage, f"<{node.pk}> ended with {verdict(node)}")

    def _stop(self, stage: str, message: str) -> ExitCode:
        """End the loop, with all that there is."""
        self.report(f"{stage} {message}; stopping")
        self._attach()
        label = f"ERROR_{stage.upper()}_FAILED"
        return exit_with(self, label, round=self.ctx.round, message=f"{message.rstrip('.')}.")

    def _attach(self) -> None:
        accepted = self.ctx.accepted
        if len(accepted) == 1:
            self.out("accepted", next(iter(accepted.values())))
        elif accepted:
            merged, node = call(merge_frames, **accepted)
            if node.is_finished_ok:
                self.out("accepted", merged)
        if self.ctx.table:
            table, node = call(summarise_rounds, **self.ctx.table)
            if node.is_finished_ok:
                self.out("rounds", table)
        if self.ctx.trained:
            self.out("potential", self.ctx.potential)
        self.out("dataset", self.ctx.dataset)


def _check_rounds(value: orm.Int, _: Any) -> str | None:
    if not 1 <= value.value <= MAX_ROUNDS:
        return f"`rounds` is {value.value}, must be between 1 and {MAX_ROUNDS}"
    return None


def _check_together(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Find at submission what would else stop a later stage."""
    dataset, known = inputs.get("dataset"), inputs.get("known")
    if not isinstance(dataset, FramesData):
        return None  # the port says so
    if isinstance(known, FramesData) and "name" not in known.structure_labels:
        return "`known` lacks the label `name`; give each structure the name to report"
    try:
        message = unusable(dataset)
        return f"`dataset`: {message}" if message else _check_stages(dataset, inputs)
    except EngineError as error:
        return f"`dataset` or the settings: {error}"
    except KeyError:
        return None  # a missing namespace; its port says so


def _check_stages(dataset: FramesData, inputs: Mapping[str, Any]) -> str | None:
    train, generate = inputs["train"]["train"], inputs["generate"]["generate"]
    potential = train.get("potential")
    settings = TrainCalculation.settings_of(train)
    if settings.draw == "fresh":
        return (
            "the settings of 'train' have 'draw' of 'fresh', but a loop perturbs its dataset "
            "itself; set 'draw' to 'stored', and raise 'samples' of 'perturb' for more copies"
        )
    cold = not isinstance(potential, PotentialData)
    if message := None if cold else cannot_begin_with(potential, settings):
        return message
    if message := _check_generation(dataset, None if cold else potential, generate):
        return message
    scoring = ScoreCalculation.settings_of(inputs["validate"].get("score", {}))
    return rules_problem(inputs["validate"]["rules"], GENERATED, scoring)


def _check_generation(dataset: FramesData, potential: Any, generate: Any) -> str | None:
    """What a potential that was trained on the dataset could not do."""
    starts = generate.get("starts")
    given = starts.get_frames() if isinstance(starts, FramesData) else None
    elements = {*dataset.elements, *([] if potential is None else potential.elements)}
    try:
        check_search(
            GenerateCalculation.settings_of(generate),
            sorted(elements),
            describe_training_set(dataset.get_frames(), distances=False),
            given,
        )
    except EngineError as error:
        return f"the settings of 'generate' do not go with `dataset`: {error}"
    return None
