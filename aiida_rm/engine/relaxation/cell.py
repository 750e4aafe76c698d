"""The cell as nine more coordinates: N x strain, where N is the number of atoms.

The cell moves by exponential strains of the cell as it is now, h <- h exp(dL), and the atoms move
along. The derivative of E~ along dL is exactly V x stress, and a traceless dL keeps the volume
exactly. N makes a strain comparable with the displacement of an atom, as in ASE's filters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.settings import CELL_MODES

_FIXED, _SHAPE, _HYDROSTATIC = (
    CELL_MODES.index(mode) for mode in ("fixed", "shape", "hydrostatic")
)


def allowed(matrices: Tensor, mode: Tensor, periodic: Tensor) -> Tensor:
    """(S, 3, 3) the part along which the cell may move, by mode (S,); none without a cell."""
    one = torch.eye(3, dtype=matrices.dtype, device=matrices.device)
    trace = torch.diagonal(matrices, dim1=1, dim2=2).mean(-1)[:, None, None] * one
    moving = (periodic & (mode != _FIXED))[:, None, None]
    matrices = torch.where((mode == _SHAPE)[:, None, None], matrices - trace, matrices)
    matrices = torch.where((mode == _HYDROSTATIC)[:, None, None], trace, matrices)
    return torch.where(moving, matrices, 0.0)


def pull(batch: Batch, virial: Tensor, expansion: Tensor, mode: Tensor) -> Tensor:
    """(S, 3, 3) minus the slope along N x strain, in the allowed directions.

    Args:
        batch: the structures.
        virial: (S, 3, 3) slope of the energy along a strain.
        expansion: (S,) p x V.
        mode: (S,) of the cell.
    """
    one = torch.eye(3, dtype=virial.dtype, device=virial.device)
    slope = virial + expansion[:, None, None] * one
    return allowed(-slope / batch.counts[:, None, None], mode, batch.pbc.all(1))


def _exponential(strains: Tensor) -> Tensor:
    """exp(strains) (S, 3, 3), of strains below 1.

    The series of the eighth part, to the eighth power. Torch's own looks at the sizes first, for
    which it would wait for a GPU.
    """
    one = torch.eye(3, dtype=strains.dtype, device=strains.device)
    part, found = strains / 8, one.expand_as(strains)
    for order in range(8, 0, -1):
        found = one + torch.bmm(part, found) / order
    for _ in range(3):
        found = torch.bmm(found, found)
    return found


def deform(batch: Batch, moves: Tensor, strains: Tensor) -> None:
    """Strain cells with their atoms (S, 3, 3), then displace atoms (A, 3)."""
    deformation = _exponential(strains)
    batch.cells = torch.bmm(batch.cells, deformation)
    carried = torch.bmm(batch.positions[:, None], deformation.index_select(0, batch.owner))
    batch.positions = carried[:, 0] + moves
