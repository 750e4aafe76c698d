"""What all networks see of an edge: Bessel functions, a smooth cutoff, a softened direction."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Directions fade out below this distance (angstrom), so that forces stay finite on overlap.
_SOFTENING = 0.3


def bessel(distances: Tensor, cutoff: float, table: Tensor) -> Tensor:
    """(E, n) spherical Bessel functions of distances (E,) in angstrom, finite at zero.

    ``table`` (n, n) is that of :func:`bessel_from_cosines`.
    """
    return torch.matmul(table, cosines(distances, cutoff, table.shape[0])).T


def cosines(distances: Tensor, cutoff: float, count: int) -> Tensor:
    """(count, E) sinc(x) cos(k pi x), k = 0 .., of x = distance / cutoff: one row a function.

    :func:`bessel_from_cosines` makes Bessel functions of them; it is linear, so it can wait
    until neighbours are summed.
    """
    orders = torch.arange(count, dtype=distances.dtype, device=distances.device)
    x = distances / cutoff
    # sinc, not sin(x) / x: finite, with finite slope, at zero distance.
    return torch.cos(math.pi * orders[:, None] * x) * torch.sinc(x)


def bessel_from_cosines(count: int) -> NDArray[np.float64]:
    """(n, n): sin(n t) / sin(t), n = 1 .., is a sum of cos(k t), k = 0 .. n - 1."""
    table = np.zeros((count, count))
    for row in range(count):
        for k in range(row, -1, -2):
            table[row, k] = 1.0 if k == 0 else 2.0
    return table


def fade(distances: Tensor, cutoff: float) -> Tensor:
    """(E,) from 1 at zero distance to 0 at the cutoff, with two continuous derivatives."""
    x = torch.clamp(distances / cutoff, max=1.0)
    return 1 - x**3 * (10 - 15 * x + 6 * x * x)


def lengths(vectors: Tensor) -> Tensor:
    """(E,) lengths of vectors (E, 3), with a finite slope at zero."""
    return torch.sqrt(squares(vectors) + 1e-12)


def squares(vectors: Tensor) -> Tensor:
    """(E,) squared lengths of vectors (E, 3)."""
    # Sums over columns of three are slow, over rows quick.
    return vectors.T.contiguous().square().sum(0)


def directions(vectors: Tensor) -> Tensor:
    """(E, 3) vectors over their softened lengths; they vanish smoothly at zero."""
    return vectors / torch.sqrt(squares(vectors) + _SOFTENING**2)[:, None]
