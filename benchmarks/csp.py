"""Crystals from their composition alone: how often is the known one found, and by chance?

``--targets suite15`` (the 15 compounds of ``suite15.extxyz``) or ``mp_test`` (``--compounds`` of
``mp_dev_test.extxyz``, drawn by seed 0); ``--candidates`` a compound. Needs AIIDA_RM_DATA.
``--ways``, compared in the same run:

- ``ours``: random starts, a share ``--symmetry`` of them with a space group (pyxtal), relaxed on
  the potential (``--potential``, by default that in examples/potentials, never trained on these).
- ``hop``: the same, with 20 cycles of basin hopping between.
- ``far_hop``: the same, judged by E~ and the latent distance (``--latent`` times it an atom).
- ``repulsion``: the same starts, relaxed on a soft repulsion alone.
- ``starts``: the same starts as they are.
- ``pyxtal``: starts that all have a space group, as they are.
- ``substituted``: the crystals of ``mp_pool.extxyz`` that are most like the compound, with its
  elements (``seeding: substitute``), as they are; those of a target's composition are left out.
- ``sub_volume``, ``sub_ours``: the same, relaxed on the potential with a cell of fixed shape, free.

A candidate is right when pymatgen's StructureMatcher finds it equal to the known structure: loose
(ltol 0.3, stol 0.5, angle 10), the field's tolerance, and tight (0.2, 0.3, 5), pymatgen's default.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, finish
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Composition
from systems import load

from aiida_rm.engine.converters import to_pymatgen
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.latent import latent_labels
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.local import LocalHyperparameters
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, Stage, parse_settings
from aiida_rm.workflows.generate import GenerateWorkChain

SHIPPED = Path(__file__).parent.parent / "examples" / "potentials" / "mp.safetensors"
_MATCHERS = {
    "loose": StructureMatcher(ltol=0.3, stol=0.5, angle_tol=10),
    "tight": StructureMatcher(ltol=0.2, stol=0.3, angle_tol=5),
}
#: A compound that the null finds in so many of its candidates is given away.
_GIVEN_AWAY = 0.5
_FALL = (Stage(cell="fixed", fmax=0.05, max_steps=60), Stage(fmax=5e-3, max_steps=400))
_VOLUME = (Stage(cell="hydrostatic", fmax=5e-3, max_steps=400),)
_HOPS = (
    _FALL[0],
    Stage(
        kind="hop",
        cycles=20,
        moves=("jitter", "swap", "strain"),
        amplitude=0.6,
        strain=0.3,
        fmax=0.02,
        max_steps=150,
    ),
    _FALL[1],
)
#: What the best candidate of a compound is chosen by.
_ORDERS = (("energy", "energy_per_atom"), ("ranking", "ranking"), ("latent", "latent_distance"))
Figures = dict[str, Any]


def main() -> None:
    """Search every compound in every way; a line of JSON a way, then all figures."""
    given = arguments(
        __doc__ or "",
        targets="suite15",
        compounds=200,
        candidates=20,
        symmetry=0.5,
        ways="ours,hop,repulsion,starts,pyxtal",
        potential=str(SHIPPED),
        committee="",
        latent=0.03,
        settings="{}",
    )
    targets = compounds(given.targets, 20 if given.quick else given.compounds)
    potential, *members = (
        Potential.load(Path(path), dtype=torch.float32)
        for path in (given.potential, *filter(None, given.committee.split(",")))
    )
    knobs = {**protocol(), **json.loads(given.settings)}
    count = 5 if given.quick else given.candidates
    figures: Figures = {}
    judged: dict[str, Figures] = {}
    for way in given.ways.split(","):
        if way.startswith("sub"):
            starts = substituted(targets, potential, knobs, given.seed, count)
        else:
            share = 1.0 if way == "pyxtal" else given.symmetry
            starts = candidates(targets, potential, knobs, given.seed, count, share)
        began = time.process_time()
        found = relaxed(way, starts, potential, knobs, members, given.latent)
        seconds = time.process_time() - began
        judged[way] = judge(ranked(found, [potential, *members], given.latent), targets)
        figures[way] = {
            **summary(judged[way], count),
            "seconds_per_structure": seconds / len(found),
        }
        print(json.dumps({"way": way, **figures[way]}), flush=True)
    for way in ("ours", "hop", "far_hop"):
        if {way, "repulsion"} <= set(judged):
            figures[f"{way}_over_repulsion"] = ratio(judged[way], judged["repulsion"])
    names = [str(name) for name in targets.formulas()]
    figures["found_of_each"] = {
        way: dict(zip(names, np.nansum(rows["loose"], 1).astype(int).tolist(), strict=True))
        for way, rows in judged.items()
        if given.targets == "suite15"
    }
    finish("csp", given.seed, {"targets": given.targets, "candidates": count, **figures})


def compounds(name: str, count: int) -> Frames:
    """The known structures that are looked for."""
    if name == "suite15":
        return load("suite15", "suite15.extxyz")
    if name != "mp_test":
        sys.exit("--targets is suite15 or mp_test")
    test = load("mp_dev_test", "mp_dev_test.extxyz")
    return test.select(np.sort(np.random.default_rng(0).permutation(len(test))[:count]))


def protocol() -> dict[str, Any]:
    """What the protocol takes for crystals of many elements."""
    settings = GenerateWorkChain.get_protocol_inputs(kinds=("many_crystals",))["generate"][
        "settings"
    ]
    return {"stages": [stage.__dict__ for stage in _FALL], "min_distance": 1.0, **settings}


def candidates(
    targets: Frames,
    potential: Potential,
    knobs: dict[str, Any],
    seed: int,
    count: int,
    symmetry: float,
) -> Frames:
    """``count`` starts of each compound's composition, labelled ``target``."""
    parts = []
    for number, formula in enumerate(targets.formulas()):
        settings = parse_settings(
            GenerateSettings,
            {
                **knobs,
                "formulas": [formula],
                "symmetry": symmetry,
                "seed": len(targets) * seed + number,
                "n_structures": count,
            },
        )
        part = make_starts(range(count), settings, potential.notes)[0]
        parts.append(part.with_labels(structure={"target": np.full(len(part), number)}))
    return concatenate(parts)


