"""Batched relaxation against ASE, one structure at a time: same potential, same starts.

ASE relaxes the first few of the structures that the batch relaxes, with fixed cells, to the same
tolerance or limit of steps, in the same number format (float32 is what a generation takes; --dtype
float64), on the same threads: by FIRE, as our FIRE does step for step, and by L-BFGS. Then two
processes, each with half of the structures, show what two cores do.
"""

from __future__ import annotations

import multiprocessing as mp
import time
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.optimize import FIRE, LBFGS
from common import arguments, finish, table
from diamond import diamond

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import make_starts
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
    starts, _ = make_starts(range(count), settings, potential.notes)
    ways = {}
    for name in ("fire", "lbfgs"):
        stages = (Stage(optimizer=name, cell="fixed", fmax=5e-4, max_steps=given.steps),)
        relax(starts.select([0, 1]), potential, stages)  # warm up
        began = time.perf_counter()
        found = relax(starts, potential, stages, batch_atoms=given.batch_atoms)
        ways[name] = (found, (time.perf_counter() - began) / count)
    figures = {"structures": count, "alone": alone, "batch_atoms": given.batch_atoms}
    for name, optimizer in (("fire", FIRE), ("lbfgs", LBFGS)):
        steps, energies, seconds = one_at_a_time(starts, potential, optimizer, alone, given.steps)
        for other, (found, each) in ways.items():
            same = np.abs(found.structure["energy"][:alone] - energies) < 1e-4
            key = f"{other}_against_ase_{name}"
            figures[f"{key}_ratio_per_structure"] = seconds / each
            figures[f"{key}_same_energy"] = float(same.mean())
        figures[f"ase_{name}_steps"] = steps
        figures[f"ase_{name}_seconds_per_structure"] = seconds
    for name, (found, each) in ways.items():
        mean_steps = float(found.structure["steps"].mean())
        figures[f"{name}_steps"] = mean_steps
        figures[f"{name}_converged"] = float((found.structure["status"] == 0).mean())
        figures[f"{name}_seconds_per_structure"] = each
        figures[f"{name}_ms_per_step"] = 1e3 * each / mean_steps
    figures["fire_ratio_per_step"] = (
        figures["ase_fire_seconds_per_structure"]
        / figures["ase_fire_steps"]
        / (figures["fire_seconds_per_structure"] / figures["fire_steps"])
    )
    figures["two_processes_over_one"] = two_processes(starts, potential, given.steps)
    figures["dtype"] = given.dtype
    table(list(figures.items()))
    finish("generation_speed", given.seed, figures)


def one_at_a_time(
    starts: Frames, potential: Potential, optimizer: Any, count: int, steps: int
) -> tuple[float, np.ndarray, float]:
    """Mean number of steps, energies (count,), and seconds a structure, by ASE."""
    taken, energies = [], []
    began = time.perf_counter()
    for index in range(count):
        part = starts[index]
        atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=True)
        atoms.calc = ResponseMatchingCalculator(potential)
        with optimizer(atoms, logfile=None) as descent:
            descent.run(fmax=5e-4, steps=steps)
            taken.append(descent.nsteps)
        energies.append(atoms.get_potential_energy())
    return float(np.mean(taken)), np.array(energies), (time.perf_counter() - began) / count


def two_processes(starts: Frames, potential: Potential, steps: int) -> float:
    """How much faster two processes relax all structures than one, each on one thread."""
    stages = (Stage(cell="fixed", fmax=5e-4, max_steps=steps),)
    rows = np.arange(len(starts))
    seconds = []
    for parts in (1, 2):
        shares = [starts.select(rows[part::parts]) for part in range(parts)]
        with mp.get_context("spawn").Pool(
            parts, initializer=torch.set_num_threads, initargs=(1,)
        ) as pool:
            work = [(share, potential, stages) for share in shares]
            pool.starmap(relax, [(share.select([0, 1]), potential, stages) for share in shares])
            began = time.perf_counter()
            pool.starmap(relax, work, chunksize=1)
            seconds.append(time.perf_counter() - began)
    return seconds[0] / seconds[1]


if __name__ == "__main__":
    main()
