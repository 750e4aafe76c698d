"""The data provenance of a node as a picture: what was made by what, back to the beginning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx
from aiida import orm
from aiida.common.links import LinkType

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.states import state_of

#: Nodes of one picture, at most.
_MOST_NODES = 120
#: Width and height of a box, and the distances between boxes.
BOX = (168, 44)
_GAP = (28, 34)
#: These stand in the picture; settings, codes and the like are told with the job they went into.
_SHOWN = (FramesData, PotentialData, TrainingStateData, orm.StructureData)
_LINKS = (LinkType.INPUT_CALC, LinkType.CREATE)
#: Inputs of one type that are drawn of one process.
_MOST_ALIKE = 4
#: Characters of one line of details.
_LONGEST = 600

#: A label and the node that a link comes from.
Link = tuple[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True)
class Box:
    """One node in the picture.

    Attributes:
        pk: of the node.
        kind: ``data`` or ``process``.
        title: a word or two.
        text: what it holds, or how it ended.
        details: lines for whoever chooses it.
        x: left edge.
        y: upper edge.
    """

    pk: int
    kind: str
    title: str
    text: str
    details: tuple[str, ...]
    x: float
    y: float


@dataclass(frozen=True)
class Picture:
    """Boxes, and the lines between them as paths of SVG."""

    boxes: tuple[Box, ...]
    lines: tuple[str, ...]
    width: float
    height: float
    cut: bool


class Drawer:
    """Draws what nodes were made of; what it has read of the database it keeps."""

    def __init__(self) -> None:
        self._incoming: dict[int, list[Link]] = {}

    def draw(self, node: Any) -> Picture:
        """All that a data node was made of, oldest first."""
        graph, cut = self._ancestors(node)
        _set_layers(graph)
        places = _places(graph)
        boxes = tuple(
            _box(graph.nodes[pk]["node"], self._incoming.get(pk, ()), *places[pk])
            for pk in sorted(graph)
        )
        right = [_beside(places, a, b) for a, b in graph.edges]
        lines = tuple(
            _line(places[a], places[b], x) for (a, b), x in zip(graph.edges, right, strict=True)
        )
        width = max(max(x for x, _ in places.values()) + BOX[0], *right, 0.0)
        height = max(y for _, y in places.values()) + BOX[1]
        return Picture(boxes, lines, width, height, cut)

    def _ancestors(self, node: Any) -> tuple[Any, bool]:
        graph = nx.DiGraph()
        graph.add_node(node.pk, node=node)
        layer = [node.pk]
        while layer and len(graph) < _MOST_NODES:
            self._read(layer)
            before: dict[int, None] = {}
            for pk in layer:
                for label, other in _shown(self._incoming[pk]):
                    if other.pk not in graph:
                        graph.add_node(other.pk, node=other)
                        before[other.pk] = None
                    graph.add_edge(other.pk, pk, label=label)
            layer = [*before]
        return graph, bool(layer)

    def _read(self, pks: list[int]) -> None:
        """The links that lead to these nodes: one query for all of them."""
        wanted = [pk for pk in pks if pk not in self._incoming]
        if not wanted:
            return
        self._incoming |= {pk: [] for pk in wanted}
        query = orm.QueryBuilder()
        query.append(orm.Node, filters={"id": {"in": wanted}}, project="id", tag="made")
        query.append(
            orm.Node,
            with_outgoing="made",
            project="*",
            edge_project=["label", "id"],
            edge_filters={"type": {"in": [link.value for link in _LINKS]}},
        )
        for pk, other, label, _ in sorted(query.all(), key=lambda row: row[3]):
            self._incoming[pk].append((label, other))


def _shown(links: Iterable[Link]) -> Iterator[Link]:
    """The links to what stands in the picture; of a hundred of one kind only a few."""
    kinds: Counter[type[orm.Node]] = Counter()
    for label, node in links:
        kinds[type(node)] += 1
        wanted = isinstance(node, (orm.ProcessNode, *_SHOWN))
        if wanted and kinds[type(node)] <= _MOST_ALIKE:
            yield label, node


def _set_layers(graph: Any) -> None:
    """Oldest first; what was made of nothing stands right above the first that took it."""
    for layer, members in enumerate(nx.topological_generations(graph)):
        for pk in members:
            graph.nodes[pk]["layer"] = layer
    for pk in graph:
        after = [graph.nodes[other]["layer"] for other in graph.successors(pk)]
        if after and not graph.in_degree(pk):
            graph.nodes[pk]["layer"] = min(after) - 1


def _beside(places: dict[int, Point], above: int, below: int) -> float:
    """How far to the right a line must go to pass the boxes between; 0 where there are none."""
    top, bottom = places[above][1], places[below][1]
    between = [x for x, y in places.values() if top < y < bottom]
    if not between:
        return 0.0
    ends = (places[above][0], places[below][0])
    # Long lines run outside of short ones.
    return max(*between, *ends) + BOX[0] + _GAP[0] / 2 + 0.05 * (bottom - top)


def _line(above: Point, below: Point, right: float) -> str:
    """From one box down to the next, or around those between them, at ``right``."""
    width, height = BOX
    if not right:
        x1, y1, x2, y2 = above[0] + width / 2, above[1] + height, below[0] + width / 2, below[1]
        return f"M{x1:g},{y1:g} C{x1:g},{y1 + 20:g} {x2:g},{y2 - 20:g} {x2:g},{y2:g}"
    x1, y1, x2, y2 = (
        above[0] + width,
        above[1] + height / 2,
        below[0] + width,
        below[1] + height / 2,
    )
    bend = _GAP[0]
    return (
        f"M{x1:g},{y1:g} C{right:g},{y1:g} {right:g},{y1:g} {right:g},{y1 + bend:g} "
        f"V{y2 - bend:g} C{right:g},{y2:g} {right:g},{y2:g} {x2:g},{y2:g}"
    )


def _places(graph: Any) -> dict[int, tuple[float, float]]:
    """Layers from top to bottom; within one, each near what it was made of."""
    layers: dict[int, list[int]] = {}
    for pk, attributes in graph.nodes(data=True):
        layers.setdefault(attributes["layer"], []).append(pk)
    widest = max(map(len, layers.values()))
    step = BOX[0] + _GAP[0]
    places: dict[int, tuple[float, float]] = {}
    for layer in sorted(layers):
        members = sorted(layers[layer], key=lambda pk: (_mean(graph, pk, places), pk))
        left = (widest - len(members)) * step / 2
        for number, pk in enumerate(members):
            places[pk] = (left + number * step, layer * (BOX[1] + _GAP[1]))
    return places


def _mean(graph: Any, pk: int, places: dict[int, tuple[float, float]]) -> float:
    above = [places[other][0] for other in graph.predecessors(pk) if other in places]
    return sum(above) / len(above) if above else 0.0


def _box(node: Any, links: Iterable[Link], x: float, y: float) -> Box:
    pk: int = node.pk
    if isinstance(node, orm.ProcessNode):
        title = (node.process_label or "process").removesuffix("Calculation")
        return Box(pk, "process", title, _ended(node), tuple(_of_process(node, links)), x, y)
    return Box(pk, "data", type(node).__name__, _holds(node), tuple(_of_data(node)), x, y)


def _ended(node: Any) -> str:
    if node.is_finished_ok:
        return "finished"
    return f"[{node.exit_status}]" if node.is_finished else state_of(node)


def _holds(node: Any) -> str:
    if isinstance(node, FramesData):
        return f"{node.n_structures} structure{'' if node.n_structures == 1 else 's'}"
    if isinstance(node, PotentialData):
        return ", ".join(node.elements)
    if isinstance(node, orm.StructureData):
        return str(node.get_formula())
    return str(node.label)


def _of_data(node: Any) -> Iterator[str]:
    yield f"{type(node).__name__} <{node.pk}> {node.label}".strip()
    yield f"UUID {node.uuid}"
    yield f"made {node.ctime:%Y-%m-%d %H:%M}"
    if isinstance(node, FramesData):
        yield f"{node.n_structures} structures, {node.n_atoms} atoms: {', '.join(node.elements)}"
        yield f"labels: {', '.join(node.structure_labels) or 'none'}"


def _of_process(node: Any, links: Iterable[Link]) -> Iterator[str]:
    yield f"{node.process_label} <{node.pk}> {node.label}".strip()
    yield f"UUID {node.uuid}"
    yield f"{_ended(node)}, {node.ctime:%Y-%m-%d %H:%M}"
    if isinstance(node, orm.CalcJobNode) and node.computer is not None:
        yield f"on {node.computer.label}"
    alike = Counter(type(other) for _, other in links)
    for kind, count in alike.items():
        if issubclass(kind, _SHOWN) and count > _MOST_ALIKE:
            yield f"{count} {kind.__name__} went in, {_MOST_ALIKE} of them are drawn"
    for label, other in links:
        if isinstance(other, orm.Dict):
            values = ", ".join(f"{key}: {value}" for key, value in other.get_dict().items())
            yield f"{label} <{other.pk}>: {values}"[:_LONGEST]
        elif isinstance(other, orm.AbstractCode):
            yield f"{label}: {other.full_label}"
