"""What all networks see of an edge: Bessel functions, a smooth cutoff, a softened direction."""

from __future__ import annotations

import torch
from torch import Tensor

#: Directions fade out below this distance (angstrom), so that forces stay finite on overlap.
_SOFTENING = 0.3


def bessel(distances: Tensor, cutoff: float, count: int) -> Tensor:
    """(E, count) spherical Bessel functions of distances (E,) in angstrom, finite at zero."""
    orders = torch.arange(1, count + 1, dtype=distances.dtype, device=distances.device)
    # sinc, not sin(x) / x: finite, with finite slope, at zero distance.
    return torch.sinc(orders * (distances / cutoff)[:, None]) * orders


def fade(distances: Tensor, cutoff: float) -> Tensor:
    """(E,) from 1 at zero distance to 0 at the cutoff, with two continuous derivatives."""
    x = torch.clamp(distances / cutoff, max=1.0)
    return 1 - x**3 * (10 - 15 * x + 6 * x * x)


def lengths(vectors: Tensor) -> Tensor:
    """(E,) lengths of vectors (E, 3), with a finite slope at zero."""
    return torch.sqrt(vectors.square().sum(-1) + 1e-12)


def directions(vectors: Tensor) -> Tensor:
    """(E, 3) vectors over their softened lengths; they vanish smoothly at zero."""
    return vectors / torch.sqrt(vectors.square().sum(-1) + _SOFTENING**2)[:, None]
