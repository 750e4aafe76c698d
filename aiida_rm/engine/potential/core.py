"""The repulsion of overlapping atoms (arXiv:2405.09057): part of the response and the potential.

v(r) = strength (1 - r^2 / radius^2)^2 inside the radius, 0 outside. It is finite, with finite
forces, at any distance, zero included.
"""

from __future__ import annotations

import torch
from torch import Tensor


def core_energy(squared_distances: Tensor, radius: float, strength: float) -> Tensor:
    """Repulsion of each pair, (E,), from squared distances (E,) in square angstrom."""
    inside = torch.clamp(1.0 - squared_distances / radius**2, min=0.0)
    return strength * inside.square()
