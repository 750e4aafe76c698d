"""From one diamond: how many random starts become sensible carbon, and which carbon?

The engine alone, with the settings of the protocol ``balanced`` (``fast`` with ``--quick``), or
other stages of the search (``--stages``, a JSON list).
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import torch
import yaml
from common import arguments, finish, table

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.scoring.known import carbon_allotropes
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import (
    GenerateSettings,
    PerturbSettings,
    ScoreSettings,
    TrainSettings,
    parse_settings,
)
from aiida_rm.engine.training.trainer import Trainer
from aiida_rm.workflows.loop import LoopWorkChain


def diamond() -> Frames:
    """The primitive cell, a = 3.567 A."""
    half = 3.567 / 2
    cell = half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Frames.build([[6, 6]], [[[0, 0, 0], [half / 2] * 3]], [cell])


def main() -> None:
    """Print the table and the JSON line."""
    given = arguments(__doc__, starts=100, protocol="balanced", stages="")
    inputs = LoopWorkChain.get_protocol_inputs("fast" if given.quick else given.protocol)
    knobs: dict[str, Any] = {
        "perturb": inputs["perturb"]["settings"],
        "train": inputs["train"]["train"]["settings"],
        "generate": inputs["generate"]["generate"]["settings"],
        "score": inputs["validate"]["score"]["settings"],
    }
    if given.stages:
        knobs["generate"] = {**knobs["generate"], "stages": json.loads(given.stages)}
    print(yaml.safe_dump(knobs))
    began = time.perf_counter()
    frames = perturb(
        diamond(), parse_settings(PerturbSettings, {**knobs["perturb"], "seed": given.seed})
    )
    trainer = Trainer(frames, parse_settings(TrainSettings, {**knobs["train"], "seed": given.seed}))
    outcome = trainer.run(
        on_epoch=lambda m: print(
            f"epoch {m['epoch']:.0f}: force error {m['force_error']:.3f}, "
            f"stress error {m['stress_error']:.3f}",
            flush=True,
        )
    )
    trained = time.perf_counter() - began
    settings = parse_settings(
        GenerateSettings,
        {**knobs["generate"], "seed": given.seed, "n_structures": given.starts},
    )
    potential = outcome.potential.to(getattr(torch, settings.dtype))
    starts, impossible = make_starts(range(given.starts), settings, potential.notes)
    began = time.perf_counter()
    found = relax(
        starts,
        potential,
        settings.stages,
        batch_atoms=settings.batch_atoms,
        skin=settings.skin,
        floor=settings.floor,
    )
    generated = time.perf_counter() - began
    score_settings = parse_settings(ScoreSettings, knobs["score"])
    began = time.perf_counter()
    scored, summary = score(found, score_settings, None, carbon_allotropes(), None)
    judged = time.perf_counter() - began
    converged = scored.structure["status"] == 0
    low, high = scored.structure["coordination_min"], scored.structure["coordination_max"]
    sensible = converged & (low >= 3) & (high <= 4)
    figures = {
        "starts": given.starts,
        "impossible_starts": len(impossible),
        "parameters": potential.n_parameters,
        "training_seconds": trained,
        "generation_seconds": generated,
        "scoring_seconds": judged,
        "mean_steps": float(scored.structure["steps"].mean()),
        "converged": float(converged.mean()),
        "three_or_fourfold": float(sensible.mean()),
        "all_fourfold": float((converged & (low == 4) & (high == 4)).mean()),
        "matches": summary["matches"],
        "unique": summary["unique"],
    }
    table(list(figures.items()))
    figures["carbons"] = carbons(scored)
    figures["unnamed"] = unnamed(scored)
    finish("diamond", given.seed, figures)


def carbons(scored: Frames) -> dict[str, dict[str, float]]:
    """By name: share of the starts, and the medians of E~ and of the volume per atom."""
    names = np.array([name or "other" for name in scored.structure["match"]], dtype="<U40")
    names[scored.structure["status"] != 0] = "not converged"
    found = {}
    for name in sorted(set(names), key=lambda name: -int((names == name).sum())):
        own = names == name
        found[name] = {
            "share": float(own.mean()),
            "energy_per_atom": float(np.nanmedian(scored.structure["energy_per_atom"][own])),
            "volume_per_atom": float(np.median(scored.structure["volume_per_atom"][own])),
        }
    for name, row in found.items():
        print(f"{name:20}", *(f"{value:9.4f}" for value in row.values()))
    return found


def unnamed(scored: Frames, most: int = 8) -> list[dict[str, Any]]:
    """The most frequent carbons without a name."""
    labels = scored.structure
    owners = labels["duplicate_of"]
    rows, times = np.unique(owners[(owners >= 0) & (labels["match"] == "")], return_counts=True)
    found = []
    for row, count in sorted(zip(rows, times, strict=True), key=lambda item: -item[1])[:most]:
        found.append(
            {
                "share": float(count / len(scored)),
                "spacegroup": int(labels["spacegroup"][row]),
                "atoms": int(scored.counts[row]),
                "coordination": float(labels["coordination_mean"][row]),
                "energy_per_atom": float(labels["energy_per_atom"][row]),
                "volume_per_atom": float(labels["volume_per_atom"][row]),
            }
        )
        print(*(f"{value:9.4g}" for value in found[-1].values()))
    return found


if __name__ == "__main__":
    main()
