"""Real solid harmonics up to l = 3 and the coefficients that couple them to invariants."""

from __future__ import annotations

import functools
import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

L_MAX = 3


def solid_harmonics(vectors: Tensor, l_max: int) -> Tensor:
    """Real solid harmonics, orthonormal on the unit sphere times sqrt(4 pi).

    Polynomials of the components, so they are smooth at the origin, and equivariant for
    vectors of any length.

    Args:
        vectors: (E, 3).
        l_max: 0 to 3.

    Returns:
        (E, (l_max + 1)^2), blocks of 2 l + 1 in rising l.
    """
    x, y, z = vectors.unbind(-1)
    columns = [torch.ones_like(x)]
    if l_max >= 1:
        columns += [math.sqrt(3) * y, math.sqrt(3) * z, math.sqrt(3) * x]
    if l_max >= 2:
        x2, y2, z2 = x * x, y * y, z * z
        columns += [
            math.sqrt(15) * x * y,
            math.sqrt(15) * y * z,
            math.sqrt(5) / 2 * (2 * z2 - x2 - y2),
            math.sqrt(15) * x * z,
            math.sqrt(15) / 2 * (x2 - y2),
        ]
    if l_max >= 3:
        a, b, c = math.sqrt(35 / 8), math.sqrt(105), math.sqrt(21 / 8)
        ring = 4 * z2 - x2 - y2
        columns += [
            a * y * (3 * x2 - y2),
            b * x * y * z,
            c * y * ring,
            math.sqrt(7) / 2 * z * (2 * z2 - 3 * x2 - 3 * y2),
            c * x * ring,
            b / 2 * z * (x2 - y2),
            a * x * (x2 - 3 * y2),
        ]
    return torch.stack(columns, -1)


def monomials(rows: Tensor, l_max: int) -> Tensor:
    """Products of components: 1, x, y, z, xx, xy, xz, yy, yz, zz, xxx, ...

    Args:
        rows: (3, E), the components of vectors.
        l_max: largest number of factors.

    Returns:
        (M, E).
    """
    x, y, z = torch.split(rows, 1)
    degrees = [torch.ones_like(x)]
    if l_max >= 1:
        degrees.append(rows)
    # The last degree by the first letter of its products.
    parts = (x, y, z)
    for _ in range(2, l_max + 1):
        after_y = torch.cat(parts[1:])
        parts = (x * torch.cat([parts[0], after_y]), y * after_y, z * parts[2])
        degrees += parts
    return torch.cat(degrees)


@functools.cache
def harmonics_from_monomials(l_max: int) -> NDArray[np.float64]:
    """((l_max + 1)^2, M) that makes :func:`solid_harmonics` of :func:`monomials`."""
    points = torch.from_numpy(np.random.default_rng(0).uniform(-1, 1, (200, 3)))
    wanted = solid_harmonics(points, l_max).numpy()
    table: NDArray[np.float64] = np.linalg.lstsq(
        monomials(points.T, l_max).numpy().T, wanted, rcond=None
    )[0].T
    table[np.abs(table) < 1e-12] = 0.0
    return table


def triples(l_max: int) -> list[tuple[int, int, int]]:
    """Which (l1 <= l2 <= l3), all above 0, couple to a scalar of even parity."""
    return [
        (i, j, k)
        for i in range(1, l_max + 1)
        for j in range(i, l_max + 1)
        for k in range(j, min(i + j, l_max) + 1)
        if (i + j + k) % 2 == 0
    ]


def gaunt(l1: int, l2: int, l3: int) -> NDArray[np.float64]:
    """Mean over the sphere of the product of three harmonics, scaled to unit norm.

    Contracting three densities with it gives an invariant of four bodies (the centre counts).

    Returns:
        (2 l1 + 1, 2 l2 + 1, 2 l3 + 1).
    """
    # Exact for polynomials of degree 9: Gauss points along z, even ones around it.
    nodes, weights = np.polynomial.legendre.leggauss(8)
    angles = 2 * np.pi * np.arange(16) / 16
    ring = np.sqrt(1 - nodes**2)
    points = np.stack(
        [
            np.outer(ring, np.cos(angles)),
            np.outer(ring, np.sin(angles)),
            np.outer(nodes, np.ones(16)),
        ],
        -1,
    ).reshape(-1, 3)
    harmonics = solid_harmonics(torch.from_numpy(points), max(l1, l2, l3)).numpy()
    blocks = [harmonics[:, ell**2 : (ell + 1) ** 2] for ell in (l1, l2, l3)]
    tensor = np.einsum("p,pa,pb,pc->abc", np.repeat(weights, 16) / 32, *blocks)
    tensor[np.abs(tensor) < 1e-12] = 0.0
    normalised: NDArray[np.float64] = tensor / np.linalg.norm(tensor)
    return normalised
