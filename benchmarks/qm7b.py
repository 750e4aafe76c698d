"""Molecules of nine formulas from random points: how many are what a chemist would draw?

Needs AIIDA_RM_DATA with qm7b.extxyz for novelty and for the E~ of the training set, and rdkit and
posebusters. ``--potential`` is by default the one in examples/potentials; ``--stages`` a JSON list
of stages, by default those of the protocol. ``--committee A,B,...``, files of potentials trained on
the same set with other seeds, judges the hops. Says what the best of k starts of a formula are
worth, and those that are as near to the training set as its own molecules are to each other.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish, table
from systems import FORMULAS, chemistry_of, qm7b

from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.labels import CHECKS, check_label
from aiida_rm.engine.latent import latent_labels
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax, with_uncertainty
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, parse_settings
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.protocols import MANY, for_search, kinds_by

_SHIPPED = Path(__file__).parent.parent / "examples" / "potentials" / "qm7b.safetensors"
#: E~ per atom of a structure is in the training range below this quantile of the training set's.
_QUANTILE = 0.99
#: Or nearer to the training set than so many percent of its own molecules are to the others.
_PERCENTS = (80, 90, 95, 99)
_BEST_OF = (1, 2, 4, 8, 16)


def main() -> None:
    """Generate, judge, print the table and the JSON line."""
    given = arguments(
        __doc__ or "", potential=str(_SHIPPED), each=0, stages="", bust=1, committee=""
    )
    each = given.each or (4 if given.quick else 24)
    potential = Potential.load(Path(given.potential), dtype=torch.float32)
    names = given.committee.split(",") if given.committee else []
    aware = potential.environments is not None
    asked = generation(given.stages, given.seed, each, committee=bool(names), aware=aware)
    settings = parse_settings(GenerateSettings, asked)
    members = [Potential.load(Path(name), dtype=torch.float32) for name in names]
    began = time.process_time()
    found = generate(potential, settings, members)
    seconds = time.process_time() - began
    trained = qm7b().stable
    energies, known = training_set(potential, trained)
    limit = float(np.quantile(energies, _QUANTILE))
    relaxed = np.isfinite(found.structure["energy"])
    if members:
        found = with_uncertainty(found, [potential, *members], relaxed)
    labels = latent_labels(found, [potential, *members], settings.ranking_weight)
    found = found.with_labels(structure=labels)
    figures = judge(found, limit, known, checks=bool(given.bust))
    figures |= {
        "starts": len(found),
        "converged": float((found.structure["status"] == 0).mean()),
        "energy_per_atom_limit": limit,
        "seconds_per_molecule": seconds / len(found),
        "mean_steps": float(found.structure["steps"].mean()),
    }
    table([(name, value) for name, value in figures.items() if not isinstance(value, dict)])
    for name, value in figures.items():
        if isinstance(value, dict):
            print(name, json.dumps(value))
    finish("qm7b", given.seed, figures)


def generation(
    stages: str, seed: int, each: int, *, committee: bool, aware: bool
) -> dict[str, Any]:
    """The protocol's settings for molecules, with other stages if any are given.

    ``aware``: the potential remembers its training set.
    """
    kinds = for_search(kinds_by(MANY, molecules=True), committee=committee, environments=aware)
    inputs = GenerateWorkChain.get_protocol_inputs(kinds=kinds)
    settings = {**inputs["generate"]["settings"], "seed": seed, "n_structures": each}
    if stages:
        settings["stages"] = json.loads(stages)
    return {**settings, "formulas": list(FORMULAS)}


def generate(
    potential: Potential, settings: GenerateSettings, members: Sequence[Potential] = ()
) -> Frames:
    """``n_structures`` of each formula, relaxed together."""
    parts = []
    for number, formula in enumerate(settings.formulas):
        one = parse_settings(
            GenerateSettings,
            {
                **settings.__dict__,
                "stages": [stage.__dict__ for stage in settings.stages],
                "formulas": [formula],
                "seed": len(settings.formulas) * settings.seed + number,
            },
        )
        parts.append(make_starts(range(one.n_structures), one, potential.notes)[0])
    return relax(
        concatenate(parts),
        potential,
        settings.stages,
        batch_atoms=settings.batch_atoms,
        skin=settings.skin,
        floor=settings.floor,
        members=members,
    )


def training_set(potential: Potential, frames: Frames) -> tuple[np.ndarray, set[str]]:
    """E~ per atom of each stable structure, and the SMILES there are."""
    energies = []
    for rows in np.array_split(np.arange(len(frames)), max(1, len(frames) // 64)):
        graph = build_graph(frames.select(rows), potential.cutoff, dtype=torch.float32)
        energies.append(potential(graph).energy.numpy() / frames.counts[rows])
    smiles = set(chemistry_of(frames, "perceive")["smiles"].tolist())
    return np.concatenate(energies), smiles - {""}


def judge(
    frames: Frames, limit: float, known: set[str], *, checks: bool
) -> dict[str, float | dict[str, float]]:
    """Shares of all starts, and of those whose E~ per atom is below the limit."""
    labels = chemistry_of(frames, "posebusters" if checks else "perceive")
    sound = labels["sound"]
    clean = sound
    figures: dict[str, Any] = {"sound": float(sound.mean())}
    if checks:
        clean = labels["clean"]
        figures["clean"] = float(clean.mean())
        figures["checks_of_sound"] = {
            name: float(labels[check_label(name)][sound].mean()) for name in CHECKS if sound.any()
        }
    low = frames.structure["energy_per_atom"] <= limit
    smiles = labels["smiles"][clean].tolist()
    formulas = frames.formulas()
    figures |= {
        "verdicts": dict(Counter(labels["verdict"].tolist())),
        "in_training_range": float(low.mean()),
        "good_of_those": float(clean[low].mean()) if low.any() else 0.0,
        "unique_of_good": len(set(smiles)) / max(len(smiles), 1),
        "novel_of_good": float(np.mean([s not in known for s in smiles])) if smiles else 0.0,
        "by_formula": {
            formula: float(clean[[f == formula for f in formulas]].mean())
            for formula in sorted(set(formulas))
        },
    }
    if np.isfinite(frames.structure["latent_percentile"]).any():
        for percent in _PERCENTS:
            near = frames.structure["latent_percentile"] <= percent
            figures[f"within_{percent}_percent"] = {
                "share": float(near.mean()),
                "sound": float(sound[near].mean()) if near.any() else 0.0,
                "clean": float(clean[near].mean()) if near.any() else 0.0,
            }
    measures = ("energy_per_atom", "committee_energy_per_atom", "uncertainty_mean")
    for name in (*measures, "latent_distance", "ranking"):
        if name in frames.structure:
            figures[f"sound_best_by_{name}"] = best_of(frames, name, sound)
    return figures


def best_of(frames: Frames, name: str, good: np.ndarray) -> dict[str, float]:
    """Shares of good ones among the best of every k starts of a formula, lowest in a label."""
    values = np.nan_to_num(frames.structure[name], nan=np.inf)
    formulas = np.array(frames.formulas())
    order = np.lexsort((frames.structure["index"], formulas))
    shares = {}
    for k in _BEST_OF:
        picked = []
        for formula in sorted(set(formulas)):
            rows = order[formulas[order] == formula]
            groups = np.array_split(rows, max(1, len(rows) // k))
            picked += [group[np.argmin(values[group])] for group in groups]
        shares[str(k)] = float(good[picked].mean())
    return shares


if __name__ == "__main__":
    main()
