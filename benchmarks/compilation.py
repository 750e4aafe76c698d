"""What compiling is worth: the gradient of a training step and energy, forces and stress.

The networks of the protocols for many crystals and many molecules, at random weights. Structures
are those of the data folder AIIDA_RM_DATA (mp_pool.extxyz, qm7b.extxyz), or else cells of one
diamond, for which nothing but the engine is needed. On a processor seconds are of processor time,
helper processes included, so that other work on the machine does not matter; on a GPU of the clock.
Every figure is printed as it comes. What was compiled before serves again with ``--cache FOLDER``.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from common import arguments, finish

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential.potential import predict
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.compiled import CompiledGradient, Energies, even_batch, unpack
from aiida_rm.engine.training.trainer import Trainer

Figures = dict[str, Any]
#: Repetitions of a measurement, after two to warm up.
_REPEATS = 20


def main() -> None:
    """Measure both networks; print figures and one line of JSON."""
    given = arguments(__doc__ or "", network="both", dtype="float32", cache="")
    figures: dict[str, Figures] = {}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = given.cache or folder
        for name, (frames, settings) in cases(given.seed, quick=given.quick).items():
            if given.network not in ("both", name):
                continue
            figures[name] = {}
            chosen = replace(settings, seed=given.seed, dtype=given.dtype)
            for what, measure in (("training", measure_training), ("forces", measure_forces)):
                if given.quick and what == "forces":
                    continue
                figures[name][what] = measure(Trainer(frames, chosen))
                print(json.dumps({name: {what: figures[name][what]}}), flush=True)
    finish("compilation", given.seed, {"networks": figures, "dtype": given.dtype})


def cases(seed: int, *, quick: bool) -> dict[str, tuple[Frames, TrainSettings]]:
    """Perturbed structures and settings of each network; small ones if ``quick``."""
    local = TrainSettings(channels=16, hidden=(48, 24))
    passing = TrainSettings(
        architecture="equivariant", features=32, learning_rate=3e-3, noise_weight=1.0
    )
    samples = 40 if quick else 4000 if torch.cuda.is_available() else 300
    recipes = {
        "local": PerturbSettings(seed=seed, samples=samples, min_atoms=1),
        "equivariant": PerturbSettings(seed=seed, samples=samples, displacement=0.1),
    }
    if quick:
        local = replace(local, channels=4, l_max=1, hidden=(8,), batch_atoms=80)
        passing = replace(passing, features=4, layers=1, batch_atoms=80)
    if quick or not os.environ.get("AIIDA_RM_DATA"):
        # Linear assignment needs scipy, which a bare node may lack.
        recipe = PerturbSettings(seed=seed, samples=samples, match=False)
        copies = perturb(diamond(), recipe)
        return {"local": (copies, local), "equivariant": (copies, passing)}
    from systems import load

    stable = {"local": load("mp_pool", "mp_pool.extxyz"), "equivariant": molecules(load)}
    rng = np.random.default_rng(seed)
    some = {n: f.select(np.sort(rng.permutation(len(f))[:samples])) for n, f in stable.items()}
    return {
        name: (perturb(some[name], recipes[name]), settings)
        for name, settings in (("local", local), ("equivariant", passing))
    }


def molecules(load: Callable[[str, str], Frames]) -> Frames:
    """QM7b, without the boxes that its file puts around the molecules."""
    frames = load("qm7b", "qm7b.extxyz")
    return replace(frames, cells=np.zeros_like(frames.cells), pbc=np.zeros_like(frames.pbc))


def diamond() -> Frames:
    """The primitive cell."""
    half = 3.567 / 2
    cell = half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Frames.build([[6, 6]], [[[0, 0, 0], [half / 2] * 3]], [cell])


def measure_training(trainer: Trainer) -> Figures:
    """Loss and gradient of a batch."""
    said: list[str] = []
    plain, began = trainer._add_gradient, now(trainer.device)
    trainer._compile(said.append)
    compiling = now(trainer.device) - began
    compiled = trainer._add_gradient
    assert isinstance(compiled, CompiledGradient)
    if not compiled.works:
        return {"failed": said[-1]}
    figures: Figures = {"compile_seconds": compiling}
    for atoms in sizes(trainer):
        rows = enough(trainer, atoms)
        example = (*trainer.data.batch(rows), trainer._factors(rows))
        reference, found = compiled._alone(plain, example), compiled._alone(compiled, example)
        row = compare(
            trainer.device,
            lambda example=example: compiled._alone(plain, example),
            lambda example=example: compiled._alone(compiled, example),
            compiling,
        )
        row["difference"] = float((found - reference).abs().max() / reference.abs().max())
        row["edges"] = int(example[0].edge_index.shape[1])
        figures[f"{atoms}_atoms"] = row
    return figures


def measure_forces(trainer: Trainer) -> Figures:
    """Energy, forces and stress of a batch; edges are evened out in the measured time."""
    model = trainer.model.requires_grad_(False)
    energies = Energies(model)

    def program(batch: dict[str, torch.Tensor]) -> Any:
        graph, _ = unpack(batch)
        vectors = graph.edge_vectors()
        slope, atoms = torch.func.grad(lambda v: energies(v, graph), has_aux=True)(vectors)
        found = predict(graph, vectors, atoms, slope)
        return found.energy, found.forces, found.stress

    run = torch.compile(program, fullgraph=True)
    figures: Figures = {}
    for atoms in sizes(trainer):
        graph, targets = trainer.data.batch(enough(trainer, atoms))

        def compiled(graph: Any = graph, targets: Any = targets) -> Any:
            with torch.no_grad():
                return run(even_batch(graph, targets))

        if not figures:
            began = now(trainer.device)
            try:
                compiled()
            except Exception as error:  # noqa: BLE001 - compilers fail in many ways
                return {"failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
            figures["compile_seconds"] = now(trainer.device) - began
        forces = model(graph).forces
        row = compare(
            trainer.device, lambda g=graph: model(g), compiled, figures["compile_seconds"]
        )
        row["difference"] = float((compiled()[1][:-1] - forces).abs().max() / forces.abs().max())
        figures[f"{atoms}_atoms"] = row
    return figures


def sizes(trainer: Trainer) -> list[int]:
    """Atoms in a batch; more of them on a GPU."""
    atoms = trainer.settings.batch_atoms
    return [atoms, 8 * atoms, 64 * atoms] if trainer.device.type == "cuda" else [atoms]


def enough(trainer: Trainer, atoms: int) -> Any:
    """The first structures that hold so many atoms, all of them if they are fewer."""
    counts = np.cumsum(trainer.data.counts[trainer.train_rows])
    return trainer.train_rows[: max(1, int(np.searchsorted(counts, atoms, "right")))]


def compare(
    device: torch.device, plain: Callable[[], Any], compiled: Callable[[], Any], compiling: float
) -> Figures:
    """Seconds of both in turns, and the calls after which compiling has paid for itself."""
    seconds: dict[str, list[float]] = {"plain": [], "compiled": []}
    for _ in range(_REPEATS + 2):
        for name, work in (("plain", plain), ("compiled", compiled)):
            began = now(device)
            work()
            seconds[name].append(now(device) - began)
    found = {name: statistics.median(times[2:]) for name, times in seconds.items()}
    gain = found["plain"] - found["compiled"]
    return {
        **found,
        "ratio": found["plain"] / found["compiled"],
        "pays_after": round(compiling / gain) if gain > 0 else None,
    }


def now(device: torch.device) -> float:
    """Seconds by the clock for a GPU, of processor time for a processor."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


if __name__ == "__main__":
    main()
