"""``aiida-rm status``: what runs, how far it is, and for how long still."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click
from aiida.cmdline.params import types
from aiida.cmdline.utils import decorators

from aiida_rm.cli.command import Command, UsageError
from aiida_rm.cli.output import JSON, print_json

_COLUMNS = ("Process", "Round", "Stage", "State", "Done", "Epoch", "Loss", "Per s", "Left")


@click.command("status", cls=Command)
@click.argument("processes", nargs=-1, type=types.WorkflowParamType())
@click.option("-w", "--watch", is_flag=True, help="Again and again, until all have ended.")
@click.option(
    "--every",
    type=click.FloatRange(0.5),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks; be kind to clusters.",
)
@JSON
@decorators.with_dbenv()
def status(processes: tuple[Any, ...], watch: bool, every: float, as_json: bool) -> None:
    """Show running loops, trainings and searches (or PROCESSES): stage, epoch, loss, time left.

    A row for each job that goes on; "Per s" are structures, trained on, relaxed or judged. Where
    the table finds no room, and in a pipe, each row is a sentence. Ctrl-C ends the watching, not
    the processes; the exit status is 130 then.
    """
    from aiida_rm.cli.looking import Looker, running

    if watch and as_json:
        raise UsageError("--watch and --json do not go together")
    with Looker() as looker:
        nodes = list(processes) or running()
        if as_json:
            print_json(looker.rows(nodes))
            return
        if not nodes:
            click.echo("Nothing runs; start something with `aiida-rm launch`.")
            return
        try:
            _show(looker, nodes, every if watch else None)
        except KeyboardInterrupt:
            click.echo("The processes go on without us.")
            raise click.exceptions.Exit(130) from None


def _show(looker: Any, nodes: list[Any], every: float | None) -> None:
    """Once, or every so many seconds until all have ended."""
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)

    def looks() -> Iterator[list[dict[str, Any]]]:
        while True:
            ended = all(node.is_terminated for node in nodes)  # before the look: it is the last
            yield looker.rows(nodes)
            if every is None or ended:
                return
            time.sleep(every)

    if console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for rows in looks():
                live.update(_fitting(rows, console), refresh=True)
        return
    told: list[str] = []
    for rows in looks():
        now = [sentence(row) for row in rows]
        for line in now:
            if line not in told:
                click.echo(line)
        sys.stdout.flush()  # who reads the pipe reads along
        told = now


def _fitting(rows: list[dict[str, Any]], console: Any) -> Any:
    """The table, or sentences where it would lose what it says."""
    from rich.text import Text

    table = _table(rows)
    if table.__rich_measure__(console, console.options).minimum <= console.width:
        return table
    return Text("\n".join(sentence(row) for row in rows))


def sentence(row: dict[str, Any]) -> str:
    """A row of :class:`aiida_rm.cli.looking.Looker` on one line."""
    cells = dict(zip(_COLUMNS, _cells(row), strict=True))
    parts = [f"{cells.pop('Process')}:"]
    shown = {
        "Round": "round {}", "Stage": "{}", "State": "{}", "Done": "{}", "Epoch": "epoch {}",
        "Loss": "loss {}", "Per s": "{} a second", "Left": "{} left",
    }  # fmt: skip
    parts.append(", ".join(text.format(cells[name]) for name, text in shown.items() if cells[name]))
    return " ".join(parts)


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, no_wrap=name not in ("Process", "State"))
    for row in rows:
        table.add_row(*(escape(cell) for cell in _cells(row)))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    """What stands in the columns; a label cannot steer the terminal."""
    from aiida_rm.engine.training.progress import duration

    share, left, rate = row.get("share"), row.get("left"), row.get("rate")
    cells = [
        f"{row['process'].removeprefix('rm.')} <{row['pk']}> {row['label']}".strip(),
        f"{row['round']}/{row['rounds']}" if "round" in row else "",
        f"{row['stage']} <{row['job']}>" if "job" in row else "",
        row["state"] + (f", {row['note']}" if row.get("note") else ""),
        "" if share is None else f"{share:.0%}",
        f"{row['epoch']}/{row['epochs']}" if "epoch" in row else "",
        "" if row.get("loss") is None else f"{row['loss']:.4g}",
        "" if rate is None else f"{rate:.3g}",
        "" if left is None else duration(left),
    ]
    return ["".join(one if one.isprintable() else " " for one in cell) for cell in cells]
