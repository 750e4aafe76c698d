"""``aiida-rm compare``: loops side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from aiida.cmdline.params import types
from aiida.cmdline.utils import decorators

from aiida_rm.cli.command import Command
from aiida_rm.cli.output import JSON, print_json, print_table

#: Of the table of a loop, what is added up, or is the last one's.
_SUMS = ("generated", "converged", "valid", "unique", "novel", "accepted")
_SECONDS = ("seconds_training", "seconds_generating")


@click.command("compare", cls=Command)
@click.argument("loops", nargs=-1, required=True, type=types.WorkflowParamType())
@click.option("--rounds", "each", is_flag=True, help="Also every round.")
@JSON
@decorators.with_dbenv()
def compare(loops: tuple[Any, ...], each: bool, as_json: bool) -> None:
    """Put two or more LOOPS side by side: which settings differ, and what came of each."""
    if len({node.pk for node in loops}) < 2:
        raise ValueError("give two loops at least, by PK; `verdi process list -a` has them")
    inputs = {node.pk: flat_inputs(node) for node in loops}
    rows = {node.pk: _rounds(node) for node in loops}
    differing = differences(inputs)
    results = {node.pk: _total(node, rows[node.pk]) for node in loops}
    if as_json:
        print_json({"settings": differing, "results": results, "rounds": rows})
        return
    headers = {"name": "", **{node.pk: f"<{node.pk}> {node.label}".strip() for node in loops}}
    click.echo("Settings that differ")
    _show(differing, headers)
    names = list(dict.fromkeys(name for table in results.values() for name in table))
    click.echo("\nWhat came of them")
    _show({name: {pk: results[pk].get(name) for pk in results} for name in names}, headers)
    if not each:
        return
    for number in sorted({row["round"] for table in rows.values() for row in table}):
        found = {pk: {row["round"]: row for row in rows[pk]}.get(number, {}) for pk in rows}
        names = list(dict.fromkeys(name for row in found.values() for name in row))
        click.echo(f"\nRound {number}")
        _show({name: {pk: found[pk].get(name) for pk in found} for name in names[1:]}, headers)


def flat_inputs(loop: Any) -> dict[str, Any]:
    """All inputs of a loop by their path, settings with their defaults, nodes by what they are.

    Raises:
        ValueError: the node is no loop.
    """
    from aiida_rm.cli.plan import plan_of_inputs
    from aiida_rm.workflows.continuing import inputs_of

    if not str(loop.process_type).endswith(":rm.loop"):
        raise ValueError(f"<{loop.pk}> is a {loop.process_label}, no loop")
    return _flat(plan_of_inputs(inputs_of(loop)))


def differences(inputs: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[int, Any]]:
    """The inputs that are not the same in all loops: path, then value by PK."""
    names = dict.fromkeys(name for table in inputs.values() for name in table)
    found = {}
    for name in names:
        values = {pk: table.get(name) for pk, table in inputs.items()}
        if any(value != next(iter(values.values())) for value in values.values()):
            found[name] = values
    return found


def _rounds(loop: Any) -> list[dict[str, Any]]:
    from aiida_rm.queries import yield_per_round

    table = yield_per_round(loop)
    rows: list[dict[str, Any]] = table.astype(object).where(table.notna(), None).to_dict("records")
    return rows


def _total(loop: Any, rows: list[dict[str, Any]]) -> dict[str, Any]:
    from aiida_rm.states import state_of

    state = f"[{loop.exit_status}]" if loop.is_finished else state_of(loop)
    total: dict[str, Any] = {"state": state, "rounds": len(rows)}
    for name in (*_SUMS, *_SECONDS):
        values = [row[name] for row in rows if row.get(name) is not None]
        if values:
            total[name] = sum(values)
    if total.get("generated"):
        total["yield"] = total.get("accepted", 0) / total["generated"]
    for name in ("lowest_energy_per_atom",):
        values = [row[name] for row in rows if row.get(name) is not None]
        total[name] = min(values) if values else None
    total["force_error"] = rows[-1].get("force_error") if rows else None
    return total


def _show(table: Mapping[str, Mapping[int, Any]], headers: Mapping[Any, str]) -> None:
    if not table:
        click.echo("none")
        return
    rows: list[dict[Any, Any]] = [{"name": name, **values} for name, values in table.items()]
    print_table(rows, headers)


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{path}{name}.")
        else:
            flat[f"{path}{name}"] = value
    return flat
