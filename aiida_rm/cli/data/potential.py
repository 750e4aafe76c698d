"""``verdi data rm.potential``: list, show, export, import and plot potentials."""

from __future__ import annotations

from typing import Any

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.data.file_commands import add_file_commands
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


add_file_commands(
    potential,
    "potential",
    use=", for the engine or ASE anywhere",
    curves="of the training that made it",
    title="training of <{pk}>",
)
