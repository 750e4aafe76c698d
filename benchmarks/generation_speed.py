"""Batched relaxation against ASE's FIRE, one structure at a time, same potential, same rules.

ASE relaxes the first few of the structures that the batch relaxes, from the same starts, with fixed
cells, to the same tolerance or limit of steps, in the same number format (float32 is what a
generation takes; --dtype float64), on the same threads. Their steps and energies are compared.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from ase import Atoms
from ase.optimize import FIRE
from common import arguments, finish, table
from diamond import diamond

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import random_starts
from aiida_rm.engine.settings import GenerateSettings, PerturbSettings, Stage, TrainSettings
from aiida_rm.engine.training.trainer import Trainer


def main() -> None:
    """Print the table and the JSON line."""
    given = arguments(
        __doc__ or "", starts=256, single=12, batch_atoms=1024, steps=200, dtype="float32"
    )
    count, alone = (96, 8) if given.quick else (given.starts, given.single)
    frames = perturb(
        diamond(),
        PerturbSettings(seed=given.seed, samples=121 if given.quick else 484, min_atoms=8),
    )
    epochs = 6 if given.quick else 12
    trainer = Trainer(frames, TrainSettings(seed=given.seed, epochs=epochs, batch_atoms=256))
    potential = trainer.run().potential.to(getattr(torch, given.dtype))
    settings = GenerateSettings(seed=given.seed, n_structures=count)
    starts, _ = random_starts(range(count), settings, potential.notes)
    stages = (Stage(cell="fixed", fmax=5e-4, max_steps=given.steps),)
    relax(starts.select([0, 1]), potential, stages)  # warm up

    began = time.perf_counter()
    together = relax(starts, potential, stages, batch_atoms=given.batch_atoms)
    batched = time.perf_counter() - began
    began = time.perf_counter()
    steps, energies = [], []
    for index in range(alone):
        part = starts[index]
        atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=True)
        atoms.calc = ResponseMatchingCalculator(potential)
        optimizer = FIRE(atoms, logfile=None)
        optimizer.run(fmax=5e-4, steps=given.steps)
        steps.append(optimizer.nsteps)
        energies.append(atoms.get_potential_energy())
    single = time.perf_counter() - began
    agree = np.abs(together.structure["energy"][:alone] - energies) < 1e-4
    total = int(together.structure["steps"].sum())
    figures = {
        "structures_batched": count,
        "structures_single": alone,
        "steps_of_the_single_ones_in_the_batch": int(together.structure["steps"][:alone].sum()),
        "steps_single": int(sum(steps)),
        "same_energy": float(agree.mean()),
        "batched_ms_per_step_of_a_structure": 1e3 * batched / total,
        "single_ms_per_step_of_a_structure": 1e3 * single / sum(steps),
        "batched_seconds_per_structure": batched / count,
        "single_seconds_per_structure": single / alone,
        "ratio_per_step": (single / sum(steps)) / (batched / total),
        "ratio_per_structure": (single / alone) / (batched / count),
        "batch_atoms": given.batch_atoms,
        "dtype": given.dtype,
    }
    table(list(figures.items()))
    finish("generation_speed", given.seed, figures)


if __name__ == "__main__":
    main()
