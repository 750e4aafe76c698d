"""What a training needs of perturbed structures; without torch, so that it is known early."""

from __future__ import annotations

from typing import Final

import numpy as np

from aiida_rm.engine.errors import FramesError, SettingsError
from aiida_rm.engine.frames import Array, Frames
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, parse_settings

#: Labels of the structures and of the atoms that perturb writes and a training reads, with the
#: shape of one row. The first two it cannot do without.
_LABELS: Final[dict[str, tuple[str, tuple[int, ...]]]] = {
    "force": ("atom", (3,)),
    "stress": ("structure", (3, 3)),
    "energy": ("structure", ()),
    "noise": ("structure", ()),
    "parent": ("structure", ()),
    "home": ("atom", (3,)),
    "home_cell": ("structure", (3, 3)),
    "home_atoms": ("structure", ()),
}
_NEEDED: Final = ("force", "stress")


def check_labels(frames: Frames, *, energy: bool = False) -> tuple[float, float]:
    """Refuse frames without targets; give the radius and strength of their core repulsion.

    Args:
        frames: perturbed structures.
        energy: whether E~ is among the targets.

    Raises:
        FramesError: a label is missing, of the wrong shape, no number or not finite.
    """
    frames.check()
    for name, (kind, shape) in _LABELS.items():
        values = (frames.atom if kind == "atom" else frames.structure).get(name)
        if values is not None or name in _NEEDED:
            _check_label(name, kind, values, shape)
    if energy and "energy" not in frames.structure:
        raise FramesError(
            "the frames have no label 'energy'; run perturb again, or set 'energy_weight' to 0"
        )
    return _core(frames, "core_scale"), _core(frames, "core_strength")


def check_learnable(settings: TrainSettings, n_elements: int, *, molecules: bool) -> None:
    """Refuse settings by which nothing could be learnt of these structures.

    Raises:
        SettingsError: molecules have no stress, and neither forces nor E~ count; or the network
            could not tell the elements apart.
    """
    if molecules and not settings.force_weight and not settings.energy_weight:
        raise SettingsError(
            "the structures are molecules, which have no stress, and 'force_weight' and "
            "'energy_weight' are 0: nothing to learn; set one of them above 0"
        )
    if settings.architecture == "local" and settings.element_channels < min(2, n_elements):
        raise SettingsError(
            f"'element_channels' is 1, which cannot tell {n_elements} elements apart; give at "
            "least 2"
        )


def _check_label(name: str, kind: str, values: Array | None, shape: tuple[int, ...]) -> None:
    told = ", ".join(map(str, ("A" if kind == "atom" else "S", *shape)))
    if values is None or values.shape[1:] != shape:
        which = " atom" if kind == "atom" else ""
        found = "" if values is None else f" of that shape (it is {values.shape})"
        raise FramesError(
            f"the frames have no{which} label '{name}' ({told}){found}; run perturb on them first"
        )
    if values.dtype.kind not in "fiu" or not np.isfinite(values).all():
        raise FramesError(
            f"the label '{name}' is not a finite number everywhere; run perturb again"
            f"{'' if name in _NEEDED else ', or leave the label out'}"
        )


def _core(frames: Frames, name: str) -> float:
    values = np.unique(frames.structure.get(name, np.zeros(0)))
    if len(values) != 1:
        raise FramesError(
            f"the label '{name}' is missing or differs between structures; perturb all of "
            "them with the same core repulsion"
        )
    try:
        return float(getattr(parse_settings(PerturbSettings, {name: values[0].item()}), name))
    except SettingsError as error:
        raise FramesError(f"the label '{name}' cannot be used: {error}") from error
