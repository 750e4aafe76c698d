"""``aiida-rm knobs``: every setting of a task, with default, unit, range and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from aiida_rm.cli.command import Command
from aiida_rm.cli.output import JSON, print_json

TASKS = (
    "perturb",
    "train",
    "generate",
    "score",
    "relax",
    "doctor",
    "xtb",
    "pw",
    "shell",
    "stage",
    "stop",
)


@click.command("knobs", cls=Command, needs_profile=False)
@click.argument("task", type=click.Choice(TASKS))
@JSON
def knobs(task: str, as_json: bool) -> None:
    """List the settings of TASK, with default, unit, range and meaning.

    `xtb`, `pw` and `shell` are referees; the knobs of the referee `ase` are those of relax.
    `stage` is one entry of the setting `stages` of generate, `stop` the input of a loop.
    """
    rows = rows_of(task)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        about = [f"default {_shown(row['default'])}"]
        about += [row["unit"]] if row["unit"] else []
        about += [row["range"]] if row["range"] else []
        click.echo(f"{click.style(row['name'], bold=True)}  ({', '.join(about)})")
        click.echo(click.wrap_text(row["help"], 96, "    ", "    "))


def rows_of(task: str) -> list[dict[str, Any]]:
    """``name``, ``default``, ``unit``, ``range`` and ``help`` of every setting."""
    from aiida_rm.engine.referee_settings import PwSettings, ShellSettings, XtbSettings
    from aiida_rm.engine.settings import SETTINGS, Stage, describe
    from aiida_rm.workflows.rounds import StopSettings

    table: dict[str, type] = {
        **SETTINGS,
        "xtb": XtbSettings,
        "pw": PwSettings,
        "shell": ShellSettings,
        "stage": Stage,
        "stop": StopSettings,
    }
    return [
        {
            "name": row["name"],
            "default": _plain(row["default"]),
            "unit": row.get("unit") or "",
            "range": _range(row),
            "help": row["help"],
        }
        for row in describe(table[task])
    ]


def _range(row: Mapping[str, Any]) -> str:
    if row.get("choices"):
        return "one of " + ", ".join(str(choice) for choice in row["choices"])
    low, high = row.get("low"), row.get("high")
    if low is not None and high is not None:
        return f"{low:g} to {high:g}"
    if low is not None:
        return f"from {low:g}"
    return f"up to {high:g}" if high is not None else ""


def _plain(value: Any) -> Any:
    from aiida_rm.engine.settings import to_plain

    if hasattr(value, "__dataclass_fields__"):
        return to_plain(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if value in ("", []):
        return "none"
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        return "its own defaults"
    if isinstance(value, list):
        return f"[{', '.join(str(item) for item in value)}]"
    return str(value)
