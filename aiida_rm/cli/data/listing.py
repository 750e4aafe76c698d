"""Options of the `list` commands, and the query behind them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import options
from aiida.cmdline.utils import echo

from aiida_rm.cli.output import DAYS, print_json, print_table

#: Projected of every node.
_COMMON = ("id", "uuid", "label", "ctime", "attributes")

ELEMENTS = click.option(
    "-e", "--elements", metavar="LIST", help="Those that hold all of these, such as C,H."
)
ONLY = click.option("--only", is_flag=True, help="And no other elements.")
LABEL = click.option(
    "-L", "--label", metavar="TEXT", help="Those whose label is this; * stands for anything."
)
LAST = click.option("--last", type=click.IntRange(1), metavar="N", help="The newest N alone.")

PAST_DAYS = click.option(
    "-p", "--past-days", type=DAYS, metavar="N", help="Those made in the past N days."
)


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that all `list` commands have."""
    for option in (LAST, options.GROUPS(), PAST_DAYS, LABEL):
        command = option(command)
    return command


def split_elements(text: str | None) -> list[str]:
    """Symbols of a list such as ``C,H``, by atomic number.

    Raises:
        ValueError: one is no element.
    """
    from aiida_rm.engine.elements import NUMBERS

    symbols = set((text or "").replace(",", " ").split())
    wrong = sorted(symbols - {*NUMBERS})
    if wrong:
        raise ValueError(f"'{wrong[0]}' is not an element; give symbols, such as --elements C,H")
    return sorted(symbols, key=lambda symbol: NUMBERS[symbol])


def element_filters(elements: str | None, *, only: bool) -> dict[str, Any]:
    """Filters on the attribute `elements`."""
    symbols = split_elements(elements)
    if only and not symbols:
        raise ValueError("--only needs --elements")
    if not symbols:
        return {}
    rule: dict[str, Any] = {"contains": symbols}
    if only:
        rule["of_length"] = len(symbols)
    return {"attributes.elements": rule}


def find(
    kind: Any,
    filters: Mapping[str, Any],
    *,
    label: str | None = None,
    past_days: int | None = None,
    groups: Sequence[Any] | None = None,
    last: int | None = None,
    keep: Callable[[Mapping[str, Any]], bool] | None = None,
) -> list[dict[str, Any]]:
    """Nodes of a class as plain rows, oldest first.

    Args:
        kind: the class.
        filters: of the QueryBuilder.
        label: of the node, with ``*`` for anything.
        past_days: made in so many days.
        groups: those in any of these.
        last: the newest of them.
        keep: what the database cannot be asked, of a row.

    Returns:
        ``pk``, ``uuid``, ``label``, ``ctime``, ``attributes``, and ``creator`` (``label <pk>`` of
        the process that made it, or empty).
    """
    from aiida import orm
    from aiida.common import timezone

    wanted: dict[str, Any] = dict(filters)
    if label is not None:
        escaped = label.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        wanted["label"] = {"like": escaped.replace("*", "%")} if "*" in label else label
    if past_days is not None:
        wanted["ctime"] = {">": timezone.now() - timedelta(days=past_days)}
    query = orm.QueryBuilder()
    if groups:
        query.append(orm.Group, filters={"id": {"in": [group.pk for group in groups]}}, tag="group")
        query.append(kind, with_group="group", filters=wanted, project=list(_COMMON), tag="node")
        query.distinct()
    else:
        query.append(kind, filters=wanted, project=list(_COMMON), tag="node")
    query.order_by({"node": [{"ctime": "asc"}, {"id": "asc"}]})
    names = ("pk", *_COMMON[1:])
    rows = [dict(zip(names, found, strict=True)) for found in query.iterall()]
    for row in rows:  # the shapes of arrays are AiiDA's own business
        told = row["attributes"].items()
        row["attributes"] = {name: value for name, value in told if "|" not in name}
    rows = [row for row in rows if keep is None or keep(row)]
    rows = rows[-last:] if last else rows
    made = creators([row["pk"] for row in rows])
    return [{**row, "creator": made.get(row["pk"], "")} for row in rows]


def creators(pks: Sequence[int]) -> dict[int, str]:
    """What made each of these nodes: ``ScoreCalculation <12>``."""
    from aiida import orm

    if not pks:
        return {}
    query = orm.QueryBuilder()
    query.append(orm.ProcessNode, project=["attributes.process_label", "id"], tag="process")
    query.append(
        orm.Data,
        filters={"id": {"in": list(pks)}},
        with_incoming="process",
        edge_filters={"type": "create"},
        project="id",
    )
    return {pk: f"{label} <{creator}>" for label, creator, pk in query.all()}


def ago(time: Any) -> str:
    """How long ago, such as ``2h ago``."""
    from aiida.common import timezone

    seconds = (timezone.now() - time).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(max(seconds, 0))}s ago"


def print_found(
    rows: Sequence[Mapping[str, Any]], headers: Mapping[str, str], what: str, remedy: str
) -> None:
    """The table of a `list` command, or what to do when it is empty."""
    if rows:
        print_table(rows, headers)
        click.echo(f"\nTotal: {len(rows)}")
    else:
        click.echo(f"No {what} here, or none that meets the filters; {remedy}.", err=True)


def picture(given: Path | None, default: str, overwrite: bool) -> Path:
    """Where a picture goes.

    Raises:
        ValueError: it is there already, or of no known format.
    """
    target = given or Path(default)
    if target.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"'{target}' must end in .png, .svg or .pdf")
    if target.exists() and not overwrite:
        raise ValueError(f"'{target}' exists; name another file with --output, or add --overwrite")
    target.absolute().parent.mkdir(parents=True, exist_ok=True)
    return target


def print_reports(reports: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    """What became of each file; the exit status is 1 if one could not be used."""
    if as_json:
        print_json(reports)
    else:
        for report in reports:
            say = echo.echo_success if report["pk"] else echo.echo_report
            if not report["ok"]:
                say = echo.echo_error
            say(f"{report['source']} {report['told']}")
    if not all(report["ok"] for report in reports):
        sys.exit(1)
