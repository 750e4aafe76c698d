"""Where one structure came from: back through sets and jobs to the row of a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.source import SOURCE_EXTRA
from aiida_rm.queries.tables import bare
from aiida_rm.queries.tables import label as label_of

if TYPE_CHECKING:
    from pandas import DataFrame

#: Labels that hold the row in the set before, by the process that wrote them.
_ROW_LABELS = {
    "select_frames": ("frames", "source_index"),
    "choose_candidates": ("frames", "scored_row"),
    "PerturbCalculation": ("frames", "parent"),
    "RelaxCalculation": ("frames", "row"),
}
#: Processes whose row i is row i of what they were given.
_SAME_ROW = {
    "ScoreCalculation": "frames",
    "gather_verdicts": "frames",
    "join_verdicts": "candidates",
}


@dataclass(frozen=True)
class Step:
    """One node on the way back.

    Attributes:
        pk: of the node.
        type: its class.
        index: the row in it; None where the node as a whole is meant.
        formula: of the structure; empty of a potential or a whole set.
        made_by: label of the process that made the node; empty for what was stored by hand.
        process: PK of that process, or None.
        note: what else is known: the name of the structure, the file of the dataset.
    """

    pk: int
    type: str
    index: int | None
    formula: str
    made_by: str
    process: int | None
    note: str = ""


def lineage(node: orm.StructureData | FramesData, index: int | None = None) -> DataFrame:
    """The steps of :func:`trace` as a table, the structure itself first."""
    import pandas as pd

    names = list(Step.__dataclass_fields__)
    table = pd.DataFrame([vars(step) for step in trace(node, index)], columns=names)
    return table.astype({"index": "Int64", "process": "Int64"})


def trace(node: orm.StructureData | FramesData, index: int | None = None) -> list[Step]:
    """Walk from a structure back to its source.

    A structure that was generated from a random start comes from no single row of the dataset:
    behind its generation stand the potential, and the dataset (with its row where it holds only
    one) on which that was trained. One that was made of a given structure (``starts``), selected,
    judged or perturbed leads back row by row.

    Args:
        node: a StructureData, or a set.
        index: which structure of the set.

    Raises:
        ValueError: a set without an index.
        IndexError: there is no such structure.
        TypeError: the node is something else.
    """
    if isinstance(node, FramesData):
        if index is None:
            raise ValueError(f"<{node.pk}> holds {len(node)} structures; say the index of one")
        if not 0 <= index < len(node):
            raise IndexError(f"<{node.pk}> holds structures 0 to {len(node) - 1}, not {index}")
    elif not isinstance(node, orm.StructureData):
        raise TypeError(f"a {type(node).__name__} is no structure and no set of structures")
    return list(_walk(node, index))


def _walk(node: Any, index: int | None) -> Iterator[Step]:
    while node is not None:
        yield _step(node, index)
        node, index = _before(node, index)


def _before(node: Any, index: int | None) -> tuple[Any, int | None]:
    """The node before and the row in it; None at the source."""
    creator = node.creator
    if creator is None:
        return None, None
    label, inputs = creator.process_label, creator.inputs
    if isinstance(node, PotentialData):
        return _whole(inputs.frames) if "frames" in inputs else (None, None)
    if label == "extract_structure":
        return inputs.frames, inputs.index.value
    if not isinstance(node, FramesData):
        return None, None  # a structure that another plugin made
    if index is None:
        # Of copies that were made of a dataset as a whole.
        return _whole(inputs.frames) if label == "PerturbCalculation" else (None, None)
    return _row_before(node, index, label, inputs)


def _row_before(node: FramesData, index: int, label: str, inputs: Any) -> tuple[Any, int | None]:
    if label in _SAME_ROW:
        return inputs[_SAME_ROW[label]], index
    if label in _ROW_LABELS:
        name, row = _ROW_LABELS[label]
        return inputs[name], int(label_of(node, row)[index])
    if label == "frames_from_structures":
        return inputs[sorted(inputs)[index]], None
    joined = {"merge_frames": _part, "gather_generated": _gathered}.get(label)
    if joined is not None:
        return joined(inputs, index)
    if label == "GenerateCalculation":
        return _start(node, index, inputs)
    return None, None


def _part(inputs: Any, index: int) -> tuple[FramesData, int]:
    """The set, among those that were joined in the order of their keys, and the row in it."""
    keys = sorted(name for name in inputs if name != "labels")
    return _split([inputs[key] for key in keys], index)


def _gathered(inputs: Any, index: int) -> tuple[FramesData, int]:
    """The job's set and the row in it, of a set that is in order of the label `index`."""
    sets = [inputs[key] for key in sorted(inputs)]
    order = np.argsort(np.concatenate([label_of(one, "index") for one in sets]), kind="stable")
    return _split(sets, int(order[index]))


def _split(sets: list[Any], row: int) -> tuple[FramesData, int]:
    """Which of several sets a row of all of them is in, and the row there."""
    for part in sets[:-1]:
        if row < len(part):
            return part, row
        row -= len(part)
    return sets[-1], row


def _start(node: FramesData, index: int, inputs: Any) -> tuple[Any, int | None]:
    """The structure that a start was made of; of a random start, the potential."""
    starts = label_of(node, "start")
    if starts is not None and starts[index] >= 0 and "starts" in inputs:
        return inputs.starts, int(starts[index])
    return inputs.potential, None


def _whole(node: FramesData) -> tuple[FramesData, int | None]:
    """A set as a whole; of a dataset of one structure, that structure."""
    return node, 0 if len(node) == 1 else None


def _step(node: Any, index: int | None) -> Step:
    formula, notes = "", []
    if isinstance(node, FramesData):
        if index is None:
            notes.append(f"{len(node)} structures")
        else:
            formula = bare(node).formula(index)
            for name in ("name", "id"):
                values = label_of(node, name)
                if values is not None and str(values[index]):
                    notes.append(f"{name} {values[index]}")
        source = node.base.extras.get(SOURCE_EXTRA, None)
        if source:
            notes.append(f"from the file {source['file']}")
    elif isinstance(node, orm.StructureData):
        formula = str(cast("Any", node).get_formula("hill", ""))
    if node.label:
        notes.append(f"label {node.label}")
    creator = node.creator
    return Step(
        node.pk,
        type(node).__name__,
        index,
        formula,
        creator.process_label if creator else "",
        creator.pk if creator else None,
        ", ".join(notes),
    )
