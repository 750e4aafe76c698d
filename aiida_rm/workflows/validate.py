"""rm.validate: score structures, let referees judge the best, keep those that meet the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessBuilder, ProcessSpec, ToContext, WorkChain, if_

from aiida_rm.calculations.functions import ERROR_EMPTY_SELECTION, select_frames
from aiida_rm.calculations.score import ScoreCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError, asked_labels, check_names, check_rules, label_kinds
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.labels import PERCEPTION, POSEBUSTERS, SCORED, SMACT
from aiida_rm.engine.settings import ScoreSettings
from aiida_rm.workflows.candidates import (
    JUDGE,
    choose_candidates,
    join_verdicts,
    left_by,
    rules_before,
)
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, once_more, verdict
from aiida_rm.workflows.judge import MAX_STRUCTURES, JudgeWorkChain
from aiida_rm.workflows.protocols import ProtocolMixin, given, kinds_of, merge, need
from aiida_rm.workflows.referees import (
    RULES,
    hull_problem,
    judge_inputs,
    referee_labels,
    referees_problem,
    with_referees,
)

#: Exit status when nothing met the rules.
NOTHING_ACCEPTED = 702


class ValidateWorkChain(CleaningMixin, ProtocolMixin, WorkChain):
    """Score a set of structures and select the accepted ones by rules on the verdicts.

    With referees, the best of those that meet the other rules are judged first, and are the only
    ones that can be accepted.
    """

    PROTOCOL_FILE = "validate"

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Inputs of the job under `score`, referees by name; the judged and the accepted out."""
        super().define(spec)
        spec.expose_inputs(
            ScoreCalculation,
            namespace="score",
            namespace_options={
                "help": "Inputs of the job (`verdi plugin list aiida.calculations rm.score`)."
            },
        )
        spec.input(
            "rules",
            valid_type=orm.Dict,
            default=lambda: orm.Dict(dict(RULES)),
            serializer=orm.to_aiida_type,
            validator=_check_rules,
            help="What an accepted structure must meet, all of it, such as `{valid: true, "
            "max_energy_per_atom: 0.5, sort: energy_per_atom, limit: 10}` (docs/validation.md).",
        )
        spec.input_namespace(
            "referees",
            dynamic=True,
            required=False,
            valid_type=orm.Data,
            help="Inputs of rm.judge (`code`, `referee`, `settings`...) by a name of your choice, "
            "with which the labels begin.",
        )
        spec.input(
            "max_judged",
            valid_type=orm.Int,
            default=lambda: orm.Int(20),
            serializer=orm.to_aiida_type,
            validator=_check_max_judged,
            help="So many structures go to the referees: the first in the order of the rules.",
        )
        spec.input(
            "adopt",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            help="Name of the referee whose relaxed structures are scored again and accepted; "
            "without it, structures are accepted as they were generated.",
        )
        spec.inputs.validator = _check_together
        spec.output(
            "scored",
            valid_type=FramesData,
            required=False,
            help="All structures with their verdicts.",
        )
        spec.output(
            "judged",
            valid_type=FramesData,
            required=False,
            help="Structures that the referees got, with what all of them said; `scored_row` is "
            "the row in `scored`.",
        )
        spec.output_namespace(
            "referees", dynamic=True, valid_type=orm.Dict, help="What rm.judge says, by referee."
        )
        spec.output_namespace(
            "references",
            dynamic=True,
            valid_type=FramesData,
            help="References of the referees that have any, judged, by referee: give them again, "
            "and they are not judged again.",
        )
        spec.output(
            "adopted_results",
            valid_type=orm.Dict,
            required=False,
            help="Summary of the scoring of the relaxed structures.",
        )
        spec.output(
            "accepted", valid_type=FramesData, required=False, help="Those that meet the rules."
        )
        spec.output("results", valid_type=orm.Dict, required=False, help="Summary of the scoring.")
        spec.outline(
            cls.run_score,
            cls.score_once_more,
            cls.inspect_score,
            if_(cls.has_referees)(
                cls.choose,
                cls.run_referees,
                cls.inspect_referees,
                if_(cls.should_score_again)(
                    cls.run_score_again, cls.score_again_once_more, cls.inspect_score_again
                ),
            ),
            cls.select,
        )
        spec.exit_code(316, "ERROR_SCORE_FAILED", message="The scoring <{pk}> ended with {message}")
        spec.exit_code(317, "ERROR_RULES_REFUSED", message="The rules cannot be applied: {message}")
        spec.exit_code(
            318, "ERROR_NOT_JOINED", message="The verdicts could not be joined: {message}"
        )
        spec.exit_code(
            NOTHING_ACCEPTED,
            "WARNING_NOTHING_ACCEPTED",
            message="None of {count} structures meets the rules; loosen them, or generate more.",
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        frames: FramesData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        references: FramesData | None = None,
        known: FramesData | None = None,
        null: FramesData | None = None,
        referees: Mapping[str, Mapping[str, Any]] | None = None,
        computer: orm.Computer | None = None,
    ) -> ProcessBuilder:
        """A builder that is ready to run.

        Args:
            code: the engine.
            frames: the structures to judge.
            protocol: fast, balanced or stringent; None takes the default.
            overrides: inputs that replace the protocol's.
            options: `metadata.options` of the job.
            references: structures that are not novel.
            known: structures to recognise, with the label `name`.
            null: random structures of the same compositions, to compare the match rates with.
            referees: inputs of rm.judge by name, such as ``{"xtb": {"code": code}}``. What each
                says must be `converged` for a structure to be accepted, unless `overrides` have
                another rule on it.
            computer: where a code runs that belongs to no computer.
        """
        need(frames, FramesData, "frames")
        nodes = given(frames=frames, references=references, known=known, null=null)
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds_of(frames))
        inputs = with_referees(inputs, referees)
        return cls._build(code, merge(inputs, {"score": nodes}), options, computer)

    def run_score(self) -> Any:
        """Submit the scoring."""
        return self._score("score", self.inputs.score.frames)

    def score_once_more(self) -> Any:
        """Run the job again if it was unlucky."""
        return once_more(self, "score")

    def inspect_score(self) -> ExitCode | None:
        """Keep the verdicts; without them there is nothing to select from."""
        return self._inspect_score("score", "scored", "results")

    def has_referees(self) -> bool:
        """Whether anybody else is asked."""
        return bool(self.inputs.get("referees"))

    def choose(self) -> ExitCode | None:
        """Take the best for the referees."""
        scored = self.ctx.select_from
        names = orm.List(sorted(self.inputs.referees))
        chosen, node = call(
            choose_candidates, scored, self.inputs.rules, self.inputs.max_judged, names
        )
        first = rules_before(self.inputs.rules.get_dict(), names.get_list())
        if not node.is_finished_ok:
            return self._not_selected(node, scored, first)
        self.ctx.candidates = chosen
        left = left_by(scored, first)
        self.report(f"{len(chosen)} of {len(scored)} structures go to the referees{left}")
        return None

    def run_referees(self) -> Any:
        """Submit them all; one that refuses is one that failed."""
        self.ctx.failed, launched = {}, {}
        for name, parts in sorted(self.inputs.referees.items()):
            inputs = judge_inputs(name, parts)
            inputs["metadata"] = {"call_link_label": JUDGE + name}
            try:
                node = self.submit(
                    JudgeWorkChain,
                    frames=self.ctx.candidates,
                    max_structures=self.inputs.max_judged,
                    **inputs,
                )
            except ValueError as error:
                self._fail(name, f"it refused: {error}")
                continue
            self.report(f"the referee '{name}' judges in <{node.pk}>")
            launched[JUDGE + name] = node
        return ToContext(**launched)

    def inspect_referees(self) -> ExitCode | None:
        """Join what they said; a referee that failed leaves the others alone."""
        judged = {}
        for name in sorted({*self.inputs.referees} - {*self.ctx.failed}):
            node = self.ctx[JUDGE + name]
            if "frames" not in node.outputs:
                self._fail(name, f"<{node.pk}> ended with {verdict(node)}")
                continue
            judged[JUDGE + name] = node.outputs.frames
            self.out(f"referees.{name}", node.outputs.results)
            if "references" in node.outputs:
                self.out(f"references.{name}", node.outputs.references)
        adopt = self.inputs.adopt.value if "adopt" in self.inputs else ""
        told = orm.Dict({"adopt": adopt, "failed": self.ctx.failed})
        joined, made = call(join_verdicts, self.ctx.candidates, told, **judged)
        if not made.is_finished_ok:
            return exit_with(self, "ERROR_NOT_JOINED", message=made.exit_message)
        self.ctx.select_from = joined
        self.ctx.adopted = JUDGE + adopt in judged
        if not self.ctx.adopted:
            self.out("judged", joined)
        return None

    def should_score_again(self) -> bool:
        """Whether there are relaxed structures to accept."""
        return bool(self.ctx.adopted)

    def run_score_again(self) -> Any:
        """Score the relaxed structures."""
        return self._score("score_again", self.ctx.select_from)

    def score_again_once_more(self) -> Any:
        """Run the job again if it was unlucky."""
        return once_more(self, "score_again")

    def inspect_score_again(self) -> ExitCode | None:
        """What is accepted is judged as it is accepted."""
        joined = self.ctx.select_from
        ended = self._inspect_score("score_again", "judged", "adopted_results")
        if self.ctx.select_from is joined:
            self.out("judged", joined)
        return ended

    def select(self) -> ExitCode | None:
        """Take those that meet the rules."""
        frames = self.ctx.select_from
        accepted, node = call(select_frames, frames, self.inputs.rules)
        rules = self.inputs.rules.get_dict()
        if not node.is_finished_ok:
            return self._not_selected(node, frames, rules)
        self.out("accepted", accepted)
        left = left_by(frames, rules)
        self.report(f"{len(accepted)} of {len(frames)} structures meet the rules{left}")
        return None

    def _score(self, label: str, frames: FramesData) -> Any:
        inputs = AttributeDict(self.exposed_inputs(ScoreCalculation, "score"))
        inputs.frames = frames
        inputs.metadata = {**inputs.metadata, "call_link_label": label}
        node = self.submit(ScoreCalculation, **inputs)
        self.report(f"scoring {len(frames)} structures in <{node.pk}>")
        return ToContext(**{label: node})

    def _inspect_score(self, label: str, frames: str, results: str) -> ExitCode | None:
        node = self.ctx[label]
        if "results" in node.outputs:
            self.out(results, node.outputs.results)
        if "frames" in node.outputs:
            self.ctx.select_from = node.outputs.frames
            self.out(frames, node.outputs.frames)
        if not node.is_finished_ok:
            self.report(f"the scoring <{node.pk}> ended with {verdict(node)}")
            return exit_with(self, "ERROR_SCORE_FAILED", pk=node.pk, message=verdict(node))
        return None

    def _not_selected(
        self, node: orm.CalcFunctionNode, frames: FramesData, rules: Mapping[str, Any]
    ) -> ExitCode:
        if node.exit_status == ERROR_EMPTY_SELECTION.status:
            self.report(f"none of {len(frames)} structures meets the rules{left_by(frames, rules)}")
            return exit_with(self, "WARNING_NOTHING_ACCEPTED", count=len(frames))
        self.report(f"the rules cannot be applied: {node.exit_message}")
        return exit_with(self, "ERROR_RULES_REFUSED", message=node.exit_message)

    def _fail(self, name: str, reason: str) -> None:
        self.report(f"the referee '{name}': {reason}; the others go on")
        self.ctx.failed[name] = f"the referee could not judge: {reason}"


