"""What there is to tell of a run: gathered once from its nodes, for pages and pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames

_LOOP = "aiida.workflows:rm.loop"
_CALLS = (LinkType.CALL_CALC, LinkType.CALL_WORK)
_OURS = ("aiida.workflows:rm.", "aiida.calculations:rm.")
#: Link labels of the stages of a loop.
_STAGE = re.compile(r"(round_\d+)_(?:train|generate|validate)")


@dataclass(frozen=True)
class Round:
    """One round of a loop, or the only one of another process.

    Attributes:
        name: such as ``round 1``; empty when there are no rounds.
        curves: learning curves, one value an epoch, by quantity.
        validation: held-out structures with targets and predictions.
        found: the structures that were generated, with all that is known of them.
        judged: those of them that referees got.
        accepted: rows of ``found`` or of ``judged`` that were accepted, by those nodes' sizes.
        row: of the loop's table.
    """

    name: str
    curves: Mapping[str, Any] = field(default_factory=dict)
    validation: Frames | None = None
    found: FramesData | None = None
    judged: FramesData | None = None
    accepted: FramesData | None = None
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A process and what it did.

    Attributes:
        node: the process.
        dataset: the structures that it began with.
        rounds: in order, at least one.
        jobs: all its jobs, oldest first.
    """

    node: orm.ProcessNode
    dataset: FramesData | None
    rounds: tuple[Round, ...]
    jobs: tuple[orm.CalcJobNode, ...]


def read_run(node: orm.Node) -> Run:
    """Gather what there is to tell of a process of ours, or of the one that made a node.

    Args:
        node: a process (running, failed or finished), or an output of one.

    Raises:
        ValueError: no process of this plugin stands behind it.
    """
    process = _process_of(node)
    is_loop = process.process_type == _LOOP
    rounds = _rounds_of_loop(process) if is_loop else (_only_round(process),)
    return Run(process, _dataset(process), rounds, tuple(_jobs(process)))


def _jobs(process: Any) -> list[orm.CalcJobNode]:
    """Our jobs among a process and all that it called, oldest first; a query a level."""
    jobs: list[Any] = [process] if isinstance(process, orm.CalcJobNode) else []
    level = [process.pk]
    while level:
        query = orm.QueryBuilder()
        query.append(orm.Node, filters={"id": {"in": level}}, tag="caller")
        query.append(
            orm.ProcessNode,
            with_incoming="caller",
            edge_filters={"type": {"in": [link.value for link in _CALLS]}},
            filters={"or": [{"process_type": {"like": f"{ours}%"}} for ours in _OURS]},
        )
        called = query.all(flat=True)
        jobs += [node for node in called if isinstance(node, orm.CalcJobNode)]
        level = [node.pk for node in called if isinstance(node, orm.WorkChainNode)]
    return sorted(jobs, key=lambda job: job.ctime)


def _process_of(node: orm.Node) -> Any:
    process = node
    if not isinstance(node, orm.ProcessNode):
        process = node.creator
        while process is not None and process.caller is not None:
            process = process.caller
        if process is None:
            raise ValueError(
                f"<{node.pk}>, {type(node).__name__}, was made by no process; give the PK of a "
                "process of aiida-rm"
            )
    if not (process.process_type or "").startswith(_OURS):
        raise ValueError(
            f"<{process.pk}> is a {process.process_label}, which aiida-rm knows nothing of; give "
            "the PK of a process such as rm.loop (`verdi process list -a`)"
        )
    return process


def _rounds_of_loop(loop: orm.WorkChainNode) -> tuple[Round, ...]:
    called = {
        link.link_label: link.node
        for link in loop.base.links.get_outgoing(link_type=(LinkType.CALL_WORK,)).all()
    }
    table = loop.outputs.rounds.get_dict()["rounds"] if "rounds" in loop.outputs else []
    rows = {int(row["round"]): row for row in table}
    # Not those of a committee, such as round_01_train_member_01.
    stages = [_STAGE.fullmatch(label) for label in called]
    keys = sorted({stage.group(1) for stage in stages if stage})
    return tuple(
        _round(
            f"round {int(key.removeprefix('round_'))}",
            called.get(f"{key}_train"),
            called.get(f"{key}_generate"),
            called.get(f"{key}_validate"),
            rows.get(int(key.removeprefix("round_")), {}),
        )
        for key in keys
    ) or (Round(""),)


def _only_round(process: Any) -> Round:
    kind = (process.process_type or "").rpartition(".")[2]
    stages = {"train": None, "generate": None, "validate": None}
    kind = {"score": "validate"}.get(kind, kind)
    return _round("", **{**stages, **({kind: process} if kind in stages else {})}, row={})


def _round(name: str, train: Any, generate: Any, validate: Any, row: Mapping[str, Any]) -> Round:
    curves, validation, found, judged = {}, None, None, None
    if train is not None:
        if "learning_curves" in train.outputs:
            curves = dict(train.outputs.learning_curves.get_iterarrays())
        if "validation" in train.outputs:
            validation = train.outputs.validation.get_frames()
    if generate is not None and "frames" in generate.outputs:
        found = generate.outputs.frames
    accepted = None
    if validate is not None:
        out = validate.outputs
        found = out.scored if "scored" in out else out.frames if "frames" in out else found
        judged = out.judged if "judged" in out else None
        accepted = out.accepted if "accepted" in out else None
    return Round(name, curves, validation, found, judged, accepted, row)


def _dataset(process: Any) -> FramesData | None:
    """The first set of structures among the inputs, by the names that our processes use."""
    inputs = process.base.links.get_incoming(
        link_type=(LinkType.INPUT_CALC, LinkType.INPUT_WORK)
    ).all()
    sets = {one.link_label: one.node for one in inputs if isinstance(one.node, FramesData)}
    for name in ("dataset", "train__frames", "frames", "score__references", "references"):
        if name in sets:
            return sets[name]
    return None
