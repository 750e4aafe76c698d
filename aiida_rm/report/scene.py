"""A structure as balls, sticks and the edges of its cell, for a view that turns."""

from __future__ import annotations

import base64
import io
import itertools
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.data.colors import jmol_colors
from ase.neighborlist import neighbor_list
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

from aiida_rm.engine.converters import to_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.report.figures import cluster

#: Atoms nearer than this times the sum of their covalent radii are joined by a stick.
_BOND = 1.2


def make_scene(frames: Frames) -> dict[str, Any]:
    """The first structure; of a crystal, enough of it to see how it goes on.

    Returns:
        ``atoms``: x, y, z in angstrom, colour, radius and symbol of each; ``bonds``: pairs of
        atoms; ``cell``: the twelve edges, two points each, or none.
    """
    atoms = to_ase(frames, 0)
    shown = cluster(atoms)
    middle = shown.positions.mean(0)
    shown.positions -= middle
    radii = covalent_radii[shown.numbers]
    return {
        "atoms": {
            **{axis: _short(shown.positions[:, i]) for i, axis in enumerate("xyz")},
            "colour": [_hex(jmol_colors[number]) for number in shown.numbers],
            "radius": _short(radii),
            "symbol": shown.get_chemical_symbols(),
        },
        "bonds": _bonds(shown, radii),
        "cell": _edges(atoms, middle),
    }


def thumbnail(frames: Frames) -> str:
    """A small picture of the first structure as the address of an image (PNG within it)."""
    figure = Figure(figsize=(1.6, 1.6), layout="constrained")
    axes = figure.subplots()
    plot_atoms(cluster(to_ase(frames, 0)), axes, radii=0.35, rotation="-78x,12y,0z")
    axes.set_axis_off()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=90, transparent=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def _bonds(atoms: Atoms, radii: Any) -> list[list[int]]:
    free = atoms.copy()
    free.pbc = False
    first, second = neighbor_list("ij", free, (_BOND * radii).tolist())
    return [[int(i), int(j)] for i, j in zip(first, second, strict=True) if i < j]


def _edges(atoms: Atoms, middle: Any) -> list[list[list[float]]]:
    if not atoms.pbc.all():
        return []
    corners = list(itertools.product((0, 1), repeat=3))
    edges = []
    for a, b in itertools.combinations(corners, 2):
        if sum(np.abs(np.subtract(a, b))) == 1:
            edges.append([_short(np.dot(corner, atoms.cell.array) - middle) for corner in (a, b)])
    return edges


def _short(values: Any) -> list[float]:
    return [round(float(value), 3) for value in values]


def _hex(colour: Any) -> str:
    return "#" + "".join(f"{round(255 * float(part)):02x}" for part in colour)