def substituted(
    targets: Frames, potential: Potential, knobs: dict[str, Any], seed: int, count: int
) -> Frames:
    """The ``count`` nearest of the pool for each compound, labelled ``target``, nearest first."""
    pool = load("mp_pool", "mp_pool.extxyz")
    known = {Composition(formula).reduced_formula for formula in targets.formulas()}
    new = [Composition(formula).reduced_formula not in known for formula in pool.formulas()]
    library = pool.select(np.flatnonzero(new))
    parts = []
    for number, formula in enumerate(targets.formulas()):
        settings = parse_settings(
            GenerateSettings,
            {**knobs, "seeding": "substitute", "formulas": [formula], "seed": seed},
        )
        part = make_starts(range(count), settings, potential.notes, library)[0]
        parts.append(part.with_labels(structure={"target": np.full(len(part), number)}))
    starts = concatenate(parts)
    print(f"{len(starts)} candidates of {count * len(targets)}", flush=True)
    return starts


def relaxed(
    way: str,
    starts: Frames,
    potential: Potential,
    knobs: dict[str, Any],
    members: Sequence[Potential] = (),
    latent: float = 0.0,
) -> Frames:
    """The starts at the end of a way; with E~ where there is one."""
    if way in ("starts", "pyxtal", "substituted"):
        return starts
    settings = parse_settings(GenerateSettings, knobs)
    if way == "repulsion":
        return relax(starts, repulsion(potential), _FALL, batch_atoms=settings.batch_atoms)
    far = (_HOPS[0], replace(_HOPS[1], latent_weight=latent), _HOPS[2])
    stages = {"hop": _HOPS, "far_hop": far, "sub_volume": _VOLUME}.get(way, settings.stages)
    return relax(
        starts,
        potential,
        stages,
        batch_atoms=settings.batch_atoms,
        skin=settings.skin,
        floor=settings.floor,
        members=members,
    )


