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

from aiida_rm.calculations.functions import merge_frames, settings_of_round
from aiida_rm.calculations.perturb import PerturbCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.labels import COMMITTEE, GENERATED
from aiida_rm.engine.settings import parse_settings
from aiida_rm.workflows.committee import CommitteeMixin
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, once_more, verdict
from aiida_rm.workflows.continuing import continued_inputs
from aiida_rm.workflows.generate import STRUCTURES_MISSING, GenerateWorkChain
from aiida_rm.workflows.hardware import Hardware
from aiida_rm.workflows.loop_checks import remembers
from aiida_rm.workflows.loop_spec import define_loop
from aiida_rm.workflows.protocols import (
    ProtocolMixin,
    fill,
    for_search,
    given,
    kinds_of,
    merge,
    need,
)
from aiida_rm.workflows.referees import with_referees
from aiida_rm.workflows.rounds import StopSettings, describe_round, summarise_rounds, why_stop
from aiida_rm.workflows.train import TrainWorkChain
from aiida_rm.workflows.validate import NOTHING_ACCEPTED, ValidateWorkChain

#: An extra of the loop's node that asks it to end after the round: ``True``, or the reason.
STOP_EXTRA = "stop"


class LoopWorkChain(CommitteeMixin, CleaningMixin, ProtocolMixin, WorkChain):
    """From a few stable structures to new ones, learning from what was accepted."""

    PROTOCOL_FILE = "loop"

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """One namespace a stage; the dataset, the potential and all verdicts out."""
        super().define(spec)
        define_loop(spec)
        spec.outline(
            cls.setup,
            while_(cls.should_run_round)(
                cls.begin_round,
                cls.run_perturb,
                cls.perturb_once_more,
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

    @classmethod
    def _inner_inputs(cls, protocol: str, kinds: Collection[str]) -> dict[str, Any]:
        inner = {
            "train": TrainWorkChain.get_protocol_inputs(protocol, kinds=kinds),
            "generate": GenerateWorkChain.get_protocol_inputs(protocol, kinds=kinds),
            "validate": ValidateWorkChain.get_protocol_inputs(protocol, kinds=kinds),
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
        starts: FramesData | None = None,
        referees: Mapping[str, Mapping[str, Any]] | None = None,
        computer: orm.Computer | None = None,
        gpus: int | None = None,
        nodes: int | None = None,
    ) -> ProcessBuilder:
        """A builder that is ready to run.

        Args:
            code: the engine, for all stages.
            dataset: stable structures; molecules alone make molecules.
            protocol: fast, balanced or stringent; None takes the default.
            overrides: inputs that replace the protocol's.
            options: `metadata.options` of every job.
            known: structures to recognise, with the label `name`.
            starts: structures to make the starts of in every round, as 'seeding' says.
            referees: inputs of rm.judge by name, such as ``{"xtb": {"code": code}}``; the best
                structures of each round must be `converged` for them to be accepted.
            computer: where a code runs that belongs to no computer.
            gpus: of each machine: a training takes all of them, a search one for each of its
                jobs (docs/setup.md); `options` win.
            nodes: machines.
        """
        need(code, orm.AbstractCode, "code")
        need(dataset, FramesData, "dataset")
        kinds = kinds_of(dataset)
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds)
        members = inputs.get("committee_size")
        settings = inputs["train"]["train"]["settings"]
        asked = settings.get("environments") if isinstance(settings, Mapping) else None
        kinds = for_search(
            kinds,
            committee=bool(getattr(members, "value", members)),
            environments=remembers(dataset, asked),
        )
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds)
        inputs["validate"] = with_referees(inputs["validate"], referees)
        inputs = merge(inputs, given(dataset=dataset, known=known))
        if starts is not None:
            need(starts, FramesData, "starts")
            inputs = merge(inputs, {"generate": {"generate": {"starts": starts}}})
        hardware = Hardware(code, computer, gpus, nodes)
        for path in (("train", "train"), ("generate", "generate")):
            inputs = hardware.on_gpu(inputs, path)
        inputs["generate"] = hardware.share(inputs["generate"])
        asked = {
            "train.train": hardware.of_training(),
            "generate.generate": hardware.of_generation(),
        }
        return cls._build(code, inputs, options, computer, asked)

    @classmethod
    def get_builder_from_loop(
        cls, loop: orm.WorkChainNode, rounds: int | None = None
    ) -> ProcessBuilder:
        """A builder with the inputs of an earlier loop, to go on after its last whole round.

        The earlier loop may have finished, failed, or been killed. Its outputs are the inputs of
        the new one: the rounds together are what one long loop would have been.

        Args:
            loop: the node of the earlier loop.
            rounds: how many to go; None: those that it had left.

        Raises:
            ValueError: the node is no loop, or it runs, or it has no rounds left.
        """
        need(loop, orm.WorkChainNode, "loop")
        if loop.process_type != cls.build_process_type():
            raise ValueError(f"<{loop.pk}> is a {loop.process_label}, no loop")
        builder = cls.get_builder()
        fill(builder, continued_inputs(loop, rounds), cls.spec().inputs)
        return builder

    def setup(self) -> None:
        """Begin with the dataset as it was given."""
        self.ctx.round = self.inputs.first_round.value - 1
        self.ctx.last_round = self.ctx.round + self.inputs.rounds.value
        self.ctx.why = ""
        self.ctx.asked = False
        self.ctx.dataset = self.inputs.dataset
        self.ctx.potential = self.inputs.train.train.get("potential")
        self.ctx.trained = False
        self.ctx.committee = dict(self.inputs.get("committee") or {})
        self.ctx.accepted = {}
        self.ctx.table = {}
        self.ctx.references = {}

    def should_run_round(self) -> bool:
        """Whether a round is left, and nothing says that it is enough."""
        if self.ctx.round >= self.ctx.last_round:
            return False
        self.ctx.why = self._why_stop()
        if self.ctx.why:
            self.report(f"{self.ctx.why}; {self.ctx.last_round - self.ctx.round} rounds are left")
        return not self.ctx.why

    def begin_round(self) -> None:
        """Count, and draw the seeds of the round."""
        self.ctx.round += 1
        self.report(
            f"round {self.ctx.round} of {self.ctx.last_round} begins with "
            f"{len(self.ctx.dataset)} structures"
        )

    def run_perturb(self) -> Any:
        """Perturb the dataset."""
        inputs = AttributeDict(self.exposed_inputs(PerturbCalculation, "perturb"))
        inputs.frames = self.ctx.dataset
        return self._launch("perturb", PerturbCalculation, inputs, inputs)

    def perturb_once_more(self) -> Any:
        """Run the job again if it was unlucky."""
        return once_more(self, "perturb")

    def inspect_perturb(self) -> ExitCode | None:
        """Without perturbed structures the loop ends."""
        return self._inspect("perturb", "frames")

    def run_train(self) -> Any:
        """Train on the perturbed structures: the potential, and those that judge it."""
        inputs = self._training_inputs(self.ctx.potential)
        launched = self._launch("train", TrainWorkChain, inputs, inputs.train)
        if isinstance(launched, ExitCode):
            return launched
        return {**launched, **self._launch_members(inputs.train.settings)}

    def inspect_train(self) -> ExitCode | None:
        """Without a potential the loop ends; without a member of the committee it does not."""
        exit_code = self._inspect("train", "potential")
        if exit_code is not None:
            return exit_code
        self.ctx.potential = self.ctx.train.outputs.potential
        self.ctx.trained = True
        self.ctx.committee = self._trained_members()
        if self.inputs.committee_size.value and not self.ctx.committee:
            return self._stop("train", "all members of the committee failed")
        return None

    def _training_inputs(self, potential: PotentialData | None) -> AttributeDict:
        inputs = AttributeDict(self.exposed_inputs(TrainWorkChain, "train"))
        inputs.train = AttributeDict(inputs.train)
        inputs.train.frames = self.ctx.perturb.outputs.frames
        inputs.train.pop("potential", None)
        if potential is not None and (self.inputs.warm_start or not self.ctx.trained):
            inputs.train.potential = potential
        return inputs

    def run_generate(self) -> Any:
        """Generate structures."""
        inputs = AttributeDict(self.exposed_inputs(GenerateWorkChain, "generate"))
        inputs.generate = AttributeDict(inputs.generate)
        inputs.generate.potential = self.ctx.potential
        if self.ctx.committee:
            inputs.generate.committee = self.ctx.committee
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
        if inputs.get("referees"):
            inputs.referees = {
                name: {**parts, **self.ctx.references.get(name, {})}
                for name, parts in inputs.referees.items()
            }
        return self._launch("validate", ValidateWorkChain, inputs, None)

    def inspect_validate(self) -> ExitCode | None:
        """Keep the verdicts."""
        outputs = self.ctx.validate.outputs
        for name in ("scored", "judged"):
            if name in outputs:
                self.out(f"{name}.{self._key}", outputs[name])
        references = outputs.references if "references" in outputs else {}
        for name, phases in references.items():
            self.ctx.references[name] = {"references": phases}  # once is enough
        return self._inspect("validate", "scored", tolerated=NOTHING_ACCEPTED)

    def end_round(self) -> ExitCode | None:
        """Let the accepted join the dataset; write the row of the round."""
        outputs = self.ctx.validate.outputs
        accepted = outputs.accepted if "accepted" in outputs else None
        row = {
            "number": orm.Int(self.ctx.round),
            "dataset": self.ctx.dataset,
            "scored": outputs.scored,
            "training": self.ctx.train.outputs.results,
            "scores": outputs.results,
            **dict(self.ctx.generate.outputs.results),
        }
        for name in ("accepted", "judged"):
            if name in outputs:
                row[name] = outputs[name]
        described, node = call(describe_round, **row)
        if node.is_finished_ok:
            self.ctx.table[self._key] = described
        if accepted is None:
            self.report(f"round {self.ctx.round} accepted nothing; the dataset stays as it is")
            return None
        self.ctx.accepted[self._key] = accepted
        # What the dataset says of energies is of another kind than E~.
        own = {*GENERATED, *COMMITTEE}
        labels = [n for n in _labels(self.ctx.dataset) if n in _labels(accepted) and n not in own]
        parts = {"dataset": self.ctx.dataset, self._key: accepted}
        merged, node = call(merge_frames, labels=orm.List(labels), **parts)
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
            if self.ctx.asked:  # that is no fault of the rules
                return None
            return exit_with(self, "WARNING_NOTHING_ACCEPTED")
        return None

    def _why_stop(self) -> str:
        """The user's word, or what the rounds so far say."""
        query = orm.QueryBuilder()  # as it is now: the node in memory may be older
        query.append(orm.Node, filters={"id": self.node.pk}, project=f"extras.{STOP_EXTRA}")
        asked = query.first(flat=True)
        self.ctx.asked = bool(asked)
        if asked:
            return "asked to stop" + (f": {asked}" if isinstance(asked, str) else "")
        if not self.ctx.table:  # who goes on wants a round at least
            return ""
        settings = parse_settings(StopSettings, self.inputs.stop.get_dict())
        known = self.inputs.get("known")
        names = {*known.get_frames().structure["name"].tolist()} if known is not None else ()
        table = {**self.inputs.get("earlier", {}), **self.ctx.table}
        rows = [table[key].get_dict() for key in sorted(table)]
        return why_stop(rows, settings, len(names))

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
            why = {"stopped": orm.Str(self.ctx.why)} if self.ctx.why else {}
            table, node = call(summarise_rounds, **why, **self.ctx.table)
            if node.is_finished_ok:
                self.out("rounds", table)
        if self.ctx.trained:
            self.out("potential", self.ctx.potential)
            for name, member in self.ctx.committee.items():
                self.out(f"committee.{name}", member)
        self.out("dataset", self.ctx.dataset)


def _labels(frames: FramesData) -> list[str]:
    return [*frames.structure_labels, *frames.atom_labels]
