"""Molecules of nine formulas beside those of QM7b: PoseBusters check by check, xtb's energies.

Random starts of each formula, by the protocol; GFN2-xTB by tblite relaxes those that are sound,
and ``--references`` molecules of QM7b (0: all) of each formula. ``--each`` starts and ``--checked``
molecules of QM7b a formula are checked by PoseBusters. ``--committee`` files of potentials, commas
between, which judge hops and structures beside ``--potential``. ``--program`` molecules are given
to the program xtb, too, through rm.judge and a profile in a temporary folder. ``--keep`` a folder
for structures, and to take them from.

Needs AIIDA_RM_DATA with qm7b.extxyz, rdkit, posebusters and tblite.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from committee import described
from common import arguments, finish
from qm7b import generate, generation
from systems import FORMULAS, chemistry_of, qm7b_molecules

from aiida_rm.engine.ase_relaxation import CONVERGED, judge
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import CHECKS, check_label
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import with_uncertainty
from aiida_rm.engine.scoring.displacement import moved_rmsd
from aiida_rm.engine.settings import GenerateSettings, RelaxSettings, parse_settings

Array = np.ndarray
Figures = dict[str, Any]
_EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
_POTENTIAL = _EXAMPLES / "potentials" / "qm7b.safetensors"
_OTHERS = [_EXAMPLES / "potentials" / f"qm7b_member_{number}.safetensors" for number in (1, 2, 3)]
_XTB = RelaxSettings(
    calculator="tblite.ase:TBLite",
    arguments={"method": "GFN2-xTB", "verbosity": 0},
    max_steps=500,
)
_MEASURES = (
    "uncertainty",
    "uncertainty_mean",
    "committee_energy_per_atom",
    "energy_per_atom",
)


def main() -> None:
    """Generate, check, relax, compare; print the tables and the JSON line."""
    given = arguments(
        __doc__ or "",
        potential=str(_POTENTIAL),
        committee=",".join(map(str, _OTHERS)),
        each=0,
        references=0,
        checked=60,
        program=10,
        keep="",
    )
    each = given.each or (2 if given.quick else 24)
    count, few = (2, 2) if given.quick else (given.references, given.checked)
    folder = Path(given.keep) if given.keep else None
    seconds: dict[str, float] = {}

    def step(name: str, make: Callable[[], Frames]) -> Frames:
        return kept(folder, name, make, seconds)

    potentials = [
        Potential.load(Path(path), dtype=torch.float32)
        for path in (given.potential, *filter(None, given.committee.split(",")))
    ]
    aware = potentials[0].environments is not None
    asked = generation("", given.seed, each, committee=len(potentials) > 1, aware=aware)
    settings = parse_settings(GenerateSettings, asked)
    made = step("generated", lambda: generate(potentials[0], settings, potentials[1:]))
    known = of_formulas(qm7b_molecules())
    smiles = chemistry_of(known, "perceive")["smiles"]
    made = step("generated_checked", lambda: checked(made))
    checked_known = step("known_checked", lambda: checked(sample(known, few, given.seed)))
    made = with_uncertainty(made, potentials, np.isfinite(made.structure["energy"]))
    rates = {"generated": rates_of(made), "qm7b": rates_of(checked_known)}
    filters = None
    if len(potentials) > 1:
        filters = filtered(made)
        rates["best_third"] = rates_of(made.select(lowest_third(made)))
    show_rates(rates)

    sound = made.select(np.flatnonzero(made.structure["sound"]))
    if not len(sound):
        sys.exit("none of the starts ended as a sound molecule; take another --potential")
    relaxed = step("generated_relaxed", lambda: relaxed_by_xtb(sound))
    relaxed_known = step("known_relaxed", lambda: relaxed_by_xtb(sample(known, count, given.seed)))
    energies = {
        formula: compare(of(relaxed, formula), of(relaxed_known, formula), smiles)
        for formula in FORMULAS
    }
    energies["all"] = compare(relaxed, relaxed_known, smiles)
    show_energies(energies)
    program = by_program(relaxed, min(given.program, 2) if given.quick else given.program)
    print("the program xtb:", program)
    figures = {
        "potentials": [Path(p).name for p in (given.potential, *given.committee.split(",")) if p],
        "starts": len(made),
        "references_checked": len(checked_known),
        "seconds": seconds,
        "rates": rates,
        "filters": filters,
        "energies": energies,
        "program": program,
    }
    finish("qm7b_referee", given.seed, figures)


def kept(
    folder: Path | None, name: str, make: Callable[[], Frames], seconds: dict[str, float]
) -> Frames:
    """Structures of a step; those that are in the folder are taken."""
    path = folder / f"{name}.frames" if folder else None
    if path is not None and path.is_dir():
        return Frames.load(path)
    began = time.perf_counter()
    found = make()
    seconds[name] = time.perf_counter() - began
    print(f"{name}: {len(found)} structures, {seconds[name]:.0f} s", flush=True)
    if path is not None:
        found.save(path)
    return found


def of_formulas(frames: Frames) -> Frames:
    """Those of the nine formulas."""
    return frames.select(np.isin(frames.formulas(), FORMULAS))


def of(frames: Frames, formula: str) -> Frames:
    """Those of one formula."""
    return frames.select(np.array(frames.formulas(), str) == formula)


def sample(frames: Frames, count: int, seed: int) -> Frames:
    """At most so many of each formula; 0: all."""
    formulas = np.array(frames.formulas(), str)
    rng = np.random.default_rng(seed)
    found = [
        rng.permutation(np.flatnonzero(formulas == formula))[: count or None]
        for formula in FORMULAS
    ]
    return frames.select(np.sort(np.concatenate(found)))


def checked(frames: Frames) -> Frames:
    """With the labels of PoseBusters."""
    return frames.with_labels(structure=chemistry_of(frames, "posebusters"))


def rates_of(frames: Frames) -> Figures:
    """For each formula and all: shares of all structures, and among the sound ones."""
    found = {}
    for formula in (*FORMULAS, "all"):
        labels = (frames if formula == "all" else of(frames, formula)).structure
        sound = labels["sound"]
        names = {"clean": "clean", **{name: check_label(name) for name in CHECKS}}
        found[formula] = {
            "n": len(sound),
            "sound": share(sound),
            "unchecked": int(np.count_nonzero(labels["unchecked"])),
            "of_all": {name: share(labels[label]) for name, label in names.items()},
            "of_sound": {name: share(labels[label][sound]) for name, label in names.items()},
        }
    return found


def share(values: Array) -> float | None:
    """The mean; None of nothing."""
    return float(np.mean(values)) if len(values) else None


def lowest_third(frames: Frames) -> Array:
    """Rows of the third of each formula with the lowest `uncertainty`."""
    formulas = np.array(frames.formulas(), str)
    rows = []
    for formula in FORMULAS:
        own = np.flatnonzero(formulas == formula)
        order = np.argsort(_last(frames.structure["uncertainty"][own]), kind="stable")
        rows.append(own[order[: -(-len(own) // 3)]])
    return np.sort(np.concatenate(rows))


def filtered(frames: Frames) -> Figures:
    """What keeping the lowest in each measure is worth; what exploded comes last."""
    found = {}
    for name in _MEASURES:
        for good in ("sound", "clean"):
            row = described(_last(frames.structure[name]), frames.structure[good])
            figures = {key: row[key] for key in ("thirds", "tenth", "auc", "error")}
            found[f"{good} by {name}"] = figures
            thirds = " / ".join(f"{value:.3f}" for value in figures["thirds"])
            print(
                f"{good:5} by {name:17} thirds {thirds}  tenth {figures['tenth']:.3f}  "
                f"AUC {figures['auc']:.3f} +- {figures['error']:.3f}"
            )
    return found


def _last(values: Array) -> Array:
    return np.nan_to_num(values, nan=np.inf, posinf=np.inf)


def relaxed_by_xtb(frames: Frames) -> Frames:
    """Relaxed by GFN2-xTB; ``rmsd`` in angstrom, and SMILES before and after."""
    before = frames.structure.get("smiles")
    if before is None:
        before = chemistry_of(frames, "perceive")["smiles"]
    found, _ = judge(frames, _XTB)
    rmsd = [
        moved_rmsd(a.positions, b.positions, a.cells[0], b.cells[0], a.pbc[0])
        for a, b in zip(parts(frames), parts(found), strict=True)
    ]
    after = chemistry_of(found, "perceive")
    labels = {
        "rmsd": np.array(rmsd, float),
        "smiles_before": before,
        "smiles_after": after["smiles"],
        "sound": after["sound"],
    }
    return found.with_labels(structure=labels)


def parts(frames: Frames) -> list[Frames]:
    """Each structure by itself."""
    return [frames[row] for row in range(len(frames))]


def compare(made: Frames, known: Frames, smiles: Array) -> Figures:
    """Energies (eV a molecule) above the lowest of QM7b of the same formula.

    Counted are molecules that are relaxed, and still one sound molecule then. ``smiles``: of all
    of QM7b; what is not among them is novel.
    """
    ours, theirs = made.structure, known.structure
    lowest, middle, highest = {}, {}, {}
    energy = np.where(theirs["sound"] & (theirs["verdict"] == CONVERGED), theirs["energy"], np.nan)
    formulas = np.array(known.formulas(), str)
    for formula in np.unique(formulas):
        part = energy[formulas == formula]
        part = part[np.isfinite(part)]
        lowest[formula] = part.min()
        middle[formula], highest[formula] = np.median(part), part.max()
    zero = np.array([lowest[formula] for formula in formulas])
    counted = ours["sound"] & (ours["verdict"] == CONVERGED)
    own = np.array(made.formulas(), str)[counted]
    mine = ours["energy"][counted]

    def reference(table: dict[str, float]) -> Array:
        return np.array([table[formula] for formula in own], float)

    least, most = reference(lowest), reference(highest)
    novel = ~np.isin(ours["smiles_before"], smiles)
    again = ~np.isin(ours["smiles_after"][counted], smiles)
    below = mine < least - 1e-3
    return {
        "generated": len(made),
        "converged": share(ours["verdict"] == CONVERGED),
        "kept_smiles": share(ours["smiles_before"] == ours["smiles_after"]),
        "counted": int(counted.sum()),
        "novel": share(novel),
        "novel_after": share(again),
        "different_smiles": len(set(ours["smiles_after"][counted].tolist())),
        "rmsd": spread(ours["rmsd"]),
        "above_lowest": spread(mine - least),
        "novel_above_lowest": spread((mine - least)[again]),
        "below_median": share(mine < reference(middle)),
        "in_range": share((mine >= least - 1e-3) & (mine <= most + 1e-3)),
        "below_lowest": share(below),
        "smiles_below_lowest": sorted(set(ours["smiles_after"][counted][below].tolist())),
        "smiles_above_highest": sorted(
            set(ours["smiles_after"][counted][mine > most + 1e-3].tolist())
        ),
        "same_smiles": same_smiles(ours["smiles_after"][counted], mine, theirs, energy),
        "qm7b": {
            "n": len(known),
            "counted": int(np.isfinite(energy).sum()),
            "kept_smiles": share(theirs["smiles_before"] == theirs["smiles_after"]),
            "rmsd": spread(theirs["rmsd"]),
            "above_lowest": spread((energy - zero)[np.isfinite(energy)]),
        },
    }


def same_smiles(smiles: Array, mine: Array, theirs: dict[str, Array], energy: Array) -> list[float]:
    """Least, median, largest of the energies over those of QM7b's molecules of equal SMILES."""
    known = {
        text: value
        for text, value in zip(theirs["smiles_after"].tolist(), energy.tolist(), strict=True)
        if np.isfinite(value)
    }
    pairs = zip(smiles.tolist(), mine.tolist(), strict=True)
    return spread(np.array([value - known[text] for text, value in pairs if text in known]))


