"""Energies and relaxations by any ASE calculator, one structure after the other (needs ase)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from aiida_rm.engine.converters import to_ase
from aiida_rm.engine.errors import FramesError, SettingsError, first_line
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.imports import import_by_path
from aiida_rm.engine.settings import RelaxSettings

CONVERGED, FAILED = "converged", "failed: "
_WALLTIME = "give a longer `max_wallclock_seconds`, or fewer structures"
_OPTIMIZERS = {"bfgs": BFGS, "lbfgs": LBFGS, "fire": FIRE}
_FILTERS = {
    "shape": {"constant_volume": True},
    "hydrostatic": {"hydrostatic_strain": True},
    "free": {},
}


@dataclass
class Judged:
    """What was found of one structure; the energy is NaN where there is none."""

    atoms: Atoms
    energy: float = np.nan
    fmax: float = np.nan
    steps: int = 0
    verdict: str = ""
    note: str = ""


class RepeatedCalculator(Calculator):  # type: ignore[misc]
    """A calculator that sees a supercell, for the energy of one cell.

    Forces are means over the images, so that a relaxation keeps them alike.
    """

    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "stress"]

    def __init__(self, calculator: Any, times: tuple[int, int, int]) -> None:
        super().__init__()
        self.inner, self.times = calculator, times

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: list[str] | None = None,
        system_changes: list[str] = all_changes,
    ) -> None:
        """Fill ``results``."""
        super().calculate(atoms, properties, system_changes)
        assert self.atoms is not None
        whole = self.atoms.repeat(self.times)
        whole.calc = self.inner
        images = int(np.prod(self.times))
        self.results["energy"] = whole.get_potential_energy() / images
        wanted = properties or []
        if "forces" in wanted:
            self.results["forces"] = whole.get_forces().reshape(images, -1, 3).mean(axis=0)
        if "stress" in wanted:
            self.results["stress"] = whole.get_stress()


def judge(
    frames: Frames,
    settings: RelaxSettings,
    should_stop: Callable[[], str | None] = lambda: None,
    on_structure: Callable[[int, int], None] = lambda _done, _all: None,
) -> tuple[Frames, str | None]:
    """Relax each structure, or take its energy; what fails for one leaves the others alone.

    Args:
        frames: the structures.
        settings: the calculator and how to relax.
        should_stop: a reason to end, asked at every step.
        on_structure: told how many are done, of how many.

    Returns:
        All structures, row by row, with the labels of ``labels.RELAXED`` (energies in eV of the
        structure as it is returned), and the reason if it ended before its time.

    Raises:
        FramesError: there are no structures.
        SettingsError: the calculator cannot be imported or made.
    """
    if not len(frames):
        raise FramesError("there are no structures to judge; give at least one")
    calculator = make_calculator(settings)
    found: list[Judged] = []
    reason: str | None = None
    for row in range(len(frames)):
        atoms = to_ase(frames.without_labels(), row)
        reason = reason or should_stop()
        if reason:
            text = f"{FAILED}not reached before the job was to end; {_WALLTIME}"
            found.append(Judged(atoms, verdict=text))
            continue
        one = Judged(atoms.copy())
        try:
            reason = _judge_one(one, calculator, settings, should_stop)
        except Exception as error:  # noqa: BLE001 - anything may come from somebody else's code
            one = Judged(atoms, verdict=FAILED + _why(error, settings), note=one.note)
            calculator = make_calculator(settings)  # it may be in any state
        if not (np.isfinite(one.energy) and np.isfinite(one.atoms.positions).all()):
            text = f"{FAILED}its energy is no finite number; discard it, or take another calculator"
            one = Judged(atoms, verdict=one.verdict or text, note=one.note)
        found.append(one)
        on_structure(len(found), len(frames))
    return _frames_of(frames, found), reason


def make_calculator(settings: RelaxSettings) -> Any:
    """The calculator behind ``package.module:Class``.

    Raises:
        SettingsError: it cannot be imported, is no class of calculators, or refuses its arguments.
    """
    path = settings.calculator
    cls = import_by_path("calculator", path)
    if not (isinstance(cls, type) and hasattr(cls, "get_potential_energy")):
        raise SettingsError(f"'calculator': '{path}' is no class of ASE calculators")
    try:
        return cls(**settings.arguments)
    except Exception as error:
        raise SettingsError(
            f"'calculator': '{path}' cannot be made ({first_line(error)}); mend its 'arguments'"
        ) from error


def repeats(atoms: Atoms, min_atoms: int) -> tuple[int, int, int]:
    """How often to repeat each periodic vector, the shortest one first, for so many atoms."""
    times = np.ones(3, int)
    lengths = np.where(atoms.pbc, atoms.cell.lengths(), np.inf)
    while atoms.pbc.any() and len(atoms) * times.prod() < min_atoms:
        times[np.argmin(lengths * times)] += 1
    return int(times[0]), int(times[1]), int(times[2])


def _judge_one(
    one: Judged, calculator: Any, s: RelaxSettings, should_stop: Callable[[], str | None]
) -> str | None:
    """Fill in what is found; the reason if it was cut short."""
    atoms = one.atoms
    times = repeats(atoms, s.supercell_atoms)
    atoms.calc = RepeatedCalculator(calculator, times) if np.prod(times) > 1 else calculator
    if atoms.pbc.any() and s.gamma_only:
        one.note = f"Gamma point only, in a supercell of {len(atoms) * np.prod(times)} atoms"
    if not s.relax:
        one.energy, one.verdict = float(atoms.get_potential_energy()), CONVERGED
        return None
    moving = atoms.pbc.all() and s.cell != "fixed"
    target = FrechetCellFilter(atoms, **_FILTERS[s.cell]) if moving else atoms
    reason, converged = None, False
    with _OPTIMIZERS[s.optimizer](target, logfile=None) as optimizer:
        for converged in optimizer.irun(fmax=s.fmax, steps=s.max_steps):
            one.steps = int(optimizer.nsteps)
            reason = None if converged else should_stop()
            here = np.isfinite(atoms.positions).all() and np.isfinite(target.get_forces()).all()
            if reason or not here:
                break
    one.energy = float(atoms.get_potential_energy())
    one.fmax = float(np.linalg.norm(target.get_forces(), axis=1).max())
    late = f"the job was to end before it was relaxed; {_WALLTIME}"
    slow = (
        f"not relaxed in {s.max_steps} steps (force {one.fmax:.2g} eV/angstrom); raise "
        "'max_steps', or 'fmax'"
    )
    if not np.isfinite(one.energy + one.fmax):
        one.energy = np.nan
        return reason
    one.verdict = CONVERGED if converged else FAILED + (late if reason else slow)
    return reason


def _why(error: Exception, settings: RelaxSettings) -> str:
    if isinstance(error, PropertyNotImplementedError) and "stress" in str(error):
        return "the calculator gives no stress; set 'cell' to fixed"
    return f"{settings.calculator} ended with {first_line(error)}; is it made for these elements?"


def _frames_of(frames: Frames, found: list[Judged]) -> Frames:
    """The structures with their labels; a cell is as it was given where nothing is periodic."""
    cells = [
        one.atoms.cell.array if pbc.any() else cell
        for one, cell, pbc in zip(found, frames.cells, frames.pbc, strict=True)
    ]
    positions = np.concatenate([one.atoms.positions for one in found])
    structure = {
        "row": np.arange(len(found)),
        "energy": np.array([one.energy for one in found], float),
        "verdict": np.array([one.verdict for one in found], str),
        "note": np.array([one.note for one in found], str),
        "steps": np.array([one.steps for one in found], int),
        "fmax": np.array([one.fmax for one in found], float),
    }
    core = (np.array(frames.numbers), positions, np.array(cells, float), np.array(frames.pbc))
    return Frames(*core, np.array(frames.ptr), structure)
