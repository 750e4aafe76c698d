"""``verdi data rm.frames``: list, show, export, import and plot sets of structures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from aiida.cmdline.params import arguments, options, types
from aiida.cmdline.utils import decorators, echo

from aiida_rm.cli.command import Group
from aiida_rm.cli.data import listing
from aiida_rm.cli.data.selecting import choose, selection
from aiida_rm.cli.groups import GROUP
from aiida_rm.cli.output import (
    JSON,
    OVERWRITE,
    counted,
    print_json,
    print_pairs,
    print_table,
    shorten,
)

_FRAMES = types.DataParamType(sub_classes=("aiida.data:rm.frames",))
_FORMATS = ("extxyz", "xyz", "cif", "poscar", "db", "traj")
#: Labels that `show` prints where they are there, besides the verdicts of referees.
_SHOWN = (
    "id", "name", "energy_per_atom", "fmax", "uncertainty", "converged", "valid", "unique",
    "novel", "match", "spacegroup",
)  # fmt: skip
_ROWS = 20


@click.group("rm.frames", cls=Group)
def frames() -> None:
    """Sets of structures (FramesData): datasets, what was generated, what was accepted."""


@frames.command("list")
@listing.ELEMENTS
@listing.ONLY
@click.option(
    "-f", "--formula", metavar="FORMULA", help="Those that hold a structure of this formula."
)
@click.option("--kind", type=click.Choice(["molecule", "crystal", "partial", "mixed"]))
@click.option("--min-structures", type=int, metavar="N", help="Of at least N structures.")
@click.option("--max-structures", type=int, metavar="N", help="Of at most N structures.")
@click.option("--min-atoms", type=int, metavar="N", help="With a structure of at least N atoms.")
@click.option("--max-atoms", type=int, metavar="N", help="With a structure of at most N atoms.")
@click.option(
    "-w", "--with", "with_label", metavar="NAME", help="With this label, such as energy_per_atom."
)
@listing.common
@JSON
@decorators.with_dbenv()
def frames_list(
    elements: str | None,
    only: bool,
    formula: str | None,
    kind: str | None,
    min_structures: int | None,
    max_structures: int | None,
    min_atoms: int | None,
    max_atoms: int | None,
    with_label: str | None,
    as_json: bool,
    **common: Any,
) -> None:
    """List sets of structures, the newest last."""
    from aiida_rm.data.frames import FramesData
    from aiida_rm.queries import holds_formula

    filters = listing.element_filters(elements, only=only)
    filters |= {"attributes.pbc_kind": kind} if kind else {}
    rules: list[dict[str, Any]] = []
    for name, sign, value in (
        ("n_structures", ">=", min_structures),
        ("n_structures", "<=", max_structures),
        ("n_atoms_max", ">=", min_atoms),
        ("n_atoms_min", "<=", max_atoms),
    ):
        if value is not None:
            rules.append({f"attributes.{name}": {sign: value}})
    if with_label:
        places = ("structure_labels", "atom_labels")
        rules.append(
            {"or": [{f"attributes.{place}": {"contains": [with_label]}} for place in places]}
        )
    if rules:
        filters["and"] = rules
    keep = (lambda row: holds_formula(row["attributes"], row["pk"], formula)) if formula else None
    rows = listing.find(FramesData, filters, keep=keep, **common)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        told = row["attributes"]
        low, high = told["n_atoms_min"], told["n_atoms_max"]
        formulas = sorted(told["formulas"].items(), key=lambda item: (-item[1], item[0]))
        row |= {
            "age": listing.ago(row["ctime"]),
            "n": told["n_structures"],
            "atoms": str(low) if low == high else f"{low}-{high}",
            "kind": told["pbc_kind"],
            "formulas": shorten([f"{name}:{count}" for name, count in formulas], 3),
        }
    listing.print_found(
        rows,
        {
            "pk": "PK", "label": "Label", "age": "Created", "n": "Structures", "atoms": "Atoms",
            "kind": "Kind", "formulas": "Formulas", "creator": "Made by",
        },
        "sets of structures",
        "import one with `verdi data rm.frames import FILE`",
    )  # fmt: skip


@frames.command("show")
@arguments.DATUM(type=_FRAMES)
@selection
@click.option(
    "-c", "--columns", metavar="LIST", help="Labels to print, such as id,match; or all of them: all"
)
@JSON
@decorators.with_dbenv()
def frames_show(datum: Any, columns: str | None, as_json: bool, **selected: Any) -> None:
    """Show what a set holds, and a table of its structures (the first 20 unless you choose)."""
    from aiida_rm.queries import table_of

    told = {name: value for name, value in datum.base.attributes.all.items() if "|" not in name}
    found = datum.get_frames()
    everything = choose(found, **{**selected, "limit": None})
    chosen = everything[: selected["limit"] or (len(everything) if as_json else _ROWS)]
    table = table_of(found, chosen)
    names = _columns(columns, list(table))
    if as_json:
        rows = [{name: table[name][row] for name in names} for row in range(len(chosen))]
        print_json({"pk": datum.pk, "uuid": datum.uuid, "label": datum.label, **told, "rows": rows})
        return
    print_pairs(
        {
            "PK": datum.pk,
            "UUID": datum.uuid,
            "Label": datum.label or None,
            "Created": datum.ctime.strftime("%Y-%m-%d %H:%M"),
            "Made by": listing.creators([datum.pk]).get(datum.pk),
            "From file": (datum.base.extras.get("rm_source", None) or {}).get("file"),
            "Structures": told["n_structures"],
            "Atoms": f"{told['n_atoms_min']} to {told['n_atoms_max']}, {told['n_atoms']} in all",
            "Elements": " ".join(told["elements"]),
            "Kind": told["pbc_kind"],
            "Labels": _in_short(told["structure_labels"]),
            "Labels of atoms": " ".join(told["atom_labels"]) or None,
        }
    )
    click.echo()
    rows = [{name: table[name][row] for name in names} for row in range(len(chosen))]
    print_table(rows, {name: name for name in names})
    if len(everything) > len(chosen):
        click.echo(
            f"\n{len(chosen)} of {len(everything)} structures; for more: --limit "
            f"{len(everything)}; for all labels: --columns all"
        )


def _in_short(labels: list[str]) -> str | None:
    """The names; of the checks of PoseBusters, which are many, how many there are."""
    names = [name for name in labels if not name.startswith("check_")]
    checks = len(labels) - len(names)
    return " ".join([*names, *([f"check_... ({checks})"] if checks else [])]) or None


@frames.command("export")
@arguments.DATUM(type=_FRAMES)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="File, whose ending tells the format; a folder with --split. Without it, to the screen.",
)
@click.option(
    "-F", "--format", "form", type=click.Choice(_FORMATS), help="Instead of what the name tells."
)
@click.option("--split", is_flag=True, help="Into a folder, a file for each structure.")
@selection
@OVERWRITE
@decorators.with_dbenv()
def frames_export(
    datum: Any,
    output: Path | None,
    form: str | None,
    split: bool,
    overwrite: bool,
    **selected: Any,
) -> None:
    """Write structures to a file: all, or those you choose.

    extxyz and traj keep the labels with one value a structure and those of atoms, db (a database
    of ASE) those of structures; cif, poscar and xyz keep atoms and cell (xyz: no cell) alone.
    """
    from aiida_rm.data.export import export, export_each, format_of, to_text

    found = datum.get_frames()
    chosen = choose(found, **selected)
    part = found.select(chosen)
    if output is None:
        if split:
            raise ValueError("--split needs a folder: name it with --output")
        click.echo(to_text(part, form or "extxyz"), nl=False)
        return
    if output.exists() and not overwrite and not (split and output.is_dir()):
        raise ValueError(f"'{output}' exists; name another file, or add --overwrite")
    if split:
        files = export_each(part, output, form or "cif", chosen.tolist(), overwrite=overwrite)
        echo.echo_success(f"wrote {counted(len(files), 'file')} to {output}")
        return
    if output.is_dir():
        raise ValueError(f"'{output}' is a folder; add --split for a file each, or name a file")
    export(part, output, form or format_of(output.name))
    echo.echo_success(f"wrote {counted(len(part), 'structure')} to {output}")


@frames.command("import")
@click.argument("sources", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--from-group",
    "source_group",
    type=types.GroupParamType(),
    help="All StructureData of this group, in one set that is linked to them.",
)
@click.option("-L", "--label", metavar="TEXT", help="Of the new node.")
@GROUP
@click.option(
    "--duplicates",
    type=click.Choice(["report", "remove", "ignore"]),
    default="report",
    show_default=True,
    help="Structures that are there twice, to the letter.",
)
@click.option(
    "--match", is_flag=True, help="Also those that are the same in another cell or order (slow)."
)
@click.option("--strict", is_flag=True, help="Refuse a file for its first broken entry.")
@click.option(
    "--processes", type=click.IntRange(0), default=1, show_default=True, help="0: one a core."
)
@click.option("--again", is_flag=True, help="Store even what is in this profile already.")
@options.DRY_RUN(help="Read and report; store nothing.")
@JSON
@decorators.with_dbenv()
def frames_import(sources: tuple[Path, ...], source_group: Any, as_json: bool, **how: Any) -> None:
    """Import structures: each SOURCE (a file, a folder, a zip, an AiiDA archive) becomes a node.

    Read are xyz, extxyz, CIF, POSCAR, databases of ASE, JSON of pymatgen, csv with a column cif,
    and whatever else ASE reads; compressed, too. Entries that cannot be used are left out and
    listed with their file and line. An archive (.aiida) is imported as a whole, and its
    StructureData become one set that is linked to them.
    """
    from aiida_rm.cli.data.importing import import_group, import_path, report_of

    if not sources and source_group is None:
        raise ValueError("nothing to import; name files or folders, or give --from-group GROUP")
    reports = [report_of(str(source), import_path, source, **how) for source in sources]
    if source_group is not None:
        name = source_group.label
        reports.append(report_of(name, import_group, source_group, name, **how))
    if as_json:
        print_json(reports)
    for report in () if as_json else reports:
        for line in (*report["left_out"], *report["duplicates"], *report.get("overlapping", ())):
            echo.echo_warning(line)
        say = echo.echo_success if report["pk"] else echo.echo_report
        if not report["ok"]:
            say = echo.echo_error
        say(f"{report['source']}: {report['told']}")
    if not all(report["ok"] for report in reports):
        raise click.exceptions.Exit(1)


@frames.command("plot")
@arguments.DATUM(type=_FRAMES)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Picture: png, svg or pdf.  [default: frames_PK.png]",
)
@click.option("-x", metavar="NAME", help="Label along x.  [default: volume_per_atom, or n_atoms]")
@click.option(
    "-y", metavar="NAME", help="Label along y; without it how often x is so.  "
    "[default: energy_per_atom where it is there]"
)  # fmt: skip
@click.option("--colour", metavar="NAME", help="Label that colours the points, such as match.")
@click.option("--draw", is_flag=True, help="Draw the structures (the first 12) instead.")
@selection
@OVERWRITE
@decorators.with_dbenv()
def frames_plot(
    datum: Any,
    output: Path | None,
    x: str | None,
    y: str | None,
    colour: str | None,
    draw: bool,
    overwrite: bool,
    **selected: Any,
) -> None:
    """Plot a label against another, or draw the structures."""
    from aiida_rm.report.plots import draw_structures, plot_labels

    target = listing.picture(output, f"frames_{datum.pk}.png", overwrite)
    found = datum.get_frames()
    part = found.select(choose(found, **selected))
    if draw:
        draw_structures(part, target)
    else:
        plot_labels(part, target, x=x, y=y, colour=colour)
    echo.echo_success(f"wrote {target}")


def _columns(asked: str | None, known: list[str]) -> list[str]:
    """Names of the columns to print."""
    first = known[:4]  # index, formula, n_atoms, volume_per_atom
    if asked == "all":
        return known
    if asked is None:
        ends = ("_energy_per_atom", "_above_hull", "_verdict")
        return [*first, *(name for name in known[4:] if name in _SHOWN or name.endswith(ends))]
    names = [name for name in asked.replace(" ", "").split(",") if name]
    for name in names:
        if name not in known:
            raise ValueError(f"there is no label '{name}'; there are {', '.join(known)}")
    return ["index", *(name for name in names if name != "index")]