def spread(values: Array) -> list[float]:
    """Least, median, largest; empty of nothing."""
    if not len(values):
        return []
    return [float(np.min(values)), float(np.median(values)), float(np.max(values))]


def by_program(frames: Frames, count: int) -> Figures | str:
    """Energies of the program xtb, through rm.judge, against those of tblite (eV a molecule).

    ``relaxed``: it relaxes what tblite left; ``point``: it does not.
    """
    path = shutil.which("xtb")
    rows = np.flatnonzero(frames.structure["verdict"] == CONVERGED)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int))]
    if path is None or not len(rows):
        return "not asked: " + ("nothing to judge" if path else "run tools/install_xtb.sh")
    from aiida.manage.configuration.settings import AiiDAConfigDir
    from rich.console import Console

    sys.path.insert(0, str(_EXAMPLES))
    import isolated

    part = frames.select(rows)
    with tempfile.TemporaryDirectory() as folder:
        isolated.FOLDER = Path(folder)
        # AiiDA is imported already, and does not read AIIDA_PATH again.
        AiiDAConfigDir.set(Path(folder) / ".aiida")
        computer = isolated.open_profile(Console(stderr=True)).computer

        from aiida.engine import run_get_node
        from aiida.orm import InstalledCode

        from aiida_rm.data.frames import FramesData
        from aiida_rm.workflows.judge import JudgeWorkChain

        code = InstalledCode(label="xtb", computer=computer, filepath_executable=path).store()
        given = FramesData(part.without_labels()).store()
        found: Figures = {"molecules": len(part)}
        for name, settings in (("point", {"relax": False}), ("relaxed", {"level": "tight"})):
            results, node = run_get_node(
                JudgeWorkChain, frames=given, referee="xtb", code=code, settings=settings
            )
            labels = results["frames"].get_frames().structure
            found[name] = {
                "exit_status": node.exit_status,
                "converged": int((labels["xtb_verdict"] == CONVERGED).sum()),
                "less_than_tblite": spread(part.structure["energy"] - labels["xtb_energy"]),
                "rmsd": spread(labels["xtb_rmsd"]),
            }
    return found


