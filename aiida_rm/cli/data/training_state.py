"""``verdi data rm.training_state``: list, show, export, import and plot unfinished trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import arguments, options, types
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.output import JSON, print_json, print_pairs

_STATE = types.DataParamType(sub_classes=("aiida.data:rm.training_state",))


@click.group("rm.training_state", cls=Group)
def training_state() -> None:
    """What trainings that were cut short need to go on (TrainingStateData)."""


@training_state.command("list")
@click.option("--min-epoch", type=int, metavar="N", help="After at least N epochs.")
@listing.common
@JSON
@decorators.with_dbenv()
def state_list(min_epoch: int | None, as_json: bool, **common: Any) -> None:
    """List training states, the newest last."""
    from aiida_rm.data.training_state import TrainingStateData

    filters = {} if min_epoch is None else {"attributes.epoch": {">=": min_epoch}}
    rows = listing.find(TrainingStateData, filters, **common)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        told = row["attributes"]
        row |= {"age": listing.ago(row["ctime"]), "epoch": told["epoch"], "step": told["step"]}
    listing.print_found(
        rows,
        {
            "pk": "PK", "label": "Label", "age": "Created", "epoch": "Epochs", "step": "Steps",
            "creator": "Made by",
        },
        "training states",
        "there is one only where a training was cut short",
    )  # fmt: skip


@training_state.command("show")
@arguments.DATUM(type=_STATE)
@JSON
@decorators.with_dbenv()
def state_show(datum: Any, as_json: bool) -> None:
    """Show how far a training came."""
    told = datum.base.attributes.all
    if as_json:
        common = {"pk": datum.pk, "uuid": datum.uuid, "label": datum.label}
        print_json({**common, **told, "header": datum.get_header()})
        return
    print_pairs(
        {
            "PK": datum.pk,
            "UUID": datum.uuid,
            "Label": datum.label or None,
            "Created": datum.ctime.strftime("%Y-%m-%d %H:%M"),
            "Made by": listing.creators([datum.pk]).get(datum.pk),
            "Epochs": told["epoch"],
            "Steps": told["step"],
            "Fits settings and data": told["digest"],
            "To go on": "give it to rm.train as `train.state`, with the same settings and frames",
        }
    )


@training_state.command("export")
@arguments.DATUM(type=_STATE)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder.  [default: training_state_PK.safetensors]",
)
@listing.OVERWRITE
@decorators.with_dbenv()
def state_export(datum: Any, output: Path | None, overwrite: bool) -> None:
    """Write a training state to a safetensors file."""
    from aiida_rm.cli.data.weights import export_file

    echo.echo_success(f"wrote {export_file(datum, output, overwrite=overwrite)}")


@training_state.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-L", "--label", metavar="TEXT", help="Instead of the name of the file.")
@click.option(
    "-G", "--group", type=types.GroupParamType(create_if_not_exist=True), help="Add it to this."
)
@click.option("--again", is_flag=True, help="Store even what is in this profile already.")
@options.DRY_RUN(help="Look at the files; store nothing.")
@JSON
@decorators.with_dbenv()
def state_import(sources: tuple[Path, ...], as_json: bool, **how: Any) -> None:
    """Import safetensors files of training states; folders and zip archives of them, too."""
    from aiida_rm.cli.data.weights import import_files
    from aiida_rm.data.training_state import TrainingStateData

    listing.print_reports(import_files(TrainingStateData, sources, **how), as_json=as_json)


@training_state.command("plot")
@arguments.DATUM(type=_STATE)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture: png, svg or pdf.  [default: training_state_PK.png]",
)
@listing.OVERWRITE
@decorators.with_dbenv()
def state_plot(datum: Any, output: Path | None, overwrite: bool) -> None:
    """Plot the learning curves so far."""
    from aiida_rm.cli.data.weights import metrics_of
    from aiida_rm.report.plots import plot_curves

    target = listing.picture(output, f"training_state_{datum.pk}.png", overwrite)
    plot_curves(metrics_of(datum), target, f"training that <{datum.pk}> continues")
    echo.echo_success(f"wrote {target}")
