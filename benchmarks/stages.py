"""What each stage of a schedule buys: the same starts, sent different ways, over three seeds.

``--system diamond|qm7b|mp``, ``--potential`` a trained potential, ``--schedules`` names in
SCHEDULES with semicolons between, ``--starts`` of each seed. *Good* is what system.judge says.
"""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish
from systems import SYSTEMS, System

from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.settings import GenerateSettings, Stage

Stages = tuple[Stage, ...]
_SEEDS = (1, 2, 3)


def molecules() -> dict[str, Stages]:
    """Ways of molecules; the last descent is the same."""
    fall = Stage(cell="fixed", fmax=1e-3, max_steps=500)
    hop = Stage(kind="hop", cell="fixed", amplitude=0.75, fmax=2e-3, max_steps=300)
    bath = Stage(kind="langevin", cell="fixed", time_step=0.3, friction=0.5, max_steps=500)
    moves = {
        "descent": (),
        "descent, jitter 0.75": (fall, Stage(kind="jitter", cell="fixed", amplitude=0.75)),
        "hop 4": (replace(hop, cycles=4),),
        "hop 8": (replace(hop, cycles=8),),
        "hop 8, join": (replace(hop, cycles=8, moves=("jitter", "join")),),
        "hop 40, join": (replace(hop, cycles=40, moves=("jitter", "join")),),
        "hop 8, T 0.05": (replace(hop, cycles=8, temperature=0.05),),
        "hop 8, amplitude 0.5": (replace(hop, cycles=8, amplitude=0.5),),
        "Langevin 0.05, 500": (fall, replace(bath, temperature=0.05)),
        "Langevin 0.2, 500": (fall, replace(bath, temperature=0.2)),
        "Langevin 0.2, 1500": (fall, replace(bath, temperature=0.2, max_steps=1500)),
        "Langevin 0.2, 500, hop 4": (fall, replace(bath, temperature=0.2), replace(hop, cycles=4)),
    }
    return _with_fire({name: (*way, fall) for name, way in moves.items()})


def crystals() -> dict[str, Stages]:
    """Ways of crystals; the last descent is the same."""
    first = Stage(cell="fixed", fmax=0.05, max_steps=60)
    fall = Stage(fmax=5e-3, max_steps=400)
    hop = Stage(kind="hop", cell="free", amplitude=0.6, fmax=0.02, max_steps=150)
    far = ("jitter", "swap", "strain")
    bath = Stage(kind="langevin", time_step=0.3, friction=0.5, max_steps=200, cell="fixed")
    moves = {
        "free cell": (),
        "fixed cell first": (first,),
        "hydrostatic first": (Stage(cell="hydrostatic", fmax=0.05, max_steps=60),),
        "jitter 0.5": (first, fall, Stage(kind="jitter", amplitude=0.5)),
        "hop 5": (first, replace(hop, cycles=5)),
        "hop 5, swaps": (first, replace(hop, cycles=5, moves=("jitter", "swap"))),
        "hop 10": (first, replace(hop, cycles=10)),
        "hop 10, swap, strain": (first, replace(hop, cycles=10, moves=far, strain=0.3)),
        "hop 20, swap, strain": (first, replace(hop, cycles=20, moves=far, strain=0.3)),
        "Langevin 0.1": (first, replace(bath, temperature=0.1)),
        "Langevin 0.3": (first, replace(bath, temperature=0.3)),
    }
    return _with_fire({name: (*way, fall) for name, way in moves.items()})


def carbons() -> dict[str, Stages]:
    """Ways of one diamond's carbons; the last descent is the same."""
    fall = Stage(fmax=5e-4, max_steps=500)
    bath = Stage(kind="langevin", time_step=0.3, friction=0.5, max_steps=200, temperature=0.1)
    moves = {
        "free cell": (),
        "fixed cell first": (Stage(cell="fixed", fmax=0.05, max_steps=100),),
        "jitter 0.5": (fall, Stage(kind="jitter", amplitude=0.5)),
        "hop 5": (Stage(kind="hop", cycles=5, amplitude=0.5, fmax=0.01, max_steps=150),),
        "Langevin 0.1, fixed cell": (replace(bath, cell="fixed"),),
        "Langevin 0.1, free cell": (bath,),
    }
    return _with_fire({name: (*way, fall) for name, way in moves.items()})


def _with_fire(ways: dict[str, Stages]) -> dict[str, Stages]:
    """The simplest ways by FIRE, too."""
    for name in ("descent", "free cell", "fixed cell first"):
        if name in ways:
            ways[f"{name}, FIRE"] = tuple(replace(stage, optimizer="fire") for stage in ways[name])
    return ways


SCHEDULES = {"qm7b": molecules, "mp": crystals, "diamond": carbons}


def main() -> None:
    """Send the starts each way, a line of JSON a way."""
    given = arguments(__doc__ or "", system="diamond", potential="", schedules="", starts=108)
    system = SYSTEMS[given.system]()
    folder = Path(__file__).resolve().parents[1] / "examples" / "potentials"
    file = Path(given.potential or folder / f"{given.system}.safetensors")
    potential = Potential.load(file, dtype=torch.float32)
    known = SCHEDULES[given.system]()
    seeds, count = (_SEEDS[:1], 27) if given.quick else (_SEEDS, given.starts)
    figures = {}
    for name in given.schedules.split(";") if given.schedules else known:
        figures[name] = judge(system, potential, known[name], seeds, count)
        print(json.dumps({"system": given.system, "way": name, **figures[name]}), flush=True)
    finish("stages", given.seed, {"system": given.system, "starts": count, "ways": figures})


def judge(
    system: System, potential: Potential, stages: Stages, seeds: tuple[int, ...], count: int
) -> dict[str, Any]:
    """Shares of good ones for each seed of the starts, their mean, and what it takes."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        starts = system.starts(seed, count)
        began = time.process_time()
        found = relax(starts, potential, stages, floor=GenerateSettings().floor)
        seconds = time.process_time() - began
        rows.append(
            {
                **system.judge(found),
                "steps": float(found.structure["steps"].mean()),
                "energy_per_atom": float(np.nanmedian(found.structure["energy_per_atom"])),
                "seconds_per_structure": seconds / len(found),
            }
        )
    means = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    return {"good_of_seeds": [row["good"] for row in rows], **means}


if __name__ == "__main__":
    main()
