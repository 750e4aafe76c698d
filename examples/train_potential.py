"""A trained potential from one command, with the settings of a protocol and the engine alone.

    python examples/train_potential.py diamond.safetensors
    python examples/train_potential.py molecules.safetensors qm7b.extxyz --epochs 30
    python examples/train_potential.py crystals.safetensors mp_pool.extxyz --epochs 20
    python examples/train_potential.py x.safetensors mp_pool.extxyz --train '{"features": 48}'
    python examples/train_potential.py better.safetensors qm7b.extxyz --begin molecules.safetensors

Without a dataset it is one diamond. The dataset is whatever ``rm`` reads (extxyz, CIF, csv, ASE
db...); one without cells is taken as molecules. The potentials beside this file were made so.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from ase.build import bulk

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings
from aiida_rm.engine.tasks import use_threads
from aiida_rm.engine.training.trainer import Trainer
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.protocols import kinds_by


def main() -> int:
    """Read, perturb, train, save."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path, help="the potential to write")
    parser.add_argument("dataset", type=Path, nargs="?", help="stable structures")
    parser.add_argument("--protocol", default="balanced", help="fast, balanced or stringent")
    parser.add_argument("--epochs", type=int, help="instead of the protocol's")
    parser.add_argument("--samples", type=int, help="perturbed structures, instead")
    parser.add_argument("--hold-out", type=int, default=0, help="structures left out, at random")
    parser.add_argument("--train", default="{}", help="JSON: other settings of the training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--begin", type=Path, help="begin with the weights of this potential")
    given = parser.parse_args()
    if not given.output.parent.is_dir():
        parser.error(f"there is no folder {given.output.parent} for {given.output.name}")
    try:
        frames = without_some(stable(given.dataset), given.hold_out)
        potential = Potential.load(given.begin) if given.begin else None
        recipe, knobs = settings(frames, given)
        use_threads(knobs.threads)
        train(given.output, frames, recipe, knobs, potential)
    except (EngineError, ValueError) as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def stable(dataset: Path | None) -> Frames:
    """The structures to learn from; what cannot be read is told and left out."""
    if dataset is None:
        return from_ase([bulk("C", "diamond", a=3.567)])
    found = read_dataset(dataset)
    for problem in found.problems:
        print(f"left out: {problem}")
    frames = found.frames.without_labels()
    if not frames.cells.any():
        return replace(frames, pbc=np.zeros_like(frames.pbc))
    return frames


def without_some(frames: Frames, count: int) -> Frames:
    """All but so many, to judge the potential on; the same ones every time."""
    if count < 0 or count >= len(frames):
        raise ValueError(f"--hold-out is {count}; it must be from 0 to {len(frames) - 1}")
    order = np.random.default_rng(0).permutation(len(frames))
    return frames.select(np.sort(order[count:])) if count else frames


def settings(frames: Frames, given: argparse.Namespace) -> tuple[PerturbSettings, TrainSettings]:
    """What the loop would take by this protocol, and what is asked for instead."""
    try:
        asked = json.loads(given.train)
    except ValueError as error:
        raise ValueError(f"--train is not JSON: {error}") from error
    kinds = kinds_by(len(frames), molecules=not frames.pbc.any())
    inputs = LoopWorkChain.get_protocol_inputs(given.protocol, kinds=kinds)
    recipe = {**inputs["perturb"]["settings"], "seed": given.seed}
    knobs = {**inputs["train"]["train"]["settings"], "seed": given.seed, **asked}
    if given.samples is not None:
        recipe["samples"] = given.samples
    if given.epochs is not None:
        knobs["epochs"] = given.epochs
    return parse_settings(PerturbSettings, recipe), parse_settings(TrainSettings, knobs)


def train(
    output: Path,
    frames: Frames,
    recipe: PerturbSettings,
    settings: TrainSettings,
    begin: Potential | None,
) -> None:
    """Perturb, train, save."""
    began = time.monotonic()
    trainer = Trainer(perturb(frames, recipe), settings, begin)
    outcome = trainer.run(
        on_epoch=lambda m: print(
            f"epoch {m['epoch']:.0f} of {m['epochs']:.0f}: force error {m['force_error']:.3f}, "
            f"stress error {m['stress_error']:.3f}, {m['structures_per_second']:.0f} structures/s",
            flush=True,
        )
    )
    outcome.potential.save(output)
    minutes = (time.monotonic() - began) / 60
    print(f"{output}: {outcome.potential.n_parameters} parameters, {minutes:.1f} minutes")


if __name__ == "__main__":
    sys.exit(main())
