"""What a knob is: a field of a settings class with range and meaning, and how values are read."""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, TypeVar

from aiida_rm.engine.errors import brief

#: What YAML makes of on and off without quotes.
_SWITCH = {True: "on", False: "off"}

T = TypeVar("T")


def knob(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A field of a settings class; ``low`` and ``high`` are inclusive and hold for each item."""
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "choices": choices}
    if isinstance(default, dict):  # a table of names and values that the knob's user knows
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def to_plain(settings: Any) -> dict[str, Any]:
    """The inverse of :func:`parse_settings`: dicts, lists and scalars alone."""
    plain = dataclasses.asdict(settings)
    return {name: _listed(value) for name, value in plain.items()}


def describe(cls: type) -> list[dict[str, Any]]:
    """One row a knob (name, type, default, unit, range, help), for docs and command line."""
    hints = typing.get_type_hints(cls)
    return [
        {
            "name": item.name,
            "type": hints[item.name],
            "default": item.default
            if item.default_factory is dataclasses.MISSING
            else item.default_factory(),
            **item.metadata,
        }
        for item in dataclasses.fields(cls)
    ]


def parse(cls: type[T], values: Any, where: str, problems: list[str]) -> T | None:
    """Settings of plain values, or None after the problems are added to ``problems``.

    Args:
        cls: a dataclass of knobs.
        values: names and values.
        where: what stands before a name in the messages.
        problems: every unknown name, wrong type and value out of range.
    """
    if not isinstance(values, Mapping):
        problems.append(f"'{where or 'settings'}' must be a table of names and values")
        return None
    known = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    found: dict[str, Any] = {}
    before = len(problems)
    for name, value in values.items():
        label = f"{where}{name}"[:100]
        if name not in known:
            problems.append(f"'{label}' is no setting of this task{_hint(str(name), known, hints)}")
            continue
        found[name] = _value(hints[name], value, label, known[name].metadata, problems)
    return cls(**found) if len(problems) == before else None


def _hint(name: str, known: Mapping[str, Any], hints: Mapping[str, Any]) -> str:
    """What was meant: a knob of the tables in a list, one that is spelt alike, or any."""
    for place, kind in hints.items():
        for inner in typing.get_args(kind):
            if dataclasses.is_dataclass(inner) and name in {
                item.name for item in dataclasses.fields(inner)
            }:
                return f"; it is one of each of '{place}': give it in a table of that list"
    close = difflib.get_close_matches(name, known, n=1)
    return f", did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"


def _value(
    kind: Any, value: Any, label: str, metadata: Mapping[str, Any], problems: list[str]
) -> Any:
    if typing.get_origin(kind) is tuple:
        item_kind = typing.get_args(kind)[0]
        if not isinstance(value, list | tuple):
            problems.append(f"'{label}' must be a list, is {brief(value)}")
            return value
        return tuple(
            _value(item_kind, item, f"{label}[{index}]", metadata, problems)
            for index, item in enumerate(value)
        )
    kind = typing.get_origin(kind) or kind  # a table is not looked into
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return parse(kind, value, f"{label}.", problems)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 10**300 else math.inf
    if isinstance(value, bool) and _SWITCH[value] in (metadata["choices"] or ()):
        value = _SWITCH[value]
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        read = kind is str and isinstance(value, bool)
        hint = "; YAML reads yes, no, on and off as true or false: put it in quotes" if read else ""
        problems.append(f"'{label}' must be of type {kind.__name__}, is {brief(value)}{hint}")
        return value
    if kind is float and not math.isfinite(value):
        problems.append(f"'{label}' must be finite, is {value}")
        return value
    if kind is int and not -(2**63) <= value < 2**63:
        problems.append(f"'{label}' must fit into 64 bits")
    low, high, choices = metadata["low"], metadata["high"], metadata["choices"]
    unit = f" {metadata['unit']}" if metadata["unit"] else ""
    if low is not None and value < low:
        problems.append(f"'{label}' is {value}, must be at least {low:g}{unit}")
    if high is not None and value > high:
        problems.append(f"'{label}' is {value}, must be at most {high:g}{unit}")
    if choices and value not in choices:
        problems.append(f"'{label}' is {brief(value)}, must be one of {', '.join(choices)}")
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    if isinstance(value, dict):
        return {name: _listed(item) for name, item in value.items()}
    return value
