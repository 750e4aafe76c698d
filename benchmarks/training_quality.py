"""What a potential is worth after a given time: errors at four noises, and what it generates.

``--system diamond|qm7b|mp``, ``--variants`` a comma-separated list of names in VARIANTS, each
trained for ``--seconds`` of processor time on one thread, from the same structures, and judged on
the same random starts with the same relaxer.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish
from systems import SYSTEMS, System

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.core import largest_core
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.data import TrainingData, gauge, pack
from aiida_rm.engine.training.model import first_model
from aiida_rm.engine.training.trainer import Trainer

#: Coordinates are displaced uniformly by at most so much (angstrom).
NOISES = (0.1, 0.3, 0.6, 1.0)
#: Perturbed structures in a short training; at least one of each structure.
_SAMPLES = 4000
Knobs = dict[str, Any]
_LOCAL = {"architecture": "local", "channels": 16, "hidden": (48, 24), "learning_rate": 1e-2}
_EQUIVARIANT = {"architecture": "equivariant", "features": 32, "learning_rate": 3e-3}
#: Changes to the settings of a system: of the perturbation, and of the training. The stress of
#: ``no virial`` is Hooke's law alone, without the springs' share: two frames instead of one.
VARIANTS: dict[str, tuple[Knobs, Knobs]] = {
    "default": ({}, {}),
    "local": ({}, _LOCAL),
    "equivariant": ({}, _EQUIVARIANT),
    "match": ({"match": True}, {}),
    "no match": ({"match": False}, {}),
    "no virial": ({}, {}),
    "normal noise": ({"distribution": "normal"}, {}),
    "no match + normal noise": ({"match": False, "distribution": "normal"}, {}),
    "no match + noise weight 0.5": ({"match": False}, {"noise_weight": 0.5}),
    "cutoff 4.5": ({"match": False}, {"cutoff": 4.5}),
    "cutoff 5": ({"match": False}, {"cutoff": 5.0}),
    "cutoff 4.5 + 32-atom cells": ({"match": False, "min_atoms": 32}, {"cutoff": 4.5}),
    "saturation 0.5": ({"saturation": 0.5}, {}),
    "noise weight 0": ({}, {"noise_weight": 0.0}),
    "noise weight 0.5": ({}, {"noise_weight": 0.5}),
    "noise weight 1": ({}, {"noise_weight": 1.0}),
    "noise weight 2": ({}, {"noise_weight": 2.0}),
    "no energy": ({}, {"energy_weight": 0.0}),
    "energy weight 0.1": ({}, {"energy_weight": 0.1}),
    "no average": ({}, {"ema_decay": 0.0}),
    "constant rate": ({}, {"final_rate": 1.0}),
}
#: The author's settings (method: arXiv:2405.09057), apart from what is in :func:`train_reference`.
REFERENCE: dict[str, tuple[Knobs, Knobs]] = {
    "diamond": ({"min_atoms": 72}, {"cutoff": 4.5, "batch_atoms": 288}),
    "qm7b": (
        {"force_noise": 0.01},
        {"cutoff": 4.5, "channels": 12, "hidden": (32, 16), "batch_atoms": 640},
    ),
    "mp": (
        {"min_atoms": 1},
        {"cutoff": 4.0, "channels": 12, "hidden": (32, 16), "batch_atoms": 320},
    ),
}


def main() -> None:
    """Train and judge the variants, one line of JSON each."""
    given = arguments(
        __doc__ or "",
        system="diamond",
        variants="default,reference",
        seconds=240.0,
        starts=0,
        epochs=0,
        save="",
    )
    system = SYSTEMS[given.system]()
    count = given.starts or (480 if given.system == "mp" else 108)
    seconds = min(given.seconds, 40.0) if given.quick else given.seconds
    figures = {}
    for name in given.variants.split(","):
        if name == "reference":
            potential, row = train_reference(system, given.system, seconds, given.seed)
        else:
            potential, row = train(system, name, seconds, given.epochs, given.seed)
        if given.save:
            Path(given.save).mkdir(parents=True, exist_ok=True)
            potential.save(
                Path(given.save) / f"{given.system}-{name.replace(' ', '-')}.safetensors"
            )
        row |= errors(system, potential)
        row |= generate(system, potential, count)
        figures[name] = row
        print(
            json.dumps({"system": given.system, "variant": name, "seed": given.seed, **row}),
            flush=True,
        )
    finish(
        "training_quality",
        given.seed,
        {"system": given.system, "seconds": seconds, "variants": figures},
    )


def train(
    system: System, variant: str, seconds: float, epochs: int, seed: int
) -> tuple[Potential, Knobs]:
    """Our training: ``epochs``, or with 0 as many structures and epochs as fit into the time."""
    perturbing, training = VARIANTS[variant]
    settings = replace(system.train, **training, seed=seed)
    recipe = replace(system.recipe, **perturbing, seed=seed)

    def rate(frames: Frames) -> float:
        ends: list[float] = []  # by processor time: other work must not shorten the training
        trainer = Trainer(frames, replace(settings, validation_fraction=0.0, epochs=2))
        trainer.run(on_epoch=lambda _: ends.append(time.process_time()))
        return len(frames) / (ends[1] - ends[0])  # the second epoch has its graphs

    samples = max(_SAMPLES, len(system.stable))
    if not epochs:
        samples, epochs = plan(system, recipe, rate, seconds)
    stable, recipe = subset(system.stable, samples), replace(recipe, samples=samples)
    frames = perturb(stable, recipe)
    if variant == "no virial":
        frames = without_virial(frames, stable, recipe)
    settings = replace(settings, epochs=epochs, validation_fraction=min(0.1, 300 / len(frames)))
    began = time.process_time()
    outcome = Trainer(frames, settings).run()
    return outcome.potential, {
        "parameters": outcome.potential.n_parameters,
        "seconds": time.process_time() - began,
        "samples": samples,
        "epochs": epochs,
        "steps": outcome.progress.step,
        "clipped": float(np.mean([row["clipped"] for row in outcome.progress.history])),
    }


def without_virial(frames: Frames, stable: Frames, recipe: PerturbSettings) -> Frames:
    """The same frames with a stress target that leaves the springs' share out."""
    weak = perturb(stable, replace(recipe, spring=1e-6))
    return frames.with_labels(structure={"stress": weak.structure["stress"]})


