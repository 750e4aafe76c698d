"""How a work chain is told which referees judge, and what it can say of them beforehand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.labels import COMMITTEE, GENERATED, SCORED, VERDICTS
from aiida_rm.referees.base import CONVERGED
from aiida_rm.workflows.candidates import SCORED_ROW
from aiida_rm.workflows.judge import LABEL, MAX_STRUCTURES, JudgeWorkChain
from aiida_rm.workflows.protocols import as_node, check_names, need

#: What an accepted structure must meet where nothing else is said.
RULES: Mapping[str, Any] = {"valid": True, "unique": True}
#: Inputs of rm.judge that the work chain gives itself.
_OWN = ("frames", "label", "max_structures", "metadata", "clean_workdir")


def with_referees(
    inputs: Mapping[str, Any], referees: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Any]:
    """Plain inputs of rm.validate with further referees, all as nodes.

    Where no rule is on the verdict of a referee, it must be `converged`.

    Args:
        inputs: plain inputs, with `rules` and perhaps `referees`.
        referees: by the name that their labels begin with; each the inputs of rm.judge: `code`,
            and `referee` (its own name without it), `settings`, `options` and so on.

    Raises:
        TypeError: what is given is no table of tables.
        ValueError: a referee has no code.
    """
    for table in (inputs.get("referees"), referees):
        need({} if table is None else table, Mapping, "referees")
    given = {**(inputs.get("referees") or {}), **(referees or {})}
    if not given:
        return dict(inputs)
    nodes: dict[str, dict[str, Any]] = {}
    rules = inputs.get("rules", RULES)
    rules = rules.get_dict() if isinstance(rules, orm.Dict) else rules
    need(rules, Mapping, "rules")
    rules = dict(rules)
    for name, parts in given.items():
        if not isinstance(name, str):
            raise TypeError(f"`referees`: a name must be text, is {name!r}")
        if not isinstance(parts, Mapping):
            raise TypeError(
                f"`referees.{name}` must be a table such as {{'code': code}}, is {parts!r}"
            )
        if parts.get("code") is None:
            raise ValueError(f"`referees.{name}` lacks a `code`: the program that it runs")
        nodes[name] = {part: as_node(value) for part, value in parts.items() if value is not None}
        rules.setdefault(f"{name}_verdict", CONVERGED)
    return {**inputs, "rules": rules, "referees": nodes}


def referee_labels(names: Iterable[str]) -> dict[str, str]:
    """The labels that referees of these names give, and their kinds."""
    return {f"{name}_{part}": kind for name in names for part, kind in VERDICTS.items()}


def judge_inputs(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of rm.judge, but for the structures."""
    return {"referee": orm.Str(name), **parts, "label": orm.Str(name)}


def referees_problem(referees: Mapping[str, Any], frames: FramesData) -> str | None:
    """Say what rm.judge would refuse, before anything runs, or None.

    Args:
        referees: the input of a work chain: nodes by the name of a part, by name.
        frames: structures of the kind that they will judge.
    """
    ports = JudgeWorkChain.spec().inputs
    few = frames
    if len(frames) > MAX_STRUCTURES:
        few = FramesData(frames.get_frames().select(range(MAX_STRUCTURES)))
    for name, parts in referees.items():
        where = f"referees.{name}"
        if problem := _naming_problem(name, parts):
            return f"`{where}`: {problem}"
        try:
            check_names(ports, parts, where)
        except ValueError as error:
            return str(error)
        inputs = {
            **judge_inputs(name, parts),
            "frames": few,
            "max_structures": orm.Int(max(len(few), 1)),
        }
        refused = ports.validate(ports.pre_process(inputs))
        if refused is not None:
            return f"`{where}`: {refused.message}"
    return None


def hull_problem(referees: Mapping[str, Any], asked: Collection[str]) -> str | None:
    """Say which rule is on an energy above a hull that nothing spans, or None."""
    for name, parts in referees.items():
        if f"{name}_above_hull" in asked and "references" not in parts:
            return (
                f"`rules`: {name}_above_hull needs phases to measure against; give `references` "
                f"of `referees.{name}`, or leave the rule out"
            )
    return None


def _naming_problem(name: str, parts: Any) -> str | None:
    # AiiDA parts the names of nested inputs at two underscores.
    if not LABEL.match(name) or "__" in f"{name}_":
        return "a name is a letter, then letters, digits and single _, none at the end"
    taken = ("min_", "max_", SCORED_ROW, *GENERATED, *COMMITTEE, *SCORED)
    if any(label.startswith(f"{name}_") for label in taken):
        return f"other labels and rules begin with '{name}_'; take another name"
    if not isinstance(parts, Mapping):
        return f"it must be a table with a `code`, is a {type(parts).__name__}"
    own = ", ".join(part for part in parts if part in _OWN)
    return f"{own} is given by the work chain; leave it out" if own else None
