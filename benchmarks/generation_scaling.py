"""How long structures take: by the batch, by atoms in a cell, and 1,000 crystals in several jobs.

Random starts, relaxed by two descents (60 steps in a fixed cell, 400 in a free one, to 5e-3)
on the potentials of examples/potentials:

- ``batch``: carbon, 8 atoms a cell; atoms relaxed together from one structure to many.
- ``cell``: carbon, 2 to 64 atoms a cell, as many atoms and steps of each size.
- ``crystals``: ``--structures`` with formulas drawn from the training set of the Materials Project,
  up to 20 atoms, in one process and shared by ``--jobs`` processes of one thread each, as
  ``n_jobs`` of rm.generate does; starts are made in that time, too, loading of libraries is not.
"""

from __future__ import annotations

import multiprocessing
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import arguments, finish

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, Stage

_POTENTIALS = Path(__file__).parent.parent / "examples" / "potentials"
_FALL = (Stage(cell="fixed", fmax=0.05, max_steps=60), Stage(fmax=5e-3, max_steps=400))


def main() -> None:
    """A table a question, then all figures."""
    given = arguments(__doc__ or "", structures=1000, jobs=2)
    count = 100 if given.quick else given.structures
    figures = {
        "batch": by_batch(given.seed, 64 if given.quick else 256),
        "cell": by_cell(given.seed, 512 if given.quick else 2048),
        "crystals": by_jobs(given.seed, count, given.jobs),
    }
    finish("generation_scaling", given.seed, {"structures": count, **figures})


def by_batch(seed: int, count: int) -> dict[str, float]:
    """Milliseconds per step of a structure of 8 atoms, by the atoms of a batch."""
    potential = load("diamond")
    settings = GenerateSettings(seed=seed, n_structures=count, formulas=("C8",))
    starts, _ = make_starts(range(count), settings, potential.notes)
    found = {}
    for atoms in (8, 16, 64, 256, 1024, 4096):
        some = starts.select(range(min(count, max(8, atoms // 4))))
        began = time.process_time()
        done = relax(some, potential, _FALL, batch_atoms=atoms)
        seconds = time.process_time() - began
        found[str(atoms)] = 1e3 * seconds / float(done.structure["steps"].sum())
        print(f"{atoms:5} atoms together: {found[str(atoms)]:.3f} ms a step of a structure")
    return found


def by_cell(seed: int, atoms: int) -> dict[str, float]:
    """Milliseconds per step and atom, by the atoms of a cell; ``atoms`` in all."""
    potential = load("diamond")
    found = {}
    for size in (2, 4, 8, 16, 32, 64):
        count = atoms // size
        settings = GenerateSettings(seed=seed, n_structures=count, formulas=(f"C{size}",))
        starts, _ = make_starts(range(count), settings, potential.notes)
        began = time.process_time()
        done = relax(starts, potential, (Stage(fmax=1e-9, max_steps=40),))
        seconds = time.process_time() - began
        moved = float((done.structure["steps"] * done.counts).sum())
        found[str(size)] = 1e3 * seconds / moved
        print(f"{size:5} atoms a cell: {found[str(size)]:.4f} ms a step of an atom")
    return found


def by_jobs(seed: int, count: int, jobs: int) -> dict[str, Any]:
    """Seconds for crystals of the Materials Project's kind, in one process and in several."""
    found: dict[str, Any] = {}
    for number in sorted({1, jobs}):
        context = multiprocessing.get_context("spawn")
        gate, answers = context.Barrier(number), context.SimpleQueue()
        bounds = [count * part // number for part in range(number + 1)]
        workers = [
            context.Process(target=crystals, args=(seed, first, last, gate, answers))
            for first, last in pairwise(bounds)
        ]
        for worker in workers:
            worker.start()
        rows = [answers.get() for _ in workers]
        for worker in workers:
            worker.join()
        seconds = max(row["ended"] for row in rows) - min(row["began"] for row in rows)
        found[str(number)] = {
            "seconds": seconds,
            "per_1000": 1000 * seconds / count,
            "converged": sum(row["converged"] for row in rows) / count,
            "mean_atoms": sum(row["atoms"] for row in rows) / count,
            "mean_steps": sum(row["steps"] for row in rows) / count,
        }
        print(f"{number} processes:", found[str(number)])
    found["speedup"] = found["1"]["seconds"] / found[str(jobs)]["seconds"]
    return found


def crystals(seed: int, first: int, last: int, gate: Any, answers: Any) -> None:
    """Make and relax structures ``first`` to ``last``, when all processes are ready."""
    torch.set_num_threads(1)
    potential = load("mp")
    settings = GenerateSettings(
        seed=seed,
        n_structures=last - first,
        first_index=first,
        composition="training_formulas",
        atoms_range=(1, 20),
        volume_scale=(),
        distance_scale=0.7,
        stages=_FALL,
    )
    warm, _ = make_starts(range(2), settings, potential.notes)
    relax(warm, potential, (Stage(max_steps=2),))
    gate.wait()
    began = time.time()
    starts, _ = make_starts(range(first, last), settings, potential.notes)
    done = relax(starts, potential, _FALL, floor=settings.floor)
    labels = done.structure
    answers.put(
        {
            "began": began,
            "ended": time.time(),
            "converged": int((labels["status"] == 0).sum()),
            "atoms": int(done.counts.sum()),
            "steps": int(labels["steps"].sum()),
        }
    )


def load(name: str) -> Potential:
    """A shipped potential in the number format of generation."""
    return Potential.load(_POTENTIALS / f"{name}.safetensors", dtype=torch.float32)


if __name__ == "__main__":
    main()