def plan(
    system: System, recipe: PerturbSettings, rate: Callable[[Frames], float], seconds: float
) -> tuple[int, int]:
    """How many samples and epochs fit into the time."""
    trial = perturb(subset(system.stable, 400), replace(recipe, samples=400))
    total = rate(trial) * seconds
    most = max(_SAMPLES, len(system.stable))
    epochs = max(1, round(total / most))
    return max(64, min(most, int(total / epochs))), epochs


def subset(frames: Frames, count: int) -> Frames:
    """At most ``count`` structures, spread over all."""
    if len(frames) <= count:
        return frames
    return frames.select(np.sort(np.random.default_rng(0).permutation(len(frames))[:count]))


def train_reference(
    system: System, name: str, seconds: float, seed: int
) -> tuple[Potential, Knobs]:
    """The author's settings on our (faster) code of the same kind of network.

    Atoms go home to where they came from, the stress target is Hooke's law alone, Adam at 1e-2
    with plateau decay, EMA, clipping at 10, weights F 1e4 and S 1e4 (qm7b: F alone, mp: F 1e3).
    """
    knobs, training = REFERENCE[name]
    recipe = replace(system.recipe, **knobs, match=False, seed=seed)
    settings = TrainSettings(**training, seed=seed)

    def targets(samples: int) -> Frames:
        stable = subset(system.stable, samples)
        whole = replace(recipe, samples=samples)
        return without_virial(perturb(stable, whole), stable, whole)

    def loop(frames: Frames, stop: float, epochs: int) -> tuple[Potential, TrainingData, int, int]:
        torch.manual_seed(seed)
        device = torch.device("cpu")
        core = (recipe.core_scale, recipe.core_strength)
        reach = max(settings.cutoff, largest_core(frames.numbers, core[0]))
        data = TrainingData(frames, reach, torch.float32, device)
        everything = np.arange(len(frames))
        model = first_model(data, everything, settings, core, None)
        average = deepcopy(model).requires_grad_(False)
        optimizer = torch.optim.Adam(model.network.trained(), lr=1e-2)
        plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.8, patience=10)
        began, steps, seen = time.process_time(), 0, 0
        for epoch in range(epochs):
            total, order = 0.0, np.random.default_rng([seed, epoch]).permutation(everything)
            for rows in pack(order, data.counts, settings.batch_atoms):
                graph, target = data.batch(rows)
                found = model(graph, create_graph=True)
                loss = (1e3 if name == "mp" else 1e4) * (
                    found.forces - target.forces
                ).square().mean()
                if name != "qm7b":
                    loss = loss + 1e4 * (found.stress - target.stress).square().mean()
                optimizer.zero_grad()
                torch.autograd.backward(loss, inputs=model.network.trained())
                torch.nn.utils.clip_grad_norm_(model.network.trained(), 10.0)
                optimizer.step()
                total, steps, seen = total + float(loss.detach()), steps + 1, seen + len(rows)
                with torch.no_grad():
                    pairs = zip(average.parameters(), model.parameters(), strict=True)
                    for mean, new in pairs:
                        mean.lerp_(new, 1 - min(0.99, (1 + steps) / (10 + steps)))
                if time.process_time() - began > stop:
                    return average, data, steps, seen
            plateau.step(total)
        return average, data, steps, seen

    def rate(frames: Frames) -> float:
        began = time.process_time()
        _, _, _, seen = loop(frames, 4.0, 1000)
        return seen / (time.process_time() - began)

    samples, epochs = plan(system, recipe, rate, seconds)
    began = time.process_time()
    model, data, steps, _ = loop(targets(samples), seconds, 10 * epochs)
    spent = time.process_time() - began
    gauge(model, data, np.arange(samples), settings.batch_atoms)
    return model, {
        "parameters": model.n_parameters,
        "seconds": spent,
        "samples": samples,
        "epochs": epochs,
        "steps": steps,
    }


