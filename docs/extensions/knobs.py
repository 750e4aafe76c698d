"""The directive ``knobs``: the table of a settings class, from the code."""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList

from aiida_rm.engine.imports import import_by_path
from aiida_rm.engine.knobs import describe


class Knobs(Directive):
    """``.. knobs:: module:Class`` lists name, default, range and meaning of each knob."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """A list-table, parsed as if it stood in the page."""
        path = self.arguments[0]
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 20 15 45", ""]
        lines += _row("knob", "default", "range", "meaning")
        for knob in describe(import_by_path("knobs", path)):
            unit = f" ({knob['unit']})" if knob["unit"] else ""
            meaning = knob["help"].replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*")
            lines += _row(
                f"``{knob['name']}``",
                f"``{_short(knob['default'])}``",
                _range(knob),
                f"{meaning}{unit}",
            )
        box = nodes.container()
        self.state.nested_parse(StringList(lines, path), 0, box)
        return box.children


def _row(*cells: str) -> list[str]:
    marks = ["   * -", *["     -"] * (len(cells) - 1)]
    return [f"{mark} {cell}" for mark, cell in zip(marks, cells, strict=True)]


def _short(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value or '""'
    return text if len(text) <= 60 else text[:57] + "..."


def _range(knob: dict[str, Any]) -> str:
    if knob["choices"]:
        return ", ".join(f"``{choice}``" for choice in knob["choices"])
    low, high = knob["low"], knob["high"]
    if low is None and high is None:
        return ""
    if high is None:
        return f"from {low:g}"
    return f"up to {high:g}" if low is None else f"{low:g} to {high:g}"


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("knobs", Knobs)
    return {"parallel_read_safe": True}
