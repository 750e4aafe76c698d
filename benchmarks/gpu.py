"""Everything that a GPU machine should measure, in one call of under 10 minutes.

Needs only the engine (torch, torch-geometric, numpy, safetensors). Figures go to
``benchmarks-gpu.json`` (or ``--output``) as they come, so a call that is cut short keeps them.
Runs on the processor, too, to try it out: ``--quick`` then takes about a minute.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish, machine
from torch.profiler import profile

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import RelaxStatus, relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, PerturbSettings, Stage, TrainSettings
from aiida_rm.engine.training.trainer import Trainer

#: Seconds after which no further measurement begins.
_BUDGET = 480.0
#: Seconds that compiling one network, and measuring it, may take at most.
_COMPILING = 110.0


def main() -> None:
    """Train, generate and measure."""
    given = arguments(__doc__ or "", output="benchmarks-gpu.json")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    figures: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        figures[name] = value
        print(name, json.dumps(value), flush=True)
        content = {"seed": given.seed, **figures, "machine": machine()}
        Path(given.output).write_text(json.dumps(content, indent=1) + "\n")

    # Linear assignment needs scipy, which a bare node may lack.
    recipe = PerturbSettings(seed=given.seed, samples=242 if given.quick else 4000, match=False)
    frames = perturb(diamond(), recipe)
    measure_limits(device, note, quick=given.quick)
    measure_training(
        frames, "equivariant", given.seed, device, note, quick=given.quick, budget=_BUDGET / 3
    )
    potential = measure_training(
        frames, "local", given.seed, device, note, quick=given.quick, budget=_BUDGET / 2
    )
    for size in (64, 512, 4096, 32768, 131072):
        if time.perf_counter() - began > _BUDGET or (given.quick and size > 512):
            break
        measure_forces(potential, size, given.seed, device, note)
    for network in ("equivariant",) if given.quick else ("equivariant", "local"):
        if time.perf_counter() - began < _BUDGET - _COMPILING:
            measure_compiled(network, given.seed, note, quick=given.quick)
    for batch_atoms in (1, 64, 1024, 8192, 65536):
        if time.perf_counter() - began > _BUDGET or (given.quick and batch_atoms > 1024):
            break
        measure_generation(potential, batch_atoms, given.seed, note, quick=given.quick)
    finish("gpu", given.seed, figures)


def diamond() -> Frames:
    """The primitive cell."""
    half = 3.567 / 2
    cell = half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Frames.build([[6, 6]], [[[0, 0, 0], [half / 2] * 3]], [cell])


def synchronize(device: torch.device) -> None:
    """Wait for the device, so that a clock can be read."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_limits(device: torch.device, note: Any, *, quick: bool) -> None:
    """What the device can do at best: products of large matrices, and copies."""
    size = 1024 if quick or device.type == "cpu" else 8192
    matrix = torch.randn((size, size), device=device)
    target = torch.empty_like(matrix)
    seconds = {}
    for name, work in (
        ("product", lambda: torch.mm(matrix, matrix, out=target)),
        ("copy", lambda: target.copy_(matrix)),
    ):
        work()
        synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            work()
        synchronize(device)
        seconds[name] = (time.perf_counter() - began) / 10
    note(
        "limits",
        {
            "float32_tflops": 2 * size**3 / seconds["product"] / 1e12,
            "bandwidth_gb_per_second": 2 * 4 * size**2 / seconds["copy"] / 1e9,
        },
    )


