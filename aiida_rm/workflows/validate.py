"""rm.validate: judge structures, then keep those that meet the rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessBuilder, ProcessSpec, ToContext, WorkChain

from aiida_rm.calculations.functions import ERROR_EMPTY_SELECTION, select_frames
from aiida_rm.calculations.score import ScoreCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import RuleError, check_names, check_rules, kinds_of
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.labels import PERCEPTION, POSEBUSTERS, SCORED, SMACT
from aiida_rm.engine.settings import ScoreSettings
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, verdict
from aiida_rm.workflows.protocols import ProtocolMixin, merge


class ValidateWorkChain(CleaningMixin, ProtocolMixin, WorkChain):
    """Score a set of structures and select the accepted ones by rules on the verdicts."""

    PROTOCOL_FILE = "validate"

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Inputs of the job under `score`; the judged and the accepted structures out."""
        super().define(spec)
        spec.expose_inputs(ScoreCalculation, namespace="score")
        spec.input(
            "rules",
            valid_type=orm.Dict,
            default=lambda: orm.Dict({"valid": True, "unique": True}),
            serializer=orm.to_aiida_type,
            validator=_check_rules,
            help="What an accepted structure must meet (aiida_rm.data.selection).",
        )
        spec.inputs.validator = _check_together
        spec.output("scored", valid_type=FramesData, required=False, help="All, with verdicts.")
        spec.output("accepted", valid_type=FramesData, required=False, help="Those that meet them.")
        spec.output("results", valid_type=orm.Dict, required=False, help="Summary of the scoring.")
        spec.outline(cls.run_score, cls.inspect_score, cls.select)
        spec.exit_code(
            316, "ERROR_SCORE_FAILED", message="The scoring <{pk}> ended with [{status}] {message}"
        )
        spec.exit_code(317, "ERROR_RULES_REFUSED", message="The rules cannot be applied: {message}")
        spec.exit_code(
            702,
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
            computer: where a code runs that belongs to no computer.
        """
        nodes = {"frames": frames, "references": references, "known": known}
        inputs = cls.get_protocol_inputs(protocol, overrides)
        return cls._build(code, merge(inputs, {"score": nodes}), options, computer)

    def run_score(self) -> Any:
        """Submit the scoring."""
        inputs = AttributeDict(self.exposed_inputs(ScoreCalculation, "score"))
        inputs.metadata = {**inputs.metadata, "call_link_label": "score"}
        node = self.submit(ScoreCalculation, **inputs)
        self.report(f"scoring {len(inputs.frames)} structures in <{node.pk}>")
        return ToContext(score=node)

    def inspect_score(self) -> ExitCode | None:
        """Keep the verdicts; without them there is nothing to select from."""
        node = self.ctx.score
        if "results" in node.outputs:
            self.out("results", node.outputs.results)
        if "frames" in node.outputs:
            self.out("scored", node.outputs.frames)
        if not node.is_finished_ok:
            self.report(f"the scoring <{node.pk}> ended with {verdict(node)}")
            return exit_with(
                self,
                "ERROR_SCORE_FAILED",
                pk=node.pk,
                status=node.exit_status,
                message=node.exit_message,
            )
        return None

    def select(self) -> ExitCode | None:
        """Take those that meet the rules."""
        scored = self.ctx.score.outputs.frames
        accepted, node = call(select_frames, scored, self.inputs.rules)
        if node.is_finished_ok:
            self.out("accepted", accepted)
            self.report(f"{len(accepted)} of {len(scored)} structures meet the rules")
            return None
        if node.exit_status == ERROR_EMPTY_SELECTION.status:
            self.report(f"none of {len(scored)} structures meets the rules")
            return exit_with(self, "WARNING_NOTHING_ACCEPTED", count=len(scored))
        self.report(f"the rules cannot be applied: {node.exit_message}")
        return exit_with(self, "ERROR_RULES_REFUSED", message=node.exit_message)


def rules_problem(
    rules: orm.Dict, labels: Mapping[str, str], settings: ScoreSettings
) -> str | None:
    """Say why rules cannot be applied to what had these labels and is scored so, or None."""
    names = rules.get_dict()
    try:
        check_names(names, {**labels, **SCORED})
    except RuleError as error:
        return f"`rules`: {error}"
    asked = {*names, str(names.get("sort", "")).removeprefix("-")}
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


def _check_together(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Find at submission what would else be found after the scoring."""
    frames, rules = inputs.get("score", {}).get("frames"), inputs.get("rules")
    if not isinstance(frames, FramesData) or rules is None:
        return None  # the ports say so
    try:
        settings = ScoreCalculation.settings_of(inputs["score"])
        return rules_problem(rules, kinds_of(frames.get_frames()), settings)
    except EngineError as error:
        return f"`score`: {error}"


def _check_rules(value: orm.Dict, _: Any) -> str | None:
    try:
        check_rules(value.get_dict())
    except RuleError as error:
        return f"`rules`: {error}"
    return None
