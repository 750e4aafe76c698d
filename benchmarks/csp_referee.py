"""Crystals from their composition, relaxed and ranked by a universal potential.

What a referee adds to candidates, and what candidates that were relaxed on E~ first save it.
``--targets`` and ``--compounds`` as in csp.py, ``--candidates`` a compound. ``--ways``:

- ``substituted``: crystals of ``mp_pool.extxyz`` most like the compound, as they are.
- ``sub_ours``: the same, relaxed on the potential first.
- ``starts``: random starts as they are.
- ``repulsion``: the same starts, relaxed on a soft repulsion first.
- ``ours``: the same starts, relaxed on the potential (``--potential``) first.

``--calculator`` relaxes all of them and the known structure (free cell, ``--fmax``, at most
``--max-steps``). Needs AIIDA_RM_DATA and that calculator: ``pip install chgnet`` for the default,
which carries its weights. It was trained on the Materials Project, from which these compounds are.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish
from csp import (
    SHIPPED,
    Figures,
    candidates,
    compounds,
    judge,
    protocol,
    relaxed,
    substituted,
    summary,
)

from aiida_rm.engine import ase_relaxation
from aiida_rm.engine.ase_relaxation import CONVERGED
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.settings import RelaxSettings, parse_settings

#: Energies that differ by less, in eV per atom, are those of one structure.
_SAME = 0.005


def main() -> None:
    """Relax every way's candidates by the referee; a line of JSON a way, then all figures."""
    given = arguments(
        __doc__ or "",
        targets="suite15",
        compounds=60,
        candidates=8,
        ways="starts,repulsion,ours",
        potential=str(SHIPPED),
        settings='{"distance_scale": 0.7, "volume_scale": []}',
        calculator="chgnet.model.dynamics:CHGNetCalculator",
        arguments='{"use_device": "cpu"}',
        fmax=0.05,
        max_steps=200,
    )
    warnings.filterwarnings("ignore")
    referee = parse_settings(
        RelaxSettings,
        {
            "calculator": given.calculator,
            "arguments": json.loads(given.arguments),
            "cell": "free",
            "fmax": given.fmax,
            "max_steps": given.max_steps,
        },
    )
    targets = compounds(given.targets, 3 if given.quick else given.compounds)
    count = 2 if given.quick else given.candidates
    potential = Potential.load(Path(given.potential), dtype=torch.float32)
    knobs = {**protocol(), **json.loads(given.settings)}
    known = refereed(targets.with_labels(structure={"target": np.arange(len(targets))}), referee)
    figures: Figures = {"known": cost(known)}
    for way in given.ways.split(","):
        if way.startswith("sub"):
            starts = substituted(targets, potential, knobs, given.seed, count)
        else:
            starts = candidates(targets, potential, knobs, given.seed, count, 0.0)
        began = time.process_time()
        before = relaxed(way, starts, potential, knobs)
        seconds = (time.process_time() - began) / len(before)
        after = refereed(before, referee)
        figures[way] = {
            "before": summary(judge(before, targets), count),
            "after": summary(judge(after, targets), count),
            **against_known(after, known),
            **cost(after),
            "seconds_before": seconds,
        }
        print(json.dumps({"way": way, **figures[way]}), flush=True)
    finish("csp_referee", given.seed, {"candidates": count, **figures})


def refereed(frames: Frames, referee: RelaxSettings) -> Frames:
    """Relaxed by the referee, with ``target``, ``energy_per_atom`` and ``seconds`` of each.

    What failed has no energy; what only took too many steps keeps its own.
    """
    began = [time.process_time()]
    found, _ = ase_relaxation.judge(
        frames, referee, on_structure=lambda _done, _all: began.append(time.process_time())
    )
    # A structure that ended with an exception is not told; its time is the next one's.
    spent = float(began[-1] - began[0]) / len(frames)
    return found.with_labels(
        structure={
            "target": frames.structure["target"],
            "energy_per_atom": found.structure["energy"] / found.counts,
            "seconds": np.full(len(found), spent),
        }
    )


def against_known(after: Frames, known: Frames) -> dict[str, Any]:
    """The lowest of each compound beside its known structure, both as the referee has them."""
    energy, owner = after.structure["energy_per_atom"], after.structure["target"]
    lowest = np.full(len(known), np.nan)
    for number in range(len(known)):
        own = energy[owner == number]
        lowest[number] = np.nanmin(own) if np.isfinite(own).any() else np.nan
    above = lowest - known.structure["energy_per_atom"]
    each = energy - known.structure["energy_per_atom"][owner]
    return {
        "lowest_above_known_median": float(np.nanmedian(above)),
        "lowest_at_most_known": float((above <= _SAME).mean()),
        "lowest_below_known": float((above < -_SAME).mean()),
        "candidates_within_0.1_eV": float((each <= 0.1).mean()),
        "candidates_above_known_median": float(np.nanmedian(each)),
    }


def cost(found: Frames) -> dict[str, Any]:
    """What the referee took."""
    return {
        "converged": float(np.mean(found.structure["verdict"] == CONVERGED)),
        "steps": float(found.structure["steps"].mean()),
        "referee_seconds": float(found.structure["seconds"].mean()),
    }


if __name__ == "__main__":
    main()
