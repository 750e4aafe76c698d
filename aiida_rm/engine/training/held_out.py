"""What a potential says of structures that it was not trained on, beside their targets."""

from __future__ import annotations

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.training.data import WHOLE, Limit, Rows, TrainingData, pack

#: Atoms of them that are kept, at most: a picture needs no more.
MOST_ATOMS = 5000


def held_out(
    potential: Potential, data: TrainingData, rows: Rows, batch_atoms: int, limit: Limit = WHOLE
) -> Frames:
    """Perturbed structures with their targets and what the potential predicts.

    Args:
        potential: a trained one.
        data: the structures with their targets.
        rows: (N,) those that it was not trained on, at least one; evenly taken from them are so
            many that they have ``MOST_ATOMS`` atoms at most (one at least).
        batch_atoms: atoms at once, at most (one structure at least).
        limit: of what is on the device at once.

    Returns:
        Frames with the labels of ``data``, and ``predicted_force`` (A, 3) and
        ``predicted_stress`` (S, 3, 3) in the units of their targets, ``predicted_energy`` (S,),
        the E~ of the whole structure.
    """
    step = max(1, -(-int(data.counts[rows].sum()) // MOST_ATOMS))
    rows = rows[::step]
    forces, stresses, energies = [], [], []
    for some in pack(rows, data.counts, batch_atoms):
        for graph, _ in data.parts(some, limit):
            found = potential(graph)
            forces.append(found.forces.double().cpu().numpy())
            stresses.append(found.stress.double().cpu().numpy())
            energies.append(found.energy.double().cpu().numpy())
    return data.frames.select(rows).with_labels(
        structure={
            "predicted_stress": np.concatenate(stresses),
            "predicted_energy": np.concatenate(energies),
        },
        atom={"predicted_force": np.concatenate(forces)},
    )