#: Labels that bonds are perceived for, which crystals do not have.
_OF_MOLECULES = {*PERCEPTION, *POSEBUSTERS}


def rules_problem(
    rules: orm.Dict, labels: Mapping[str, str], settings: ScoreSettings
) -> str | None:
    """Say why rules cannot be applied to what had these labels and is scored so, or None."""
    names = rules.get_dict()
    try:
        check_names(names, {**labels, **SCORED})
    except RuleError as error:
        return f"`rules`: {error}"
    asked = asked_labels(names)
    for knob, without, needed, level in (
        ("chemistry", ("off",), PERCEPTION, "perceive"),
        ("chemistry", ("off", "auto", "perceive"), POSEBUSTERS, "posebusters"),
        ("smact", ("off",), SMACT, "on"),
    ):
        empty = ", ".join(sorted(asked & set(needed)))
        chosen = getattr(settings, knob)
        if empty and chosen in without:
            return (
                f"`rules`: {empty} says nothing with the setting '{knob}' of "
                f"'{chosen}'; set it to '{level}', or leave the rule out"
            )
    return None


def referees_and_rules_problem(
    inputs: Mapping[str, Any], frames: FramesData, labels: Mapping[str, str]
) -> str | None:
    """Say what the inputs of rm.validate lack, before anything runs, or None.

    Args:
        inputs: of rm.validate.
        frames: the structures, or others of their kind.
        labels: what the structures will have, and the kinds.

    Raises:
        EngineError: the settings of the scoring are refused.
    """
    referees = inputs.get("referees") or {}
    names = ", ".join(referees) or "none"
    if "adopt" in inputs and inputs["adopt"].value not in referees:
        return f"`adopt` is '{inputs['adopt'].value}', but the `referees` are: {names}"
    if problem := referees_problem(referees, frames):
        return problem
    if problem := hull_problem(referees, asked_labels(inputs["rules"].get_dict())):
        return problem
    asked = asked_labels(inputs["rules"].get_dict())
    if frames.pbc_kind == "crystal" and (empty := ", ".join(sorted(asked & _OF_MOLECULES))):
        return f"`rules`: {empty} says nothing of crystals, only of molecules; leave the rule out"
    labels = {**labels, **referee_labels(referees)}
    return rules_problem(inputs["rules"], labels, ScoreCalculation.settings_of(inputs["score"]))


def _check_together(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Find at submission what would else be found after the scoring."""
    frames = inputs.get("score", {}).get("frames")
    if not isinstance(frames, FramesData) or inputs.get("rules") is None:
        return None  # the ports say so
    try:
        return referees_and_rules_problem(inputs, frames, label_kinds(frames.get_frames()))
    except EngineError as error:
        return f"`score`: {error}"


def _check_max_judged(value: orm.Int, _: Any) -> str | None:
    if not 1 <= value.value <= MAX_STRUCTURES:
        return f"`max_judged` is {value.value}, must be between 1 and {MAX_STRUCTURES}"
    return None


def _check_rules(value: orm.Dict, _: Any) -> str | None:
    try:
        check_rules(value.get_dict())
    except RuleError as error:
        return f"`rules`: {error}"
    return None
