"""``aiida-rm status``: what runs, how far it is, and for how long still."""

from __future__ import annotations

import time
from typing import Any

import click
from aiida.cmdline.params import types
from aiida.cmdline.utils import decorators

from aiida_rm.cli.command import Command
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

    A row for each job that goes on; "Per s" are structures, trained on, relaxed or judged.
    """
    from aiida_rm.cli.looking import Looker, running

    if watch and as_json:
        raise click.UsageError("--watch and --json do not go together")
    with Looker() as looker:
        nodes = list(processes) or running()
        if as_json:
            print_json(looker.rows(nodes))
            return
        from rich.console import Console
        from rich.live import Live

        console = Console(highlight=False)
        if not nodes:
            console.print("Nothing runs; start something with `aiida-rm launch`.")
            return
        if not watch:
            console.print(_table(looker.rows(nodes)))
            return
        try:
            with Live(console=console, auto_refresh=False) as live:
                while True:
                    live.update(_table(looker.rows(nodes)), refresh=True)
                    if all(node.is_terminated for node in nodes):
                        break
                    time.sleep(every)
        except KeyboardInterrupt:
            console.print("The processes go on without us.")


def _table(rows: list[dict[str, Any]]) -> Any:
    from rich.markup import escape
    from rich.table import Table

    from aiida_rm.engine.training.progress import duration

    table = Table(box=None, pad_edge=False)
    for name in _COLUMNS:
        table.add_column(name, no_wrap=name not in ("Process", "State"))
    for row in rows:
        share, left, rate = row.get("share"), row.get("left"), row.get("rate")
        epoch = f"{row['epoch']}/{row['epochs']}" if "epoch" in row else ""
        state = escape(row["state"] + (f", {row['note']}" if row.get("note") else ""))
        table.add_row(
            f"{row['process'].removeprefix('rm.')} <{row['pk']}> {escape(row['label'])}".strip(),
            f"{row['round']}/{row['rounds']}" if "round" in row else "",
            f"{row['stage']} <{row['job']}>" if "job" in row else "",
            state,
            "" if share is None else f"{share:.0%}",
            epoch,
            "" if row.get("loss") is None else f"{row['loss']:.4g}",
            "" if rate is None else f"{rate:.3g}",
            "" if left is None else duration(left),
        )
    return table
