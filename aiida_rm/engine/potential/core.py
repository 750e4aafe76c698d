"""The repulsion of overlapping atoms (arXiv:2405.09057): part of the response and the potential.

    v(r) = strength (1 - r^2 / rc^2)^2  inside  rc = scale (R_i + R_j),  0 outside,

with covalent radii R. It is finite, with finite forces, at any distance, zero included. The network
sees a pair less and less inside rc and not at all inside rc / 2 (:func:`visibility`), so nothing
that it learns can undo the repulsion there.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.elements import RADII

#: The network does not see a pair nearer than this share of its core radius.
_BLIND = 0.5


def core_radii(numbers: Tensor, edge_index: Tensor, scale: float, covalent: Tensor) -> Tensor:
    """(E,) rc of each edge in angstrom, from numbers (A,), edges (2, E) and RADII as a tensor."""
    radii = scale * covalent.index_select(0, numbers)
    return radii.index_select(0, edge_index[0]) + radii.index_select(0, edge_index[1])


def largest_core(numbers: np.ndarray, scale: float) -> float:
    """The largest rc, in angstrom, among these atomic numbers."""
    return 2 * scale * max(RADII[int(number)] for number in np.unique(numbers))


def core_energy(squared_distances: Tensor, radii: Tensor, strength: float) -> Tensor:
    """Repulsion of each pair, (E,), from squared distances (E,) and core radii (E,)."""
    inside = torch.clamp(1.0 - squared_distances / radii**2, min=0.0)
    return strength * inside.square()


def visibility(distances: Tensor, radii: Tensor) -> Tensor:
    """(E,) from 0 within half the core radius to 1 outside it, with two continuous derivatives."""
    x = torch.clamp((distances / radii - _BLIND) / (1 - _BLIND), 0.0, 1.0)
    return x**3 * (10 - 15 * x + 6 * x * x)
