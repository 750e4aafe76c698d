"""Does the disagreement of a committee tell good structures from bad ones, and better than E~?

Members are trained on one set with different seeds; the first one generates, all of them judge.
``--system diamond|qm7b``; ``--epochs`` and ``--samples`` in place of the protocol's; ``--starts``
of each of three seeds; ``--potentials`` a folder to keep the members in, and to take them from.
qm7b needs AIIDA_RM_DATA and rdkit. *Good* is a converged carbon of three- and fourfold atoms, or a
sound molecule.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, finish
from scipy.stats import rankdata, spearmanr
from systems import SYSTEMS, System, chemistry_of, good_carbons

from aiida_rm.calculations.functions import MEMBER_STRIDE
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.labels import COMMITTEE
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax, with_uncertainty
from aiida_rm.engine.response import perturb
from aiida_rm.engine.training.trainer import Trainer

Array = np.ndarray
GOOD: dict[str, Callable[[Frames], Array]] = {
    "diamond": lambda frames: good_carbons(frames)[0],
    "qm7b": lambda frames: np.asarray(chemistry_of(frames, "perceive")["sound"]),
}
_SEEDS = (1, 2, 3)


def main() -> None:
    """Train, generate, judge, and print one table."""
    given = arguments(
        __doc__ or "", system="diamond", members=4, starts=200, epochs=0, samples=0, potentials=""
    )
    system = SYSTEMS[given.system]()
    epochs = given.epochs or (1 if given.quick else system.train.epochs)
    samples = given.samples or (200 if given.quick else system.recipe.samples)
    system = replace(
        system,
        recipe=replace(system.recipe, samples=samples),
        train=replace(system.train, epochs=epochs),
    )
    folder = Path(given.potentials) if given.potentials else None
    count = 2 if given.quick else given.members
    potentials = [one.float() for one in members(system, count, given.seed, folder)]
    found, seconds = generate(system, potentials, 20 if given.quick else given.starts)
    sound = np.isfinite(found.structure["uncertainty"])
    part = found.select(sound)
    good = GOOD[given.system](part)
    figures = {
        "system": given.system,
        "members": count,
        "epochs": epochs,
        "samples": samples,
        "starts": len(found),
        "exploded": int((~sound).sum()),
        "relaxing_seconds": seconds[0],
        "judging_seconds": seconds[1],
        **compare(part, good),
        "auc_by_members": by_members(part, good, potentials),
    }
    finish("committee", given.seed, figures)


def members(system: System, count: int, seed: int, folder: Path | None) -> list[Potential]:
    """Potentials of one perturbed set; those that were kept are taken."""
    frames = None
    found = []
    for number in range(count):
        path = folder / f"member_{number}.safetensors" if folder else None
        if path is not None and path.is_file():
            found.append(Potential.load(path))
            continue
        if frames is None:
            frames = perturb(system.stable, replace(system.recipe, seed=seed))
        settings = replace(system.train, seed=seed + number * MEMBER_STRIDE)
        began = time.perf_counter()
        found.append(Trainer(frames, settings).run(say=print).potential)
        print(f"member {number}: {time.perf_counter() - began:.0f} s", flush=True)
        if path is not None:
            found[-1].save(path)
    return found


def generate(
    system: System, potentials: list[Potential], starts: int
) -> tuple[Frames, tuple[float, float]]:
    """Structures of the first potential, judged by all; seconds of both."""
    made = concatenate([system.starts(100 * seed, starts) for seed in _SEEDS])
    began = time.perf_counter()
    found = relax(made, potentials[0], system.stages, floor=-0.5)
    relaxed = time.perf_counter()
    which = np.isfinite(found.structure["energy"])
    found = with_uncertainty(found, potentials, which)
    return found, (relaxed - began, time.perf_counter() - relaxed)


def compare(frames: Frames, good: Array) -> dict[str, Any]:
    """What each measure is worth, among all and among those of lower and of higher E~."""
    energies = frames.structure["energy_per_atom"]
    measures = {name: frames.structure[name] for name in ("energy_per_atom", *COMMITTEE)}
    measures = {name: values for name, values in measures.items() if np.ptp(values) > 0}
    measures["both"] = rankdata(energies) + rankdata(measures["uncertainty"])
    figures: dict[str, Any] = {"judged": len(frames)}
    middle = np.median(energies)
    for part, chosen in (
        ("all", np.ones(len(frames), bool)),
        ("lower_half", energies < middle),
        ("upper_half", energies >= middle),
    ):
        print(f"{part}: {chosen.sum()} structures, {good[chosen].mean():.3f} of them good")
        figures[part] = {"good": float(good[chosen].mean())}
        for name, values in measures.items():
            row = described(values[chosen], good[chosen])
            print(f"{name:18}", *(f"{value:6.3f}" for value in row["thirds"]), end="  ")
            print(f"lowest tenth {row['tenth']:.3f}", end="  ")
            print(f"AUC {row['auc']:.3f} +- {row['error']:.3f}  Spearman {row['spearman']:.3f}")
            figures[part][name] = row
    together = spearmanr(energies, measures["uncertainty"]).statistic
    figures["spearman_of_energy_and_uncertainty"] = float(together)
    return figures


def by_members(frames: Frames, good: Array, potentials: list[Potential]) -> dict[int, float]:
    """What the uncertainty is worth with fewer potentials."""
    found = {}
    for count in range(2, len(potentials) + 1):
        judged = with_uncertainty(frames, potentials[:count])
        found[count] = described(judged.structure["uncertainty"], good)["auc"]
    print("AUC of the uncertainty by the number of potentials:", found)
    return found


def described(values: Array, good: Array) -> dict[str, Any]:
    """What small values are worth: ``auc`` is the chance that a good one is below a bad one.

    ``error``: its standard error (Hanley and McNeil, Radiology 143, 29, 1982).
    """
    order = np.argsort(values, kind="stable")
    parts = np.array_split(good[order], 3)
    n, m = int(good.sum()), int((~good).sum())
    row: dict[str, Any] = {
        "thirds": [float(part.mean()) if len(part) else float("nan") for part in parts],
        "tenth": float(good[order][: max(1, len(good) // 10)].mean()),
        "medians": [float(np.median(values[one])) for one in (good, ~good) if one.any()],
        "auc": float("nan"),
        "error": float("nan"),
        "spearman": float("nan"),
    }
    if n and m:
        auc = float((rankdata(-values)[good].sum() - n * (n + 1) / 2) / (n * m))
        q, r = auc / (2 - auc), 2 * auc**2 / (1 + auc)
        spread = auc * (1 - auc) + (n - 1) * (q - auc**2) + (m - 1) * (r - auc**2)
        row |= {"auc": auc, "error": float(np.sqrt(spread / (n * m)))}
        row["spearman"] = float(spearmanr(-values, good).statistic)
    return row


if __name__ == "__main__":
    main()