def errors(system: System, potential: Potential) -> Knobs:
    """Squared error over the variance of the target, on structures never seen."""
    found: Knobs = {}
    for noise in NOISES:
        recipe = replace(
            system.recipe,
            displacement=2 * noise,
            displacement_levels=(1,),
            force_noise=0.0,
            samples=300,
            seed=10_000,
        )
        frames = perturb(system.held, recipe)
        data = TrainingData(frames, potential.cutoff, torch.float32, torch.device("cpu"))
        sums = np.zeros(4)
        for rows in pack(np.arange(len(frames)), frames.counts, 2000):
            graph, target = data.batch(rows)
            told = potential(graph)
            some = graph.periodic
            for place, (a, b) in enumerate(
                ((told.forces, target.forces), (told.stress[some], target.stress[some]))
            ):
                sums[2 * place] += float((a - b).square().sum())
                sums[2 * place + 1] += float(b.square().sum())
        found[f"force_{noise:g}"] = sums[0] / sums[1]
        if sums[3] > 0:
            found[f"stress_{noise:g}"] = sums[2] / sums[3]
    return found


def generate(system: System, potential: Potential, count: int) -> Knobs:
    """Shares of the random starts (seed 1) that come to something good."""
    starts = system.starts(1, count)
    began = time.process_time()
    found = relax(starts, potential, system.stages, batch_atoms=1024)
    spent = time.process_time() - began
    shares = system.judge(found)
    shares["relaxation_steps"] = float(found.structure["steps"].mean())
    spread = math.sqrt(shares["good"] * (1 - shares["good"]) / len(found))
    return {**shares, "good_error": spread, "starts": len(found), "generation_seconds": spent}


if __name__ == "__main__":
    main()
