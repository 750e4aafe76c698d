"""A batch of structures at the beginning of their way."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.relaxation import fire, lbfgs, noise
from aiida_rm.engine.relaxation.batch import Batch


def enter(frames: Frames, rows: Sequence[int], dtype: torch.dtype, device: torch.device) -> Batch:
    """The starts in these rows.

    Their random numbers depend on the labels ``seed`` and ``index``, or on 0 and the row.
    """
    part = frames.select(rows)
    count, atoms = len(rows), part.n_atoms

    def real(value: Any) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=dtype, device=device)

    def whole(value: Any) -> Tensor:
        return torch.as_tensor(np.asarray(value), dtype=torch.int64, device=device)

    def flags(value: bool) -> Tensor:
        return torch.full((count,), value, device=device)

    zeros, none = real(np.zeros(count)), whole(np.zeros(count))
    past = real(np.zeros((atoms, lbfgs.MEMORY, 3)))
    past_cells = real(np.zeros((count, 3, lbfgs.MEMORY, 3)))
    positions, cells = real(part.positions), real(part.cells)
    labels = part.structure
    seeds = labels.get("seed", np.zeros(count, np.int64))
    return Batch(
        numbers=whole(part.numbers),
        positions=positions,
        velocities=real(np.zeros((atoms, 3))),
        counts=whole(part.counts),
        cells=cells,
        pbc=torch.as_tensor(part.pbc, device=device),
        cell_velocities=real(np.zeros((count, 3, 3))),
        row=whole(rows),
        key=noise.hashed(none, whole(seeds), whole(labels.get("index", rows))),
        stage=none,
        steps=none,
        stage_steps=none,
        cycle=none,
        dt=torch.full_like(zeros, fire.START_DT),
        alpha=torch.full_like(zeros, fire.START_ALPHA),
        downhill=none,
        started=flags(False),
        past_moves=past,
        past_changes=past,
        past_strains=past_cells,
        past_pulls=past_cells,
        weights=real(np.zeros((count, lbfgs.MEMORY))),
        done=flags(False),
        status=none,
        energy=zeros,
        penalty=zeros,
        fmax=torch.full_like(zeros, torch.inf),
        kept_positions=positions,
        kept_atom_energy=torch.zeros_like(positions[:, 0]),
        kept_cells=cells,
        kept_value=torch.full_like(zeros, torch.inf),
        best_positions=positions,
        best_cells=cells,
        best_value=torch.full_like(zeros, torch.inf),
        edge_index=whole(np.zeros((2, 0))),
        shifts=real(np.zeros((0, 3))),
        listed_positions=positions,
        listed_cells=cells,
        stale=flags(True),
    )
