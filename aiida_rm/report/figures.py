"""Pictures of structures beside what they are compared with (matplotlib)."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

from aiida_rm.engine.converters import to_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.scoring.geometry import measure

#: Atoms in a drawing, at least: enough to see the rings.
_DRAWN_ATOMS = 40


def draw_candidates(
    frames: Frames,
    indices: Sequence[int],
    titles: Sequence[str],
    reference: Frames,
    reference_name: str,
    path: str | os.PathLike[str],
    *,
    radius: float = 6.0,
    bins: int = 120,
) -> None:
    """Draw structures, each with its radial distribution over that of a reference.

    Args:
        frames: where the structures are.
        indices: which ones, at least one, best first.
        titles: a line for each.
        reference: holds the structure to compare with at index 0.
        reference_name: for the legend.
        path: picture to write; the ending gives the format (png, svg, pdf).
        radius: largest distance of the radial distribution, in angstrom.
        bins: its number of bins.
    """
    rows = len(indices)
    figure = Figure(figsize=(9, 2.6 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, width_ratios=(1, 2))
    distances = (np.arange(bins) + 0.5) * radius / bins
    wanted = radial_distribution(reference, 0, radius, bins)
    for row, (index, title) in enumerate(zip(indices, titles, strict=True)):
        picture, curve = axes[row]
        plot_atoms(cluster(to_ase(frames, index)), picture, radii=0.35, rotation="-78x,12y,0z")
        picture.set_axis_off()
        picture.set_title(title, fontsize=9)
        curve.fill_between(distances, wanted, step="mid", color="0.85", label=reference_name)
        curve.step(
            distances,
            radial_distribution(frames, index, radius, bins),
            where="mid",
            color="tab:blue",
            label=title,
        )
        curve.set_xlim(0.8, radius)
        curve.set_ylabel("g(r)")
        curve.legend(fontsize=8, frameon=False)
    axes[-1][1].set_xlabel("distance (Å)")
    figure.savefig(path, dpi=130)


def radial_distribution(frames: Frames, index: int, radius: float, bins: int) -> np.ndarray:
    """(bins,) g(r) of a crystal up to a radius in angstrom."""
    found = measure(frames, index, bond_length=radius, rdf_max=radius, rdf_bins=bins)
    return np.asarray(found.rdf)


def cluster(atoms: Atoms) -> Atoms:
    """Enough copies of a cell to see how it goes on."""
    if not atoms.pbc.all():
        return atoms
    times = np.ones(3, int)
    while len(atoms) * times.prod() < _DRAWN_ATOMS:
        times[np.argmin(atoms.cell.lengths() * times)] += 1
    return atoms.repeat(tuple(times))
