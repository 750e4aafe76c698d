"""What an earlier loop left, whether it ended well or not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.workflows.validate import NOTHING_ACCEPTED


def continued_inputs(loop: orm.WorkChainNode, rounds: int | None) -> dict[str, Any]:
    """Inputs of a loop that goes on where another one ended.

    Args:
        loop: the node of the earlier loop.
        rounds: how many to go; None: those that it had left.

    Raises:
        ValueError: it runs, or it has no rounds left.
    """
    if not loop.is_terminated:
        raise ValueError(f"<{loop.pk}> has not ended yet; wait, or kill it first")
    left = rest_of(loop)
    if rounds is None and not left.rounds:
        raise ValueError(f"<{loop.pk}> went all its rounds; say how many `rounds` to add")
    inputs = inputs_of(loop)
    _add_computers(inputs, _Computers(loop))
    inputs["dataset"], inputs["first_round"] = left.dataset, left.first_round
    inputs["rounds"] = rounds if rounds is not None else left.rounds
    inputs["earlier"] = {**inputs.get("earlier", {}), **left.rows}
    if left.potential is not None:
        warm = bool(loop.inputs.warm_start)
        inputs["train"]["train"]["potential"] = left.potential if warm else None
        inputs["committee"] = left.committee if warm else None
    return inputs


@dataclass(frozen=True)
class Rest:
    """Where another loop goes on.

    Attributes:
        dataset: with what the whole rounds accepted.
        potential: of the last whole round; None before there was one.
        committee: those that were trained beside it, by name.
        first_round: the number of the next round.
        rounds: so many the loop had left.
        rows: of its whole rounds, as they stand in its table.
    """

    dataset: FramesData
    potential: PotentialData | None
    committee: dict[str, PotentialData]
    first_round: int
    rounds: int
    rows: dict[str, orm.Dict]


def rest_of(loop: orm.WorkChainNode) -> Rest:
    """Walk through the stages that a loop called; its outputs are not there if it was killed."""
    links = loop.base.links.get_outgoing(link_type=(LinkType.CALL_WORK, LinkType.CALL_CALC)).all()
    stages = {link.link_label: link.node for link in links}
    merged = [link.node for link in links if link.node.process_label == "merge_frames"]
    described = [link.node for link in links if link.node.process_label == "describe_round"]
    first = loop.inputs.first_round.value
    number, dataset, potential = first, loop.inputs.dataset, None
    committee: dict[str, PotentialData] = {}
    while _ended(stages.get(f"round_{number:02d}_validate")):
        key = f"round_{number:02d}"
        accepts = "accepted" in stages[f"{key}_validate"].outputs
        joined = [
            node for node in merged if {"dataset", key} <= {*node.inputs} and node.is_finished_ok
        ]
        if accepts and not joined:
            break  # it was stopped between the two
        if joined:
            dataset = joined[0].outputs.result
        potential = stages[f"{key}_train"].outputs.potential
        beside = f"{key}_train_"
        committee = {
            label.removeprefix(beside): node.outputs.potential
            for label, node in stages.items()
            if label.startswith(beside) and node.is_finished_ok
        }
        number += 1
    rows = {
        f"round_{node.inputs.number.value:02d}": node.outputs.result
        for node in described
        if node.is_finished_ok and node.inputs.number.value < number
    }
    left = first + loop.inputs.rounds.value - number
    return Rest(dataset, potential, committee, number, left, rows)


def inputs_of(node: orm.WorkChainNode) -> dict[str, Any]:
    """All inputs of a work chain, nested.

    Of ``get_builder_restart`` AiiDA 2.9 makes no builder where a job had no options of its own.
    """
    inputs = dict(node.base.links.get_incoming(link_type=LinkType.INPUT_WORK).nested())
    node.recursive_merge(inputs, node.get_metadata_inputs() or {})
    return inputs


class _Computers:
    """Where the jobs of a loop ran, which its inputs do not say."""

    def __init__(self, loop: orm.WorkChainNode) -> None:
        jobs = [node for node in loop.called_descendants if isinstance(node, orm.CalcJobNode)]
        self.by_task = {(job.process_type or "").rpartition(".")[2]: job.computer for job in jobs}
        self.by_code = {job.inputs.code.uuid: job.computer for job in jobs if "code" in job.inputs}

    def of(self, task: str, code: orm.AbstractCode) -> orm.Computer | None:
        """Of the jobs of a task, or of others by the same code."""
        return self.by_task.get(task) or self.by_code.get(code.uuid)


def _add_computers(inputs: dict[str, Any], computers: _Computers) -> None:
    """Say of each job whose code belongs to no computer where it ran."""
    for name, value in inputs.items():
        if not isinstance(value, dict) or name == "referees":
            continue
        code = value.get("code")
        if code is not None and code.computer is None and (where := computers.of(name, code)):
            value.setdefault("metadata", {})["computer"] = where
        _add_computers(value, computers)


def _ended(validation: Any) -> bool:
    """Whether a round came to its end; accepting nothing is one."""
    return validation is not None and validation.exit_status in (0, NOTHING_ACCEPTED)
