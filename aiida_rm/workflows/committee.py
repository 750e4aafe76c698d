"""The potentials that a loop trains beside its own, to see where all of them disagree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.engine import ProcessSpec

from aiida_rm.calculations.functions import settings_of_member
from aiida_rm.data.potential import PotentialData
from aiida_rm.workflows.common import call, verdict
from aiida_rm.workflows.train import TrainWorkChain

MAX_MEMBERS = 20


def define_committee(spec: ProcessSpec) -> None:
    """Add the inputs and outputs."""
    spec.input(
        "committee_size",
        valid_type=orm.Int,
        default=lambda: orm.Int(0),
        serializer=orm.to_aiida_type,
        validator=check_committee_size,
        help="So many further potentials are trained each round, with seeds of their own; they "
        "judge together what is generated (docs/generation.md).",
    )
    spec.input_namespace(
        "committee",
        dynamic=True,
        required=False,
        valid_type=PotentialData,
        help="Potentials that the trainings of the committee begin with: `member_01`...",
    )
    spec.output_namespace(
        "committee",
        dynamic=True,
        valid_type=PotentialData,
        help="Potentials of the last training: `member_01` and so on.",
    )


class CommitteeMixin:
    """For a work chain with the inputs and outputs of :func:`define_committee`.

    It says what a training gets (``_training_inputs(potential)``) and the key of its round.
    """

    ctx: Any
    inputs: Any
    report: Any
    submit: Any
    _key: Any
    _training_inputs: Any

    def _launch_members(self, settings: orm.Dict) -> dict[str, Any]:
        """Submit their trainings, each with a seed of its own; one that is refused is none."""
        launched = {}
        for number, name in enumerate(member_names(self.inputs.committee_size.value), 1):
            self.ctx.pop(name, None)
            inputs = self._training_inputs(self.ctx.committee.get(name))
            made, node = call(settings_of_member, settings, orm.Int(number))
            if not node.is_finished_ok:
                self.report(f"{name}: {node.exit_message}")
                continue
            inputs.train.settings = made
            inputs.metadata = {"call_link_label": f"{self._key}_train_{name}"}
            try:
                launched[name] = self.submit(TrainWorkChain, **inputs)
            except ValueError as error:
                self.report(f"{name}: its inputs were refused: {error}")
        return launched

    def _trained_members(self) -> dict[str, PotentialData]:
        """Those that came to their end; the others are reported."""
        trained = {}
        for name in member_names(self.inputs.committee_size.value):
            node = self.ctx.get(name)
            if node is None:
                continue  # reported when it was refused
            if node.is_finished_ok:
                trained[name] = node.outputs.potential
            else:
                self.report(f"{name} <{node.pk}> ended with {verdict(node)}; the others judge")
        return trained


def check_committee_size(value: orm.Int, _: Any) -> str | None:
    """Validator of `committee_size`."""
    if not 0 <= value.value <= MAX_MEMBERS:
        return f"`committee_size` is {value.value}, must be between 0 and {MAX_MEMBERS}"
    return None


def member_names(size: int) -> list[str]:
    """Names of so many members of a committee."""
    return [f"member_{number:02d}" for number in range(1, size + 1)]


def strange_members(inputs: Mapping[str, Any]) -> str | None:
    """Say which potential is given to a member that there is not, or None."""
    names = member_names(inputs["committee_size"].value)
    strange = [name for name in inputs.get("committee") or {} if name not in names]
    if not strange:
        return None
    known = ", ".join(names) or "none"
    return f"`committee.{strange[0]}` is no member; with this `committee_size` there are: {known}"
