"""What `verdi plugin list` tells of every entry point: no input, output or exit code is mute."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, distribution
from typing import Any

import pytest
from aiida.cmdline.commands.cmd_plugin import plugin_list
from aiida.engine.processes.ports import PortNamespace
from aiida.plugins.entry_point import ENTRY_POINT_GROUP_TO_MODULE_PATH_MAP
from click.testing import CliRunner

from aiida_rm.cli.knobs import TASKS, rows_of
from aiida_rm.engine.settings import SETTINGS, describe

POINTS = [one for one in distribution("aiida-rm").entry_points if one.group != "console_scripts"]
PROCESSES = [one for one in POINTS if one.group in ("aiida.calculations", "aiida.workflows")]


def names(points: list[EntryPoint]) -> list[str]:
    return [f"{one.group} {one.name}" for one in points]


def process_of(point: EntryPoint) -> Any:
    loaded = point.load()
    return loaded if inspect.isclass(loaded) else loaded.process_class


def ports(space: PortNamespace, path: str = "") -> list[tuple[str, Any]]:
    """All ports below, but for AiiDA's own metadata."""
    found = []
    for name, port in space.items():
        if name == "metadata":
            continue
        found.append((f"{path}{name}", port))
        if isinstance(port, PortNamespace):
            found += ports(port, f"{path}{name}.")
    return found


def good(text: str | None) -> bool:
    """A sentence: begins large or with a `name`, ends with a stop, says more than one word."""
    words = " ".join((text or "").split())
    return len(words) > 12 and not words[0].islower() and words.endswith((".", "]"))


def test_all_groups_are_looked_at() -> None:
    assert len(POINTS) >= 37
    assert len(PROCESSES) == 16


@pytest.mark.parametrize("point", POINTS, ids=names(POINTS))
def test_it_says_what_it_is(point: EntryPoint) -> None:
    loaded = point.load()
    text = inspect.getdoc(loaded) or getattr(loaded, "help", None)
    assert good((text or "").split("\n\n")[0])


@pytest.mark.parametrize("point", PROCESSES, ids=names(PROCESSES))
def test_no_port_is_mute(point: EntryPoint) -> None:
    spec = process_of(point).spec()
    mute = [
        f"{path}: {port.help}"
        for path, port in (*ports(spec.inputs), *ports(spec.outputs))
        if not good(port.help)
    ]
    assert not mute
    codes = {code.status: code.message for code in spec.exit_codes.values()}
    # 150 and 160 are AiiDA's: the message is that of the monitor or the scheduler.
    assert {status for status, text in codes.items() if len(text or "") < 12} <= {150, 160}


@pytest.mark.parametrize("task", sorted(SETTINGS))
def test_settings_tell_their_units(task: str) -> None:
    point = next(one for one in PROCESSES if one.name == f"rm.{task}")
    text = process_of(point).spec().inputs["settings"].help
    assert task in TASKS  # `aiida-rm knobs TASK`, of which the help speaks
    for row in describe(SETTINGS[task]):
        name = f"`{row['name']}`"
        assert (f"{name} ({row['unit']})" if row["unit"] else name) in text


@pytest.mark.parametrize("task", TASKS)
def test_every_knob_has_its_help(task: str) -> None:
    assert all(len(row["help"]) > 8 for row in rows_of(task))


def test_verdi_prints_them() -> None:
    for group in sorted({one.group for one in POINTS}):
        if group not in ENTRY_POINT_GROUP_TO_MODULE_PATH_MAP:
            continue  # our own groups, which verdi does not know
        result = CliRunner().invoke(plugin_list, [group])
        for point in POINTS:
            if point.group == group:
                assert point.name in result.output
    for point in PROCESSES:
        result = CliRunner().invoke(plugin_list, [point.group, point.name])
        assert result.exit_code == 0, result.output
        assert "Exit codes:" in result.output
