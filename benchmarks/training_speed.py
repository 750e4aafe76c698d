"""How fast a training is: batches against one graph at a time, two processes, waiting for data.

Needs the data folder AIIDA_RM_DATA with mp_pool.extxyz for the real crystals. All measurements of
a set are of the same network, number format and structures, on one thread each. Speeds against one
graph at a time are by processor time, so that other work on the machine does not matter; all others
are by the clock, as a training measures itself.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.neighborlist import neighbor_list
from common import arguments, finish, table
from systems import data_folder, diamond, load

from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, to_plain
from aiida_rm.engine.training.data import Targets
from aiida_rm.engine.training.loss import add_gradient
from aiida_rm.engine.training.trainer import Trainer

Figures = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Stable structures, how they are perturbed, and how many trainings see of them."""

    stable: Frames
    recipe: PerturbSettings
    alone: int


def main() -> None:
    """Measure each set; print a table and one line of JSON."""
    given = arguments(__doc__ or "", workers=1)
    figures: Figures = {}
    for name, case in cases(given.seed, quick=given.quick).items():
        stored = perturb(case.stable, case.recipe)
        settings = TrainSettings(seed=given.seed, epochs=4, threads=max(given.threads, 1))
        row: Figures = {
            "structures": len(stored),
            "atoms_per_structure": stored.n_atoms / len(stored),
            **{
                f"batches_of_{atoms}": in_batches(stored, replace(settings, batch_atoms=atoms))
                for atoms in (1, 320)
            },
            "alone": one_at_a_time(stored, settings, case.alone),
        }
        row["ratio"] = row["batches_of_320"] / row["alone"]
        for atoms in (320, 2560):
            larger = replace(settings, batch_atoms=atoms)
            runs = {n: measure(stored, larger, n) for n in (1, 2)}
            speeds, work = (
                [runs[n][what] for n in (1, 2)]
                for what in ("structures_per_second", "processor_seconds_per_epoch")
            )
            row[f"processes_at_{atoms}"] = {
                **runs,
                "speed_ratio": speeds[1] / speeds[0],
                "work_ratio": work[1] / work[0],
            }
        fresh = replace(settings, draw="fresh", recipe=case.recipe)
        row["fresh"] = {
            n: measure(case.stable, replace(fresh, workers=n), 1) for n in (0, given.workers)
        }
        figures[name] = row
        show(name, row)
    finish("training_speed", given.seed, {"sets": figures})


def cases(seed: int, *, quick: bool) -> dict[str, Case]:
    """One diamond in cells of 8 atoms; and crystals of the Materials Project, if they are there."""
    samples = 240 if quick else 1000
    found = {"diamond": Case(diamond().stable, PerturbSettings(seed=seed, samples=samples), 24)}
    if not os.environ.get("AIIDA_RM_DATA"):
        print("AIIDA_RM_DATA is not set: no real crystals", file=sys.stderr)
        return found
    data_folder()
    pool = load("mp_pool", "mp_pool.extxyz")
    chosen = np.random.default_rng(seed).permutation(len(pool))[:samples]
    recipe = PerturbSettings(seed=seed, samples=samples)
    return {**found, "crystals": Case(pool.select(np.sort(chosen)), recipe, 48)}


def measure(frames: Frames, settings: TrainSettings, processes: int) -> Figures:
    """Train by the program, as a job would; the speed is the median after the first epoch."""
    work = [0.0, 0.0]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        frames.save(at / files.INPUT_FRAMES)
        # The processor time of one epoch is taken off, and with it that of the start.
        for place, epochs in enumerate((1, settings.epochs)):
            (at / files.SETTINGS).write_text(
                json.dumps({"settings": {**to_plain(settings), "epochs": epochs}})
            )
            work[place] = run(at, processes)
        rows = [json.loads(line) for line in (at / files.METRICS).read_text().splitlines()]
    return {
        "structures_per_second": statistics.median(r["structures_per_second"] for r in rows[1:]),
        "first_epoch_structures_per_second": rows[0]["structures_per_second"],
        "waiting_first_epoch": rows[0]["waiting"],
        "waiting_later": statistics.median(r["waiting"] for r in rows[1:]),
        "processor_seconds_per_epoch": (work[1] - work[0]) / (settings.epochs - 1),
    }


