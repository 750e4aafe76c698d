"""Choosing structures by rules on their labels.

A rule is a name and a value in a table, and a structure must meet them all:

- ``{"valid": true}``, ``{"spacegroup": 227}``, ``{"match": "diamond"}``: the label equals it;
- ``{"match": ["diamond", "graphite"]}``: the label is one of the list;
- ``{"min_energy_per_atom": 0.0, "max_fmax": 1e-3}``: a number at least or at most so large (NaN
  never is). A label that itself begins with ``min_`` or ``max_``, such as ``min_distance``, is
  compared by ``min_min_distance``;
- ``{"sort": "energy_per_atom"}``: in this order (``"-energy_per_atom"``: largest first), NaN last;
- ``{"limit_per_composition": 5}``: of what is left, the first five of each composition; crystals of
  the same reduced formula have the same one;
- ``{"limit": 10}``: the first ten of what is left.

Besides the labels of the frames there are ``n_atoms``, ``formula`` (written in any order) and
``volume_per_atom``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import hill_formula, parse_formula
from aiida_rm.engine.formulas import element_table
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import COMMITTEE, LATENT

Array = NDArray[Any]

#: What every set of structures can be asked for, unless a label has that name.
_DERIVED: dict[str, Callable[[Frames], Array]] = {
    "n_atoms": lambda frames: np.asarray(frames.counts),
    "formula": lambda frames: np.array(frames.formulas(), dtype=str),
    "volume_per_atom": lambda frames: np.asarray(frames.volumes / frames.counts),
}
_DERIVED_KINDS = {"n_atoms": "i", "formula": "U", "volume_per_atom": "f"}
_LIMITS = ("limit", "limit_per_composition")
_ORDER = ("sort", *_LIMITS)


class RuleError(ValueError):
    """A rule is unknown or cannot be applied; the message names it and what is known."""


def select_indices(frames: Frames, rules: Mapping[str, Any]) -> NDArray[np.int64]:
    """Indices of the structures that meet all rules, in the order that the rules ask for.

    Args:
        frames: the structures with their labels.
        rules: see the head of this module.

    Returns:
        (N,) indices; none when nothing meets the rules.

    Raises:
        RuleError: a name is unknown, or a value does not fit the label.
    """
    check_rules(rules)
    check_names(rules, label_kinds(frames))
    mask = np.ones(len(frames), bool)
    for name, value in rules.items():
        if name not in _ORDER:
            mask &= _meets(frames, name, value)
    chosen = np.flatnonzero(mask).astype(np.int64)
    if "sort" in rules:
        chosen = chosen[_order(frames, rules["sort"], chosen)]
    if "limit_per_composition" in rules:
        places = _places(frames, chosen)
        chosen = chosen[places < rules["limit_per_composition"]]
    return chosen[: rules.get("limit", len(chosen))]


def spread(frames: Frames, chosen: NDArray[np.int64]) -> NDArray[np.int64]:
    """The chosen, in another order: the first of each composition, the second ones, and so on."""
    return chosen[np.argsort(_places(frames, chosen), kind="stable")]


def funnel(frames: Frames, rules: Mapping[str, Any]) -> str:
    """How many structures each rule leaves of what those before it left, without the limits.

    Such as ``valid: 18, unique: 12, max_fmax=0.001: 5, not novel: 1``.
    """
    mask, told = np.ones(len(frames), bool), []
    for name, value in rules.items():
        if name in _ORDER:
            continue
        mask &= _meets(frames, name, value)
        words = f"{'' if value else 'not '}{name}" if type(value) is bool else f"{name}={value}"
        told.append(f"{words}: {np.count_nonzero(mask)}")
    return ", ".join(told)


def check_rules(rules: Mapping[str, Any]) -> None:
    """Refuse what is wrong whatever the labels are; of use before anything runs.

    Raises:
        RuleError: a value of the wrong type, an empty list, a limit below 1.
    """
    if not isinstance(rules, Mapping):
        raise RuleError("the rules must be a table of names and values")
    for name, value in rules.items():
        if name in _LIMITS:
            if type(value) is not int or value < 1:
                raise RuleError(f"'{name}' must be a whole number from 1, is {value!r}")
        elif name == "sort":
            if not isinstance(value, str) or not value.strip("-"):
                raise RuleError(f"'sort' must be the name of a label, is {value!r}")
        elif isinstance(value, list | tuple):
            if not value:
                raise RuleError(f"'{name}' is an empty list, which nothing can meet; remove it")
        elif not isinstance(value, bool | int | float | str):
            raise RuleError(f"'{name}' must be true, false, a number, text or a list: {value!r}")


def label_kinds(frames: Frames) -> dict[str, str]:
    """The labels with one value a structure and the kind of that value, as numpy has it."""
    labels = frames.structure.items()
    return {name: values.dtype.kind for name, values in labels if values.ndim == 1}


def text_labels(frames: Frames) -> list[str]:
    """The labels that are text, `formula` among them."""
    return [name for name, kind in {**_DERIVED_KINDS, **label_kinds(frames)}.items() if kind == "U"]


def asked_labels(rules: Mapping[str, Any]) -> set[str]:
    """Names in the rules, as they are and without a bound, and that of the order."""
    order = str(rules.get("sort", "")).removeprefix("-")
    bare = {name.partition("_")[2] for name in rules if name.startswith(("min_", "max_"))}
    return {*rules, *bare, order}


def check_names(rules: Mapping[str, Any], labels: Mapping[str, str]) -> None:
    """Refuse rules that cannot be applied to structures with these labels.

    Args:
        rules: see the head of this module.
        labels: what :func:`label_kinds` says of the structures, or will say.

    Raises:
        RuleError: a name is unknown, or a value does not fit the label.
    """
    kinds = {**_DERIVED_KINDS, **labels}
    for name, value in rules.items():
        if name in _LIMITS:
            continue
        if name == "sort":
            key = value.removeprefix("-")
            if key not in kinds:
                raise RuleError(_unknown(kinds, f"sort: {key}"))
        elif name in kinds:
            for item in _items(value):
                _check_type(name, kinds[name], item)
                if name == "formula" and name not in labels:
                    _hill(item)
        else:
            bound, _, label = name.partition("_")
            if bound not in ("min", "max") or label not in kinds:
                raise RuleError(_unknown(kinds, name))
            if kinds[label] not in "iuf" or type(value) not in (int, float):
                raise RuleError(f"'{name}' compares numbers, but is {value!r}")


def _meets(frames: Frames, name: str, value: Any) -> NDArray[np.bool_]:
    if name in {*frames.structure, *_DERIVED}:
        items = _items(value)
        if name == "formula" and name not in frames.structure:
            items = [_hill(item) for item in items]
        return np.isin(_values(frames, name), np.array(items))
    bound, _, label = name.partition("_")
    values = _values(frames, label)
    return np.asarray(values >= value if bound == "min" else values <= value)


def _items(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _hill(formula: str) -> str:
    """A formula in the order that structures tell theirs."""
    try:
        return hill_formula(parse_formula(formula))
    except ValueError as error:
        raise RuleError(f"'formula': {error}") from None


def _order(frames: Frames, key: str, chosen: Array) -> Array:
    values = _values(frames, key.removeprefix("-"))[chosen]
    _, ranks = np.unique(values, return_inverse=True, equal_nan=True)
    ranks = np.asarray(ranks).reshape(-1)
    if key.startswith("-"):
        ranks = -ranks
    if values.dtype.kind == "f":
        ranks = np.where(np.isnan(values), len(values) + 1, ranks)
    return np.argsort(ranks, kind="stable")


def _places(frames: Frames, chosen: Array) -> NDArray[np.int64]:
    """(len(chosen),) which of its composition each is, in their order: 0 for the first."""
    part = frames.select(chosen)
    table = element_table(part)[1]
    crystals = part.pbc.any(axis=1)
    table[crystals] //= np.gcd.reduce(table[crystals], axis=1, keepdims=True)
    # A molecule is no crystal of its formula.
    rows = np.column_stack([table, crystals])
    which = np.unique(rows, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(which, kind="stable")
    places = np.empty(len(which), np.int64)
    groups = which[order]
    places[order] = np.arange(len(which)) - np.searchsorted(groups, groups)
    return places


def _values(frames: Frames, name: str) -> Array:
    if name in frames.structure:
        return np.asarray(frames.structure[name])
    return _DERIVED[name](frames)


def _check_type(name: str, kind: str, item: Any) -> None:
    wanted: tuple[str, tuple[type, ...]]
    if kind == "b":
        wanted = ("true or false", (bool,))
    elif kind == "U":
        wanted = ("text", (str,))
    else:
        wanted = ("a number", (int, float))
    if type(item) not in wanted[1]:
        raise RuleError(f"'{name}' must be {wanted[0]}, is {item!r}")


def _unknown(kinds: Mapping[str, str], name: str) -> str:
    known = ", ".join(sorted(kinds))
    label = name.removeprefix("sort: ").removeprefix("min_").removeprefix("max_")
    if label in LATENT:
        return (
            f"'{name}' needs a potential that remembers its training set: a hundred structures or "
            "more, and `environments` of rm.train above 0; or leave the rule out"
        )
    if label in COMMITTEE:
        return (
            f"'{name}' needs structures that a committee has judged; set `committee_size` of "
            "rm.loop, give `committee` to rm.generate, or leave the rule out"
        )
    rules = [part for kind in kinds for part in (kind, f"min_{kind}", f"max_{kind}")]
    close = difflib.get_close_matches(name, [*rules, "sort", "limit", "limit_per_composition"], n=1)
    hint = f", did you mean '{close[0]}'?" if close else ""
    return (
        f"'{name}' is no rule for these structures{hint}; known are {known}, the same with min_ or "
        "max_ before a number, sort, limit and limit_per_composition"
    )
