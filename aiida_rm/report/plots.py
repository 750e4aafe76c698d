"""Plots of labels, of learning curves, and pictures of structures (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

from aiida_rm.engine.converters import to_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.queries.tables import table_of
from aiida_rm.report.figures import cluster

Path = str | os.PathLike[str]
#: Structures that are drawn, at most.
MOST_DRAWN = 12
#: Different texts that get a colour of their own; the rest shares one.
_COLOURS = 9
#: Units of labels, where they have one; E~ is measured in square angstrom.
_UNITS = {
    "volume_per_atom": "Å$^3$",
    "energy_per_atom": "Å$^2$",
    "energy": "Å$^2$",
    "min_distance": "Å",
    "match_rmsd": "Å",
    "density": "g/cm$^3$",
}
#: What a metric of a training is called in a legend.
_CURVES = {
    "loss": "loss",
    "validation_loss": "loss, held out",
    "force_error": "error of forces",
    "stress_error": "error of stress",
}


def plot_labels(
    frames: Frames,
    path: Path,
    *,
    x: str | None = None,
    y: str | None = None,
    colour: str | None = None,
) -> None:
    """Plot one label of structures against another, or how often each value is.

    Args:
        frames: the structures.
        path: picture to write; the ending gives the format.
        x: label along x; None: the volume per atom, or the number of atoms where there is none.
        y: label along y; None: E~ per atom where it is known and no ``x`` was asked for.
        colour: label by which points are coloured.

    Raises:
        ValueError: a label is not there, or holds nothing to plot.
    """
    table = table_of(frames)
    if x is None:
        x = "volume_per_atom" if np.isfinite(table["volume_per_atom"]).any() else "n_atoms"
        y = y or ("energy_per_atom" if "energy_per_atom" in table else None)
    for name in (x, y, colour):
        if name is not None and name not in table:
            raise ValueError(f"there is no label '{name}'; there are {', '.join(table)}")
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    if y is None:
        _count(axes, table[x], x)
    else:
        _scatter(axes, table, x, y, colour)
        axes.set_ylabel(_title(y))
    axes.set_xlabel(_title(x))
    figure.savefig(path, dpi=150)


def plot_curves(metrics: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Plot the learning curves of a training.

    Args:
        metrics: a table an epoch, as the engine writes them.
        path: picture to write.
        title: above it.

    Raises:
        ValueError: there are none.
    """
    rows = [row for row in metrics if "epoch" in row]
    if not rows:
        raise ValueError("the training left no learning curve")
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    for name, label in _CURVES.items():
        points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker=".", label=label)
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("relative to the spread of the targets")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def draw_structures(frames: Frames, path: Path) -> None:
    """Draw the first structures, each with what it is called."""
    count = min(len(frames), MOST_DRAWN)
    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(2.6 * columns, 2.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    for index in range(count):
        plot_atoms(cluster(to_ase(frames, index)), axes[index], radii=0.35, rotation="-78x,12y,0z")
        axes[index].set_title(_caption(frames, index), fontsize=8, parse_math=False)
    figure.savefig(path, dpi=150)


def _caption(frames: Frames, index: int) -> str:
    labels = frames.structure
    parts = [frames.formula(index)]
    for name in ("match", "name"):
        if name in labels and str(labels[name][index]):
            parts.append(str(labels[name][index])[:24])
            break
    if "energy_per_atom" in labels:
        parts.append(f"{labels['energy_per_atom'][index]:.3f}")
    return ", ".join(parts)


def _title(name: str) -> str:
    words = {"energy_per_atom": "E~ per atom", "energy": "E~"}.get(name, name.replace("_", " "))
    return f"{words} ({_UNITS[name]})" if name in _UNITS else words


def _count(axes: Any, values: Any, name: str) -> None:
    if values.dtype.kind in "Ub":
        names, counts = np.unique(values.astype(str), return_counts=True)
        order = np.argsort(-counts, kind="stable")[:30]
        axes.barh([_shown(text) for text in names[order]][::-1], counts[order][::-1])
        axes.set_xlabel("structures")
        return
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError(f"the label '{name}' holds no finite number")
    axes.hist(finite, bins=min(50, max(10, len(finite) // 10)))
    axes.set_ylabel("structures")


def _scatter(axes: Any, table: Mapping[str, Any], x: str, y: str, colour: str | None) -> None:
    for name in (x, y):
        if table[name].dtype.kind not in "iufb":
            raise ValueError(f"the label '{name}' is no number; leave --x alone to count texts")
    good = np.isfinite(table[x].astype(float)) & np.isfinite(table[y].astype(float))
    if not good.any():
        raise ValueError(f"no structure has both a finite '{x}' and a finite '{y}'")
    xs, ys = table[x][good], table[y][good]
    if colour is None:
        axes.scatter(xs, ys, s=12, alpha=0.6)
        return
    values = table[colour][good]
    if values.dtype.kind == "f":
        axes.figure.colorbar(axes.scatter(xs, ys, c=values, s=12), label=_title(colour))
        return
    texts = values.astype(str)
    names, counts = np.unique(texts, return_counts=True)
    named = names[np.argsort(-counts, kind="stable")][:_COLOURS]
    for name in named:
        axes.scatter(xs[texts == name], ys[texts == name], s=12, label=_shown(name))
    rest = ~np.isin(texts, named)
    if rest.any():
        axes.scatter(xs[rest], ys[rest], s=12, color="0.7", label="others")
    axes.legend(fontsize=8, title=colour.replace("_", " "))


def _shown(text: str) -> str:
    """A text of a user's, which must not be taken for mathematics."""
    return (text[:30] or "none").replace("$", r"\$").lstrip("_")