def run(folder: Path, processes: int) -> float:
    """Run a training to its end: processor seconds of all processes together."""
    command = [sys.executable, "-m", "aiida_rm.engine", "train", files.SETTINGS]
    running = []
    for rank in range(processes):
        environment = {
            **os.environ,
            "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_SIZE": str(processes),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
        }
        running.append(
            subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL)
        )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    if any([process.wait() for process in running]):  # noqa: C419 - wait for all of them
        sys.exit("a training failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def in_batches(frames: Frames, settings: TrainSettings) -> float:
    """Structures per second of processor time, in the steps of the second epoch."""
    trainer = Trainer(frames, replace(settings, validation_fraction=0.0))
    most = 100 if settings.batch_atoms == 1 else len(frames)
    began, done = 0.0, 0
    for epoch in range(2):
        began, done = time.process_time(), 0
        trainer.train_rows = np.arange(len(frames))[:most]
        for rows in trainer._batches(epoch):
            trainer._step(rows, 0.0)
            done += len(rows)
    return done / (time.process_time() - began)


def one_at_a_time(frames: Frames, settings: TrainSettings, count: int) -> float:
    """Structures per second of processor time of a plain loop: ASE's list, one graph, one step."""
    trainer = Trainer(frames, replace(settings, validation_fraction=0.0))
    model, optimizer = trainer.model, trainer.optimizer
    rows = np.random.default_rng(settings.seed).permutation(len(frames))[: count + 3]
    began = 0.0
    for place, row in enumerate(rows):
        if place == 3:  # the first ones warm up
            began = time.process_time()
        part = frames[int(row)]
        graph, targets = plain_graph(part, trainer.data.cutoff, trainer.dtype)
        optimizer.zero_grad()
        add_gradient(model, trainer.weights, graph, targets, trainer._factors(row[None]))
        torch.nn.utils.clip_grad_norm_(trainer.weights, settings.clip_norm)
        optimizer.step()
    return count / (time.process_time() - began)


def plain_graph(part: Frames, cutoff: float, dtype: torch.dtype) -> tuple[Graph, Targets]:
    """The graph of one structure as ASE finds it."""
    atoms = Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=part.pbc[0])
    centre, neighbour, shifts = neighbor_list("ijS", atoms, cutoff)
    graph = Graph(
        numbers=torch.as_tensor(part.numbers, dtype=torch.int64),
        positions=torch.as_tensor(part.positions, dtype=dtype),
        cells=torch.as_tensor(part.cells, dtype=dtype),
        periodic=torch.as_tensor(part.pbc.all(axis=1)),
        batch=torch.zeros(len(atoms), dtype=torch.int64),
        edge_index=torch.as_tensor(np.stack([centre, neighbour]), dtype=torch.int64),
        shifts=torch.as_tensor(shifts, dtype=dtype),
    )
    targets = Targets(
        torch.as_tensor(part.atom["force"], dtype=dtype),
        torch.as_tensor(part.structure["stress"], dtype=dtype),
        torch.as_tensor(part.structure["energy"], dtype=dtype),
        torch.ones(1, dtype=dtype),
    )
    return graph, targets


def show(name: str, row: Figures) -> None:
    """The figures of one set as a table."""
    small, large = row["processes_at_320"], row["processes_at_2560"]
    one, workers, speed = small[1], max(row["fresh"]), "structures_per_second"
    table(
        [
            (f"{name}: structures", row["structures"]),
            ("atoms in each", row["atoms_per_structure"]),
            ("batches of 320 atoms, structures/s of processor time", row["batches_of_320"]),
            ("batches of one structure", row["batches_of_1"]),
            ("one at a time with ASE's neighbour lists", row["alone"]),
            ("ratio of the first to the last", row["ratio"]),
            ("by the clock, structures/s", one[speed]),
            ("first epoch, in which graphs are built", one[f"first_epoch_{speed}"]),
            ("waiting in the first epoch, and later", shares(one)),
            ("two processes, 320 atoms: speed over that of one", small["speed_ratio"]),
            ("their work over that of one", small["work_ratio"]),
            ("two processes, 2560 atoms: speed over that of one", large["speed_ratio"]),
            ("their work over that of one", large["work_ratio"]),
            ("fresh copies without workers, structures/s", row["fresh"][0][speed]),
            ("waiting", shares(row["fresh"][0])),
            (f"fresh copies with workers ({workers}), structures/s", row["fresh"][workers][speed]),
            ("waiting", shares(row["fresh"][workers])),
        ]
    )


def shares(measured: Figures) -> str:
    """Waiting in the first epoch and later."""
    return f"{measured['waiting_first_epoch']:.1%}, {measured['waiting_later']:.1%}"


if __name__ == "__main__":
    main()
