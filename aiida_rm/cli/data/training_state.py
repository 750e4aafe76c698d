"""``verdi data rm.training_state``: list, show, export, import and plot unfinished trainings."""

from __future__ import annotations

from typing import Any

import click
from aiida.cmdline.params import arguments, types
from aiida.cmdline.utils import decorators

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.data.file_commands import add_file_commands
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


add_file_commands(
    training_state,
    "training state",
    use="",
    curves="so far",
    title="training that <{pk}> continues",
)
