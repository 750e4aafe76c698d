"""What came of a potential, a dataset, a composition, a loop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aiida import orm
from aiida.common.links import LinkType

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.elements import hill_formula, parse_formula
from aiida_rm.queries.tables import bare, reduced, structures

if TYPE_CHECKING:
    from pandas import DataFrame


def generated_from(potential: PotentialData) -> list[FramesData]:
    """The sets of structures that were generated on a potential, oldest first.

    Of each search the set that says most: scored, else gathered from its jobs, else as the job
    left it.
    """
    query = orm.QueryBuilder()
    query.append(orm.Node, filters={"id": potential.pk}, tag="potential")
    query.append(
        orm.CalcJobNode,
        filters={"process_type": "aiida.calculations:rm.generate"},
        with_incoming="potential",
        edge_filters={"label": "potential"},
        tag="job",
    )
    query.append(FramesData, with_incoming="job", edge_filters={"label": "frames"})
    raw = {node.pk: node for node in query.all(flat=True)}
    found = {}
    for node in raw.values():
        last = _scored(_gathered(node, set(raw)))
        found[last.pk] = last
    return _by_age(found.values())


def structures_from(potential: PotentialData, rules: Mapping[str, Any] | None = None) -> DataFrame:
    """All structures that were generated on a potential.

    Args:
        potential: the potential.
        rules: which of them, as in :mod:`aiida_rm.data.selection`.

    Returns:
        A row a structure, see :func:`aiida_rm.queries.tables.structures`.

    Raises:
        RuleError: a rule cannot be applied.
    """
    return structures(generated_from(potential), rules)


def best(
    source: FramesData | PotentialData | orm.WorkChainNode | Sequence[FramesData],
    n: int = 10,
    *,
    by: str = "energy_per_atom",
    rules: Mapping[str, Any] | None = None,
) -> DataFrame:
    """The structures that are lowest in E~ per atom, or in another label.

    E~ of different potentials is measured on different scales: across the rounds of a loop it
    ranks roughly (``energy_percentile``, the place among the training set's, travels better).

    Args:
        source: a set, several, all that was generated on a potential, or all rounds of a loop.
        n: so many.
        by: the label; a minus before it puts the largest first.
        rules: of these only, such as ``{"valid": True, "unique": True}``.

    Returns:
        A row a structure, best first, see :func:`aiida_rm.queries.tables.structures`.

    Raises:
        KeyError: no set has that label.
        TypeError: the source is something else.
        RuleError: a rule cannot be applied.
    """
    table = structures(_sets(source), rules)
    name = by.removeprefix("-")
    if name not in table:
        raise KeyError(
            f"no set has the label '{name}'; give as `by` one of {', '.join(table.columns)}, or "
            "structures that rm.generate or rm.validate made"
        )
    rising = not by.startswith("-")
    ranked = table.sort_values(name, ascending=rising, na_position="last", kind="stable")
    return ranked.head(n).reset_index(drop=True)


def potentials_trained_on(dataset: FramesData, *, finished: bool = True) -> list[PotentialData]:
    """The potentials that were trained on a dataset, oldest first.

    On the dataset itself (knob ``draw``: fresh), or on copies that rm.perturb made of it. What
    later rounds of a loop trained, on the dataset with the accepted in it, is not among them.

    Args:
        dataset: stable structures.
        finished: only of trainings that came to their end.
    """
    copies = [node.pk for node in _made(dataset, "rm.perturb", "frames", FramesData)]
    query = orm.QueryBuilder()
    query.append(orm.Node, filters={"id": {"in": [dataset.pk, *copies]}}, tag="frames")
    filters: dict[str, Any] = {"process_type": "aiida.calculations:rm.train"}
    if finished:
        filters["attributes.exit_status"] = 0
    query.append(
        orm.CalcJobNode,
        filters=filters,
        with_incoming="frames",
        edge_filters={"label": "frames"},
        tag="job",
    )
    query.append(PotentialData, with_incoming="job", tag="potential")
    return _by_age(query.all(flat=True))


def with_composition(formula: str, *, multiples: bool = True) -> DataFrame:
    """Every structure of a composition in this profile: in sets, and as StructureData.

    Args:
        formula: in any order, such as ``SiO2``.
        multiples: also ``Si2O4`` and so on; molecules only as they are.

    Returns:
        ``pk``, ``index`` (None of a StructureData), ``formula``, ``type`` and ``label`` of the
        node.

    Raises:
        ValueError: this is no formula.
    """
    import pandas as pd

    exact = hill_formula(parse_formula(formula))
    smallest = reduced(formula)
    rows: list[dict[str, Any]] = []
    symbols = sorted(parse_formula(formula))
    query = orm.QueryBuilder()
    filters = {"attributes.elements": {"contains": symbols}}
    query.append(FramesData, filters=filters, project=["id", "attributes"])
    query.order_by({FramesData: {"id": "asc"}})
    # Not `iterall`: on SQLite nobody else can store while its transaction is open.
    for pk, told in query.all():
        names = told["formulas"]
        near = any(name == exact or (multiples and reduced(name) == smallest) for name in names)
        if not near and not told["formulas_other"]:
            continue
        node: Any = orm.load_node(pk)
        frames = bare(node)
        for index, name in enumerate(frames.formulas()):
            crystal = bool(frames.pbc[index].any())
            if name == exact or (multiples and crystal and reduced(name) == smallest):
                rows.append(_row(node, index, name))
    query = orm.QueryBuilder()
    query.append(orm.StructureData, project="*").order_by({orm.StructureData: {"id": "asc"}})
    for structure in query.all(flat=True):
        try:
            counts: dict[str, int] = {}
            for site in structure.sites:
                symbol = structure.get_kind(site.kind_name).symbol
                counts[symbol] = counts.get(symbol, 0) + 1
            name = hill_formula(counts)
            same = name == exact or (multiples and any(structure.pbc) and reduced(name) == smallest)
        except ValueError:
            continue  # shared sites, or no element: it has no such formula
        if same:
            rows.append(_row(structure, None, name))
    return pd.DataFrame(rows, columns=["pk", "index", "formula", "type", "label"])


def scored_of(loop: orm.WorkChainNode) -> dict[str, FramesData]:
    """All generated structures with their verdicts by round (``round_01``), also while it runs.

    Raises:
        ValueError: the node is no loop.
    """
    return {
        label.removesuffix("_validate"): node.outputs.scored
        for label, node in _stages(loop)
        if label.endswith("_validate") and "scored" in node.outputs
    }


def yield_per_round(loop: orm.WorkChainNode) -> DataFrame:
    """The table of a loop, a row a round, also while it runs (docs/loop.md has the columns).

    Raises:
        ValueError: the node is no loop.
    """
    import pandas as pd

    from aiida_rm.workflows.rounds import COLUMNS

    described = [
        node.outputs.result.get_dict()
        for _, node in _stages(loop)
        if node.process_label == "describe_round" and node.is_finished_ok
    ]
    rows = sorted(described, key=lambda row: int(row["round"]))
    table = pd.DataFrame(
        [{name: value for name, value in row.items() if name != "matches"} for row in rows]
    )
    known = [name for name in COLUMNS if name in table]
    return table[[*known, *sorted({*table.columns} - {*known})]] if len(table) else table


def _stages(loop: orm.WorkChainNode) -> list[tuple[str, Any]]:
    """Whatever a loop called, with the labels of the links, in order."""
    if not str(getattr(loop, "process_type", "")).endswith(":rm.loop"):
        raise ValueError(f"<{loop.pk}> is no rm.loop; find one with `verdi process list -a`")
    kinds = (LinkType.CALL_WORK, LinkType.CALL_CALC)
    links = loop.base.links.get_outgoing(link_type=kinds).all()
    return [(link.link_label, link.node) for link in sorted(links, key=lambda one: one.node.ctime)]


def _sets(source: Any) -> list[FramesData]:
    if isinstance(source, FramesData):
        return [source]
    if isinstance(source, PotentialData):
        return generated_from(source)
    if isinstance(source, orm.WorkChainNode):
        return list(scored_of(source).values())
    if isinstance(source, Iterable) and all(isinstance(one, FramesData) for one in source):
        return list(source)
    raise TypeError(
        "`source` must be a FramesData, a list of them, a PotentialData or the node of a loop, is "
        f"a {type(source).__name__}"
    )


def _made(node: FramesData, process: str, link: str, kind: type, into: str = "frames") -> list[Any]:
    """Outputs of the jobs of one kind that took this node, oldest first."""
    query = orm.QueryBuilder()
    query.append(orm.Node, filters={"id": node.pk}, tag="given")
    query.append(
        orm.CalcJobNode,
        filters={"process_type": f"aiida.calculations:{process}"},
        with_incoming="given",
        edge_filters={"label": into},
        tag="job",
    )
    query.append(kind, with_incoming="job", edge_filters={"label": link}, tag="made")
    return _by_age(query.all(flat=True))


def _by_age(nodes: Iterable[Any]) -> list[Any]:
    """The oldest first; PKs do not say that of nodes that came in an archive."""
    return sorted(nodes, key=lambda node: (node.ctime, node.pk))


def _gathered(node: FramesData, siblings: set[int]) -> FramesData:
    """The set into which the jobs of one search were joined."""
    query = orm.QueryBuilder()
    query.append(orm.Node, filters={"id": node.pk}, tag="given")
    query.append(
        orm.CalcFunctionNode,
        filters={"attributes.process_label": {"in": ["gather_generated", "merge_frames"]}},
        with_incoming="given",
        tag="joining",
    )
    for joining in query.all(flat=True):
        parts = [link.node for link in joining.base.links.get_incoming().all()]
        sets = {part.pk for part in parts if isinstance(part, FramesData)}
        if sets <= siblings and joining.is_finished_ok:
            joined: FramesData = joining.outputs.result
            return joined
    return node


def _scored(node: FramesData) -> FramesData:
    judged = _made(node, "rm.score", "frames", FramesData)
    return judged[-1] if judged else node


def _row(node: Any, index: int | None, formula: str) -> dict[str, Any]:
    return {
        "pk": node.pk,
        "index": index,
        "formula": formula,
        "type": type(node).__name__,
        "label": node.label,
    }
