"""``aiida-rm report`` and ``aiida-rm plot``: what a run did, as a page or as pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from aiida.cmdline.params import arguments
from aiida.cmdline.utils import echo
from aiida.cmdline.utils.decorators import with_dbenv

from aiida_rm.cli.command import Command
from aiida_rm.cli.output import OVERWRITE

if TYPE_CHECKING:
    from aiida.orm import Node

_BEST = click.option(
    "--best",
    type=click.IntRange(1, 200),
    default=24,
    show_default=True,
    help="So many structures one by one.",
)


@click.command("report", cls=Command)
@arguments.NODE()
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file; by default report_PK.html.",
)
@OVERWRITE
@_BEST
@with_dbenv()
def report(node: Node, output: Path | None, *, overwrite: bool, best: int) -> None:
    """Write all that a run did into one HTML file.

    NODE is a process, running or finished, or something that it made. The file works without a
    network and needs nothing beside it.
    """
    from aiida_rm.report.page import write_report

    target = output or Path(f"report_{node.pk}.html")
    _check_free(target, overwrite)
    written = write_report(node, target, most=best)
    echo.echo_success(f"wrote {written} ({written.stat().st_size / 1e6:.1f} MB)")


@click.command("plot", cls=Command)
@arguments.NODE()
@click.argument("name", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture (png, svg, pdf); by default NAME_PK.png.",
)
@OVERWRITE
@with_dbenv()
def plot(node: Node, name: str | None, output: Path | None, *, overwrite: bool) -> None:
    """Draw one chart of a report into a picture.

    Without NAME, say which charts there are. NODE is as for `aiida-rm report`.
    """
    from aiida_rm.report.charts import save
    from aiida_rm.report.drawings import charts_of
    from aiida_rm.report.run import read_run

    charts = {chart.name: chart for chart in charts_of(read_run(node), [])}
    if name is None:
        for chart in charts.values():
            click.echo(f"{chart.name:28} {chart.title}")
        if not charts:
            echo.echo_report(f"<{node.pk}> has nothing to draw yet")
        return
    if name not in charts:
        echo.echo_critical(f"there is no chart '{name}'; there are {', '.join(charts) or 'none'}")
    target = output or Path(f"{name}_{node.pk}.png")
    _check_free(target, overwrite)
    save(charts[name], target)
    echo.echo_success(f"wrote {target}")


def _check_free(target: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        echo.echo_critical(f"{target} is there already; name another file, or add --overwrite")
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
