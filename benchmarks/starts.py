"""What each prior on the random starts buys: volumes, distances, symmetry, boxes.

``--system diamond|qm7b|mp``, ``--potential`` a trained potential, ``--variants`` a comma-separated
list of names in VARIANTS. All variants share the potential, the relaxer and the compositions;
``null`` rows judge the starts as they are.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, finish
from systems import SYSTEMS, System

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax

Knobs = dict[str, Any]
#: Changes to the settings of the random starts of a system.
VARIANTS: dict[str, dict[str, Knobs]] = {
    "mp": {
        "range 0.95-1.15": {},
        "range 0.9-1.3": {"volume_scale": (0.9, 1.3)},
        "spread": {"volume_scale": ()},
        "range, distances 0.6": {"distance_scale": 0.6},
        "range, distances 0.7": {"distance_scale": 0.7},
        "range, distances 0.8": {"distance_scale": 0.8},
        "range, distances 0.9": {"distance_scale": 0.9},
        "spread, distances 0.7": {"volume_scale": (), "distance_scale": 0.7},
        "spread, distances 0.8": {"volume_scale": (), "distance_scale": 0.8},
        "half symmetric": {"symmetry": 0.5},
        "symmetric": {"symmetry": 1.0},
        "symmetric, rattled 0.05": {"symmetry": 1.0, "rattle": 0.05},
        "symmetric, spread, distances 0.7": {
            "symmetry": 1.0,
            "volume_scale": (),
            "distance_scale": 0.7,
        },
    },
    "qm7b": {
        "box 10x5x5": {},
        "box by size": {"box": (), "volume_scale": (0.9, 1.3)},
        "box by size and spread": {"box": (), "volume_scale": ()},
        "half the box by size": {"box": (), "volume_scale": (0.45, 0.65)},
        "twice the box by size": {"box": (), "volume_scale": (1.8, 2.6)},
        "distances 0.6": {"distance_scale": 0.6},
        "distances 0.8": {"distance_scale": 0.8},
        "box by size, distances 0.8": {"box": (), "distance_scale": 0.8},
    },
    "diamond": {
        "default": {},
        "distances 0.6": {"distance_scale": 0.6},
        "distances 0.8": {"distance_scale": 0.8},
        "symmetric": {"symmetry": 1.0},
        "half symmetric": {"symmetry": 0.5},
    },
}


def main() -> None:
    """Relax and judge each variant, one line of JSON each."""
    given = arguments(__doc__ or "", system="mp", potential="", variants="", starts=480)
    system = SYSTEMS[given.system]()
    folder = Path(__file__).resolve().parents[1] / "examples" / "potentials"
    potential = Potential.load(given.potential or folder / f"{given.system}.safetensors")
    known = VARIANTS[given.system]
    count = min(given.starts, 60) if given.quick else given.starts
    figures = {}
    for name in given.variants.split(",") if given.variants else known:
        row = judge(system, potential, known[name], count, given.seed + 1)
        figures[name] = row
        print(json.dumps({"system": given.system, "variant": name, **row}), flush=True)
    finish("starts", given.seed, {"system": given.system, "variants": figures})


def judge(system: System, potential: Potential, knobs: Knobs, count: int, seed: int) -> Knobs:
    """Shares of the starts that come to something good, and of those that were so already."""
    began = time.process_time()
    starts = system.starts(seed, count, **knobs)
    made = time.process_time() - began
    shares = system.judge(finished(starts))
    null = {f"null_{name}": value for name, value in shares.items() if name != "converged"}
    began = time.process_time()
    found = relax(starts, potential, system.stages, batch_atoms=1024)
    spent = time.process_time() - began
    shares = system.judge(found)
    spread = math.sqrt(shares["good"] * (1 - shares["good"]) / len(found))
    return {
        **shares,
        "good_error": spread,
        **null,
        "steps": float(found.structure["steps"].mean()),
        "starts": len(found),
        "start_seconds": made,
        "relax_seconds": spent,
    }


def finished(starts: Frames) -> Frames:
    """Starts with the labels of a relaxation that did nothing."""
    zero = np.zeros(len(starts))
    return starts.with_labels(structure={"status": zero.astype(np.int8), "energy": zero})


if __name__ == "__main__":
    main()