def show_rates(rates: dict[str, Figures]) -> None:
    """A table of the checks by formula for each set."""
    for name, by_formula in rates.items():
        print(f"{name}: shares of all, then of the sound")
        print(f"{'':32}", *(f"{formula:>8}" for formula in by_formula))
        for key in ("n", "sound", "unchecked"):
            print(f"{key:32}", *(f"{text(row[key]):>8}" for row in by_formula.values()))
        clean = (f"{text(row['of_all']['clean']):>8}" for row in by_formula.values())
        print(f"{'clean':32}", *clean)
        for check in ("clean", *CHECKS):
            row = (f"{text(row['of_sound'][check]):>8}" for row in by_formula.values())
            print(f"- {check:30}", *row)


def show_energies(energies: dict[str, Figures]) -> None:
    """A table of the comparison, a column a formula."""
    print("energies by GFN2-xTB, eV a molecule")
    for name in (name for name in energies["all"] if name != "qm7b"):
        print(f"{name:22}", *(f"{text(row[name]):>20}" for row in energies.values()))
    for name in energies["all"]["qm7b"]:
        print(f"qm7b {name:17}", *(f"{text(row['qm7b'][name]):>20}" for row in energies.values()))


def text(value: Any) -> str:
    """Short enough for a table."""
    if isinstance(value, list):
        return "/".join(text(one) for one in value) if len(value) <= 3 else f"{len(value)} of them"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
