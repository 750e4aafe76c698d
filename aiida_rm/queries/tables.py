"""Structures as tables: a row each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import reduce
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from aiida_rm.data.frames import FramesData
from aiida_rm.data.selection import select_indices
from aiida_rm.engine.elements import hill_formula, parse_formula
from aiida_rm.engine.frames import Frames

if TYPE_CHECKING:
    from pandas import DataFrame


def table_of(frames: Frames, indices: ArrayLike | None = None) -> dict[str, Any]:
    """Columns of structures.

    Args:
        frames: where they are.
        indices: (N,) which ones; None: all.

    Returns:
        (N,) arrays: ``index``, ``formula`` (Hill), ``n_atoms``, ``volume_per_atom`` (cubic
        angstrom; NaN of molecules), and every label with one value a structure.
    """
    chosen = np.arange(len(frames)) if indices is None else np.asarray(indices, np.int64)
    part = frames.select(chosen)
    labels = {name: values for name, values in part.structure.items() if values.ndim == 1}
    names = [*(name for name in _NEXT if name in labels), *labels]
    return {
        "index": chosen,
        "formula": np.array(part.formulas(), dtype=str),
        "n_atoms": part.counts,
        "volume_per_atom": part.volumes / part.counts,
        **{name: labels[name] for name in names if name not in _OWN},
    }


#: Labels that come next where they are there: what people look for.
_NEXT = (
    "name",
    "energy_per_atom",
    "energy_percentile",
    "latent_percentile",
    "ranking",
    "match",
    "smiles",
    "spacegroup",
    "valid",
    "unique",
    "novel",
)
#: Columns that a label must not replace: generate's `index` is that of the start.
_OWN = ("index", "formula", "n_atoms", "volume_per_atom")


def structures(
    nodes: FramesData | Iterable[FramesData], rules: Mapping[str, Any] | None = None
) -> DataFrame:
    """All structures of one or many sets as one table.

    Args:
        nodes: the sets.
        rules: which structures, as in :mod:`aiida_rm.data.selection`; they apply to each set.

    Returns:
        ``pk``, ``index``, then the columns of :func:`table_of`; NaN where a set lacks a label.

    Raises:
        RuleError: a rule cannot be applied to one of the sets.
    """
    import pandas as pd

    sets = [nodes] if isinstance(nodes, FramesData) else list(nodes)
    parts = []
    for node in sets:
        frames = node.get_frames()
        columns = table_of(frames, select_indices(frames, rules) if rules else None)
        parts.append(pd.DataFrame({"pk": node.pk, **columns}))
    parts = [part for part in parts if len(part)] or parts[:1]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["pk", *_OWN])


def holds_formula(attributes: Mapping[str, Any], pk: int, formula: str) -> bool:
    """Whether a set holds a structure of this formula, of these atoms and so many.

    Args:
        attributes: of its node; only where they do not say it, the set itself is read.
        pk: of its node.
        formula: in any order, such as ``SiO2``.

    Raises:
        ValueError: this is no formula.
    """
    from aiida import orm

    wanted = hill_formula(parse_formula(formula))
    if wanted in attributes["formulas"]:
        return True
    if not attributes["formulas_other"]:
        return False
    node: Any = orm.load_node(pk)
    return wanted in bare(node).formulas()


def bare(node: FramesData) -> Frames:
    """The structures without labels, which are most of the files of a scored set."""
    core = ("numbers", "positions", "cells", "pbc", "ptr")
    return Frames.from_arrays({name: node.get_array(name) for name in core})


def label(node: FramesData, name: str) -> Any:
    """One label of structures, or None."""
    return node.get_array(f"structure_{name}") if name in node.structure_labels else None


def reduced(formula: str) -> str:
    """Hill formula of the smallest whole numbers.

    Raises:
        ValueError: this is no formula.
    """
    counts = parse_formula(formula)
    common = reduce(gcd, counts.values())
    return hill_formula({symbol: count // common for symbol, count in counts.items()})
