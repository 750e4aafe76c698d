"""How far a relaxation moved a structure, whatever program relaxed it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.cells import complete_cell

Array = NDArray[Any]


def moved_rmsd(
    before: Array, after: Array, cell_before: Array, cell_after: Array, pbc: Array
) -> float:
    """Root mean square displacement of atoms in the same order, in angstrom.

    Molecules are laid upon each other by the rotation that makes it smallest (Kabsch,
    doi:10.1107/S0567739476001873). Of crystals, fractional coordinates are compared, each to its
    nearest image and without the common shift, in the mean of both cells' metric tensors: neither
    a rotation of the cell nor its change of size alone counts.

    Args:
        before: (N, 3) Cartesian, in angstrom.
        after: the same, later.
        cell_before: (3, 3) rows are lattice vectors, in angstrom.
        cell_after: the same, later.
        pbc: (3,) periodic directions.
    """
    if not np.any(pbc):
        return _laid_upon(before, after)
    old, new = complete_cell(cell_before, pbc), complete_cell(cell_after, pbc)
    steps = after @ np.linalg.inv(new) - before @ np.linalg.inv(old)
    steps -= np.where(pbc, np.round(steps), 0.0)
    steps -= steps.mean(axis=0)
    metric = 0.5 * (old @ old.T + new @ new.T)
    return float(np.sqrt(np.mean(np.einsum("ni,ij,nj->n", steps, metric, steps))))


def _laid_upon(before: Array, after: Array) -> float:
    one, two = before - before.mean(axis=0), after - after.mean(axis=0)
    left, _, right = np.linalg.svd(two.T @ one)
    # A reflection is another molecule.
    signs = np.array([1.0, 1.0, np.sign(np.linalg.det(left @ right)) or 1.0])
    rotation = left @ np.diag(signs) @ right
    return float(np.sqrt(np.mean(np.sum((two @ rotation - one) ** 2, axis=1))))
