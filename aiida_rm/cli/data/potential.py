"""``verdi data rm.potential``: list, show, export, import and plot potentials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import arguments, options, types
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.output import JSON, print_json, print_pairs

_POTENTIAL = types.DataParamType(sub_classes=("aiida.data:rm.potential",))


@click.group("rm.potential", cls=Group)
def potential() -> None:
    """Trained potentials E~ (PotentialData)."""


@potential.command("list")
@listing.ELEMENTS
@listing.ONLY
@click.option("--architecture", type=click.Choice(["local", "equivariant"]))
@listing.common
@JSON
@decorators.with_dbenv()
def potential_list(
    elements: str | None, only: bool, architecture: str | None, as_json: bool, **common: Any
) -> None:
    """List potentials, the newest last."""
    from aiida_rm.data.potential import PotentialData

    filters = listing.element_filters(elements, only=only)
    filters |= {"attributes.architecture": architecture} if architecture else {}
    rows = listing.find(PotentialData, filters, **common)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        told = row["attributes"]
        row |= {
            "age": listing.ago(row["ctime"]),
            "elements": " ".join(told["elements"]),
            "architecture": told["architecture"],
            "cutoff": told["cutoff"],
            "parameters": told["n_parameters"],
        }
    listing.print_found(
        rows,
        {
            "pk": "PK", "label": "Label", "age": "Created", "elements": "Elements",
            "architecture": "Network", "cutoff": "Cutoff (Å)", "parameters": "Weights",
            "creator": "Made by",
        },
        "potentials",
        "train one with `aiida-rm launch train`, or import one with "
        "`verdi data rm.potential import FILE`",
    )  # fmt: skip


@potential.command("show")
@arguments.DATUM(type=_POTENTIAL)
@JSON
@decorators.with_dbenv()
def potential_show(datum: Any, as_json: bool) -> None:
    """Show what a potential is, how well it learned, and what was made with it."""
    from aiida_rm.queries import generated_from

    told = datum.base.attributes.all
    made = generated_from(datum)
    if as_json:
        sets = [node.pk for node in made]
        header = datum.get_header()
        common = {"pk": datum.pk, "uuid": datum.uuid, "label": datum.label}
        print_json({**common, **told, "generated": sets, "header": header})
        return
    print_pairs(
        {
            "PK": datum.pk,
            "UUID": datum.uuid,
            "Label": datum.label or None,
            "Created": datum.ctime.strftime("%Y-%m-%d %H:%M"),
            "Made by": listing.creators([datum.pk]).get(datum.pk),
            "Elements": " ".join(told["elements"]),
            "Network": told["architecture"],
            "Cutoff": f"{told['cutoff']:g} angstrom",
            "Weights": f"{told['n_parameters']}, {told['dtype']}",
            **{f"- {name}": value for name, value in told["hyperparameters"].items()},
            **{f"Training: {name}": value for name, value in told["training"].items()},
            "Generated": ", ".join(f"<{node.pk}> ({len(node)} structures)" for node in made)
            or "nothing so far",
        }
    )


@potential.command("export")
@arguments.DATUM(type=_POTENTIAL)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File or folder.  [default: potential_PK.safetensors]",
)
@listing.OVERWRITE
@decorators.with_dbenv()
def potential_export(datum: Any, output: Path | None, overwrite: bool) -> None:
    """Write a potential to a safetensors file, for the engine or ASE anywhere."""
    from aiida_rm.cli.data.weights import export_file

    target = export_file(datum, output, overwrite=overwrite)
    echo.echo_success(f"wrote {target}")


@potential.command("import")
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("-L", "--label", metavar="TEXT", help="Instead of the name of the file.")
@click.option(
    "-G", "--group", type=types.GroupParamType(create_if_not_exist=True), help="Add it to this."
)
@click.option("--again", is_flag=True, help="Store even what is in this profile already.")
@options.DRY_RUN(help="Look at the files; store nothing.")
@JSON
@decorators.with_dbenv()
def potential_import(sources: tuple[Path, ...], as_json: bool, **how: Any) -> None:
    """Import safetensors files of potentials; folders and zip archives of them, too."""
    from aiida_rm.cli.data.weights import import_files
    from aiida_rm.data.potential import PotentialData

    listing.print_reports(import_files(PotentialData, sources, **how), as_json=as_json)


@potential.command("plot")
@arguments.DATUM(type=_POTENTIAL)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture: png, svg or pdf.  [default: potential_PK.png]",
)
@listing.OVERWRITE
@decorators.with_dbenv()
def potential_plot(datum: Any, output: Path | None, overwrite: bool) -> None:
    """Plot the learning curves of the training that made it."""
    from aiida_rm.cli.data.weights import metrics_of
    from aiida_rm.report.plots import plot_curves

    target = listing.picture(output, f"potential_{datum.pk}.png", overwrite)
    plot_curves(metrics_of(datum), target, f"training of <{datum.pk}>")
    echo.echo_success(f"wrote {target}")