def measure_training(
    frames: Frames,
    architecture: str,
    seed: int,
    device: torch.device,
    note: Any,
    *,
    quick: bool,
    budget: float,
) -> Potential:
    """Structures per second by batch size, and what holds it up; the standard potential."""
    standard: Potential | None = None
    began = time.perf_counter()
    for batch_atoms in (320, 2560, 20480):
        if standard is not None and (quick or time.perf_counter() - began > budget):
            break
        settings = TrainSettings(
            seed=seed,
            architecture=architecture,
            learning_rate=1e-2 if architecture == "local" else 3e-3,
            epochs=3 if quick else 12,
            batch_atoms=batch_atoms,
            device=device.type,
        )
        trainer = Trainer(frames, settings)
        rates: list[dict[str, float]] = []
        trainer.run(on_epoch=lambda m, rates=rates: rates.append(dict(m)))
        synchronize(device)
        rows = np.arange(min(len(frames), max(1, batch_atoms // 8)))
        with profile(with_flops=True) as profiler:
            trainer._step(rows, 1.0)
        operations = sum(event.flops for event in profiler.key_averages())
        rate = float(np.median([m["structures_per_second"] for m in rates[1:]]))
        row = {
            "structures_per_second": rate,
            "waiting": float(np.median([m["waiting"] for m in rates[1:]])),
            "tflops": operations * rate / len(rows) / 1e12,
        }
        if device.type == "cuda":
            row["peak_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
            torch.cuda.reset_peak_memory_stats()
        row |= {k: trainer.progress.history[-1][k] for k in ("force_error", "stress_error")}
        note(f"train_{architecture}_batch_{batch_atoms}", row)
        standard = standard or trainer.finished_potential()
    assert standard is not None
    return standard


def measure_forces(
    potential: Potential, atoms: int, seed: int, device: torch.device, note: Any
) -> None:
    """Energy, forces and stress of a batch of 8-atom cells, float32, graph made before."""
    part = perturb(
        diamond(), PerturbSettings(seed=seed, samples=min(512, max(1, atoms // 8)), match=False)
    )
    part = part.select(np.arange(max(1, atoms // 8)) % len(part)).without_labels()
    model = potential.to(device=device, dtype=torch.float32).requires_grad_(False)
    started = time.perf_counter()
    graph = build_graph(part, model.cutoff, dtype=torch.float32, device=device)
    synchronize(device)
    listed = time.perf_counter() - started
    times = []
    for _ in range(12):
        synchronize(device)
        started = time.perf_counter()
        model(graph)
        synchronize(device)
        times.append(time.perf_counter() - started)
    seconds = float(np.median(times[2:]))
    note(
        f"forces_{atoms}_atoms",
        {
            "edges": int(graph.edge_index.shape[1]),
            "seconds": seconds,
            "atoms_per_second": part.n_atoms / seconds,
            "neighbour_list_seconds": listed,
        },
    )


def measure_compiled(network: str, seed: int, note: Any, *, quick: bool) -> None:
    """What ``compilation.py`` finds in its time; apart, so that a compiler can do no harm."""
    script = Path(__file__).with_name("compilation.py")
    command = [sys.executable, str(script), "--network", network, "--seed", str(seed)]
    # The data folder needs libraries that a bare node may lack.
    environment = {k: v for k, v in os.environ.items() if k != "AIIDA_RM_DATA"}
    with tempfile.TemporaryFile("w+") as output:
        running = subprocess.Popen(
            [*command, *(["--quick"] if quick else [])],
            stdout=output,
            env=environment,
            start_new_session=True,
        )
        try:
            ended = f"exit code {running.wait(_COMPILING)}"
        except subprocess.TimeoutExpired:
            # With its helpers, which would hold the device.
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            ended = f"stopped after {_COMPILING:.0f} s"
        output.seek(0)
        lines = [line for line in output.read().splitlines() if line.startswith('{"' + network)]
    row: dict[str, Any] = {"ended": ended}
    for line in lines:
        with contextlib.suppress(ValueError):  # cut short
            row |= json.loads(line)[network]
    note(f"compiled_{network}", row)


def measure_generation(
    potential: Potential, batch_atoms: int, seed: int, note: Any, *, quick: bool
) -> None:
    """Relaxed structures per second by the size of the batch."""
    count = {1: 4, 64: 32, 1024: 256}.get(batch_atoms, 4096)
    count = min(count, 32) if quick else count
    settings = GenerateSettings(seed=seed, n_structures=count)
    starts, _ = make_starts(range(count), settings, potential.notes)
    calls: list[RelaxStatus] = []
    stages = (Stage(cell="free", fmax=5e-4, max_steps=300),)
    began = time.perf_counter()
    found = relax(starts, potential, stages, batch_atoms=batch_atoms, on_step=calls.append)
    seconds = time.perf_counter() - began
    note(
        f"generate_batch_{batch_atoms}",
        {
            "structures": count,
            "structures_per_second": count / seconds,
            "structure_steps_per_second": float(found.structure["steps"].sum()) / seconds,
            "force_calls": calls[-1].force_calls,
            "converged": float((found.structure["status"] == 0).mean()),
        },
    )


if __name__ == "__main__":
    main()
