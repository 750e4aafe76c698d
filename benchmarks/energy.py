"""Does a potential generate better when it learns E~ itself, besides its derivatives?

``--system qm7b|mp|diamond``. The potential ``--begin`` (by default that of examples/potentials) is
trained further on ``--samples`` perturbed structures for ``--epochs``, once for each of
``--weights`` of E~. Then all of them, and the potential as it was (before), relax the same
``--starts``: molecules by basin hopping of ``--cycles``, else by the stages of systems.py.
Prints the share of good structures, and for molecules how well E~ tells them apart (AUC).
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish
from systems import SYSTEMS, System, chemistry_of

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import Stage
from aiida_rm.engine.training.trainer import Trainer

_POTENTIALS = Path(__file__).parent.parent / "examples" / "potentials"
Figures = dict[str, Any]


def main() -> None:
    """Train and judge the variants, one line of JSON each."""
    given = arguments(
        __doc__ or "",
        system="qm7b",
        begin="",
        weights="0,0.1",
        samples=8000,
        epochs=6,
        starts=108,
        cycles="8,20",
        save="",
    )
    if given.quick:
        given.samples, given.epochs, given.starts, given.cycles = 400, 1, 18, "2"
    system = SYSTEMS[given.system]()
    begin = Path(given.begin) if given.begin else _POTENTIALS / f"{given.system}.safetensors"
    cycles = [int(part) for part in given.cycles.split(",")]
    figures: dict[str, Figures] = {}
    for weight in ("before", *given.weights.split(",")):
        potential, row = Potential.load(begin, dtype=torch.float32), {}
        if weight != "before":
            potential, row = train(system, potential, float(weight), given)
            if given.save:
                Path(given.save).mkdir(parents=True, exist_ok=True)
                potential.save(Path(given.save) / f"{given.system}-{weight}.safetensors")
        figures[weight] = row | judge(system, potential, given, cycles)
        print(json.dumps({"weight": weight, **figures[weight]}), flush=True)
    finish("energy", given.seed, {"system": given.system, "weights": figures})


def train(system: System, begin: Potential, weight: float, given: Any) -> tuple[Potential, Figures]:
    """Some more epochs from the weights of a potential; all weights from the same copies."""
    recipe = replace(system.recipe, seed=given.seed + 1, samples=given.samples)
    shape = begin.network.shape.to_plain()
    knobs = {k: tuple(v) if isinstance(v, list) else v for k, v in shape.items()}
    settings = replace(
        system.train,
        **knobs,
        architecture=begin.architecture,
        seed=given.seed + 1,
        epochs=given.epochs,
        energy_weight=weight,
        validation_fraction=0.03,
    )
    began = time.process_time()
    order = np.random.default_rng(given.seed).permutation(len(system.stable))
    perturbed = perturb(system.stable.select(np.sort(order[: given.samples])), recipe)
    potential = Trainer(perturbed, settings, begin).run().potential
    return potential, {"seconds": time.process_time() - began}


def judge(system: System, potential: Potential, given: Any, cycles: list[int]) -> Figures:
    """What becomes of the same starts, and what E~ says of it."""
    starts = system.starts(given.seed + 1, given.starts)
    if given.system != "qm7b":
        found = relax(starts, potential, system.stages, floor=-0.5)
        return dict(system.judge(found))
    figures: Figures = {}
    for count in cycles:
        hop = Stage(
            kind="hop",
            cell="fixed",
            cycles=count,
            moves=("jitter", "join"),
            amplitude=0.75,
            fmax=2e-3,
            max_steps=300,
        )
        began = time.process_time()
        stages = (hop, Stage(cell="fixed", fmax=2e-4, max_steps=1000))
        found = relax(starts, potential, stages, floor=-0.5)
        seconds = time.process_time() - began
        labels = chemistry_of(found, "perceive")
        figures[f"{count} cycles"] = {
            "sound": float(labels["sound"].mean()),
            "auc": auc(found.structure["energy_per_atom"], labels["sound"]),
            "seconds_each": seconds / len(starts),
            "verdicts": dict(Counter(labels["verdict"].tolist()).most_common()),
        }
    return figures


def auc(values: np.ndarray, good: np.ndarray) -> float | None:
    """The chance that a good one has a lower value than a bad one; None without either."""
    finite = np.isfinite(values)
    low, high = values[finite & good], values[finite & ~good]
    return float((low[:, None] < high[None]).mean()) if len(low) and len(high) else None


if __name__ == "__main__":
    main()
