"""The way from a random start to a structure, as data: stages, and what is wrong with them."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.imports import is_import_path
from aiida_rm.engine.knobs import knob

if TYPE_CHECKING:
    from aiida_rm.engine.settings import GenerateSettings

STAGE_KINDS = ("relax", "jitter", "langevin", "hop")
OPTIMIZERS = ("lbfgs", "fire")
MOVES = ("jitter", "swap", "relocate", "join", "strain")
CELL_MODES = ("fixed", "shape", "hydrostatic", "free")


@dataclass(frozen=True)
class Stage:
    """One step of the way from a random start to a structure."""

    kind: str = knob(
        "relax",
        "relax: descend; jitter: move atoms at random; langevin: dynamics at a temperature; hop: "
        "cycles of a random move and a descent",
        choices=STAGE_KINDS,
    )
    optimizer: str = knob(
        "lbfgs",
        "relax, hop: how to descend; fire takes two to four times as many steps",
        choices=OPTIMIZERS,
    )
    cell: str = knob(
        "free",
        "fixed: as it is; shape: at constant volume; hydrostatic: at constant shape; free: shape "
        "and volume (crystals only)",
        choices=CELL_MODES,
    )
    fmax: float = knob(
        5e-4, "converged when no force, nor the virial per atom, is larger", low=1e-12
    )
    max_steps: int = knob(500, "steps at most; hop: of one cycle; langevin: exactly so many", low=0)
    amplitude: float = knob(
        0.0, "jitter, hop: largest move of a coordinate", unit="angstrom", low=0, high=10
    )
    cycles: int = knob(10, "hop: how many moves are tried", low=0, high=1_000_000)
    moves: tuple[str, ...] = knob(
        ("jitter",),
        "hop: each cycle takes one of them at random: jitter of all atoms, swap of two unlike "
        "ones, relocate: an atom of high E~ goes next to another one, join: a molecule in pieces "
        "gets a bond between two of them, strain: the cell changes its shape with its atoms; "
        "twice named, twice as often",
        choices=MOVES,
    )
    strain: float = knob(
        0.2, "hop: largest component of the strain of a move of that name", low=0, high=1
    )
    temperature: float = knob(
        0.0,
        "langevin: at the first step; hop: of accepting what is higher, 0: never",
        unit="angstrom^2",
        low=0,
    )
    connected: bool = knob(
        False, "hop: a molecule in pieces is judged as higher than all that are in one piece"
    )
    latent_weight: float = knob(
        0.0,
        "hop: what is judged is E~ and for each atom this times its latent distance from the "
        "training set",
        unit="angstrom^2",
        low=0,
    )
    final_temperature: float = knob(
        0.0, "langevin: at the last step, linear between", unit="angstrom^2", low=0
    )
    time_step: float = knob(0.2, "langevin: masses are 1", low=1e-6, high=10)
    friction: float = knob(0.5, "langevin: share of the velocity lost in a unit of time", low=0)
    pressure: float = knob(0.0, "E~ + pressure x volume is lowered", unit="1/angstrom")


#: Knobs that only some kinds of stage read.
_READ_BY = {
    "optimizer": ("relax", "hop"),
    "amplitude": ("jitter", "hop"),
    "cycles": ("hop",),
    "moves": ("hop",),
    "strain": ("hop",),
    "temperature": ("langevin", "hop"),
    "connected": ("hop",),
    "latent_weight": ("hop",),
    "final_temperature": ("langevin",),
    "time_step": ("langevin",),
    "friction": ("langevin",),
}


def check_stages(settings: GenerateSettings) -> None:
    """Refuse stages that would not do what they say.

    Raises:
        SettingsError: naming the stage, and what to change.
    """
    if not settings.stages:
        raise SettingsError("'stages' is empty; give at least one, such as {kind: relax}")
    if settings.stages[-1].kind != "relax":
        raise SettingsError(
            f"the last of 'stages' is '{settings.stages[-1].kind}'; end with {{kind: relax}}, or "
            "the structures would not be relaxed"
        )
    for index, stage in enumerate(settings.stages):
        _check_stage(stage, f"stages[{index}]", periodic=settings.periodic)


def _check_stage(stage: Stage, name: str, *, periodic: bool) -> None:
    for field in dataclasses.fields(stage):
        kinds = _READ_BY.get(field.name, STAGE_KINDS)
        if stage.kind not in kinds and getattr(stage, field.name) != field.default:
            raise SettingsError(
                f"'{name}.{field.name}' says nothing to a stage of kind '{stage.kind}' but to "
                f"{' and '.join(kinds)}; leave it out, or name another kind"
            )
    if not periodic and stage.kind != "jitter" and stage.cell != "fixed":
        raise SettingsError(
            f"'{name}.cell' is '{stage.cell}', but molecules have no cell; use 'fixed'"
        )
    if stage.kind == "hop" and stage.cycles:
        if not stage.moves:
            raise SettingsError(f"'{name}.moves' is empty; name one, such as jitter")
        if "jitter" in stage.moves and not stage.amplitude:
            raise SettingsError(
                f"'{name}.amplitude' is 0, so no cycle would move; give it, such as 0.5"
            )
        if stage.connected and periodic:
            raise SettingsError(
                f"'{name}.connected' is for molecules, and 'periodic' is true; leave it out"
            )
        if "strain" in stage.moves and not stage.strain:
            raise SettingsError(
                f"'{name}.strain' is 0, so its move would be none; give it, such as 0.2"
            )
        if "strain" in stage.moves and stage.cell not in ("free", "shape"):
            raise SettingsError(
                f"'{name}.moves' names 'strain', which changes the shape of a cell, but "
                f"'{name}.cell' is '{stage.cell}'; take 'free' or 'shape', or leave 'strain' out"
            )
    if stage.kind == "langevin" and not stage.temperature and not stage.final_temperature:
        raise SettingsError(f"'{name}.temperature' is 0; give the one to begin with, such as 0.05")


def check_penalty(settings: GenerateSettings) -> None:
    """Refuse what can be known to be wrong without importing it.

    Raises:
        SettingsError: naming the knob, and what it must be.
    """
    try:
        arguments = json.loads(settings.penalty_arguments)
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"'penalty_arguments' is no JSON: {error}") from error
    if not isinstance(arguments, dict):
        raise SettingsError(
            "'penalty_arguments' must be the text of a table, such as '{\"strength\": 2}'"
        )
    if settings.penalty and not is_import_path(settings.penalty):
        raise SettingsError(
            f"'penalty' is '{settings.penalty}', must be 'package.module:name', such as "
            "'mypackage.penalties:keep_flat'"
        )
