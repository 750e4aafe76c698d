"""The commands that potentials and training states share: each node is one safetensors file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import arguments, options, types
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.groups import GROUP
from aiida_rm.cli.output import JSON, OVERWRITE


def add_file_commands(group: Group, what: str, *, use: str, curves: str, title: str) -> None:
    """Add ``export``, ``import`` and ``plot`` to a group.

    Args:
        group: of ``verdi data``; its name is the entry point of the nodes.
        what: what such a node is, such as ``potential``.
        use: what the file is good for, for the help of ``export``.
        curves: which learning curves there are, for the help of ``plot``.
        title: above the picture, with ``{pk}``.
    """
    entry_point, name = str(group.name), what.replace(" ", "_")
    datum = arguments.DATUM(type=types.DataParamType(sub_classes=(f"aiida.data:{entry_point}",)))

    @group.command("export", help=f"Write a {what} to a safetensors file{use}.")
    @datum
    @click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help=f"File or folder.  [default: {name}_PK.safetensors]",
    )
    @OVERWRITE
    @decorators.with_dbenv()
    def export(datum: Any, output: Path | None, overwrite: bool) -> None:
        from aiida_rm.cli.data.weights import export_file

        echo.echo_success(f"wrote {export_file(datum, output, overwrite=overwrite)}")

    @group.command(
        "import",
        help=f"Import safetensors files of {what}s; folders and zip archives of them, too.",
    )
    @click.argument(
        "sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
    )
    @click.option("-L", "--label", metavar="TEXT", help="Instead of the name of the file.")
    @GROUP
    @click.option("--again", is_flag=True, help="Store even what is in this profile already.")
    @options.DRY_RUN(help="Look at the files; store nothing.")
    @JSON
    @decorators.with_dbenv()
    def import_(sources: tuple[Path, ...], as_json: bool, **how: Any) -> None:
        from aiida.plugins import DataFactory

        from aiida_rm.cli.data.weights import import_files

        reports = import_files(DataFactory(entry_point), sources, **how)
        listing.print_reports(reports, as_json=as_json)

    @group.command("plot", help=f"Plot the learning curves {curves}.")
    @datum
    @click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help=f"Picture: png, svg or pdf.  [default: {name}_PK.png]",
    )
    @OVERWRITE
    @decorators.with_dbenv()
    def plot(datum: Any, output: Path | None, overwrite: bool) -> None:
        from aiida_rm.cli.data.weights import metrics_of
        from aiida_rm.report.plots import plot_curves

        target = listing.picture(output, f"{name}_{datum.pk}.png", overwrite)
        plot_curves(metrics_of(datum), target, title.format(pk=datum.pk))
        echo.echo_success(f"wrote {target}")