def ranked(found: Frames, potentials: Sequence[Potential], weight: float) -> Frames:
    """With the labels of the latent distance, where E~ is known."""
    if "energy_per_atom" not in found.structure:
        return found
    return found.with_labels(structure=latent_labels(found, potentials, weight))


def repulsion(potential: Potential) -> Potential:
    """Atoms that push each other away as long as their covalent spheres overlap, and no more."""
    shape = LocalHyperparameters(
        cutoff=4.0, channels=1, radial=1, l_max=0, hidden=(1,), element_channels=1
    )
    bare = Potential(shape, core_scale=1.0, core_strength=1.0)
    bare.elements = potential.elements
    with torch.no_grad():
        for parameter in bare.parameters():
            parameter.zero_()
    return bare


def judge(found: Frames, targets: Frames) -> Figures:
    """(targets, candidates) right or not, rmsd and E~ per atom; NaN where there is no candidate."""
    owner = found.structure["target"]
    width = int(np.bincount(owner).max())
    shape = (len(targets), width)
    unknown = np.full(len(found), np.nan)
    orders = {name: found.structure.get(label, unknown) for name, label in _ORDERS}
    rows = {name: np.full(shape, np.nan) for name in (*_MATCHERS, "rmsd", *orders)}
    for number in range(len(targets)):
        known = to_pymatgen(targets, number)
        for place, index in enumerate(np.flatnonzero(owner == number)):
            candidate = to_pymatgen(found, int(index))
            for name, matcher in _MATCHERS.items():
                distance = matcher.get_rms_dist(candidate, known)
                rows[name][number, place] = distance is not None
                if name == "loose" and distance is not None:
                    rows["rmsd"][number, place] = distance[0]
            for name, values in orders.items():
                rows[name][number, place] = values[index]
    return rows


def summary(rows: Figures, count: int) -> Figures:
    """Rates a sample, of any of k, of the first of them, and of the lowest in E~."""
    figures: Figures = {}
    for name in _MATCHERS:
        right = np.nan_to_num(rows[name])
        figures[f"{name}_per_sample"] = float(np.nanmean(rows[name]))
        for k in (1, 5):
            figures[f"{name}_first_{k}"] = float(
                (np.nan_to_num(rows[name])[:, :k] > 0).any(1).mean()
            )
        for k in sorted({1, 2, 5, 10, count}):
            figures[f"{name}_any_of_{k}"] = any_of(rows[name], k)
        for order in (order for order, _ in _ORDERS if np.isfinite(rows[order]).any()):
            lowest = np.argmin(np.where(np.isnan(rows[order]), np.inf, rows[order]), axis=1)
            figures[f"{name}_lowest_{order}"] = float(right[np.arange(len(right)), lowest].mean())
    matched = ~np.isnan(rows["rmsd"])
    if matched.any():
        best = np.nanmin(np.where(matched, rows["rmsd"], np.inf), axis=1)
        figures["rmsd"] = float(rows["rmsd"][matched].mean())
        figures["rmsd_best"] = float(best[np.isfinite(best)].mean())
    return figures


def any_of(right: Any, k: int) -> float:
    """Share of the compounds that k candidates find, on average over all choices of k.

    Args:
        right: (targets, candidates) right or not, NaN where there is no candidate.
        k: candidates of a compound; all there are where there are fewer.
    """
    shares = []
    for row in right:
        seen = row[~np.isnan(row)]
        wrong, total = int((seen == 0).sum()), len(seen)
        shares.append(1 - math.comb(wrong, min(k, total)) / math.comb(total, min(k, total)))
    return float(np.mean(shares))


def ratio(ours: Figures, null: Figures) -> Figures:
    """Rates a sample over those of the null, on compounds that the null does not give away."""
    hidden = np.nanmean(null["loose"], 1) < _GIVEN_AWAY
    found: Figures = {"compounds": int(hidden.sum())}
    for name in _MATCHERS:
        mine, theirs = (float(np.nanmean(rows[name][hidden])) for rows in (ours, null))
        found[f"{name}_ours"], found[f"{name}_null"] = mine, theirs
        found[f"{name}_ratio"] = mine / theirs if theirs else None
    return found


if __name__ == "__main__":
    main()
