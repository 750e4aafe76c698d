"""Perturbed structures that first go down on a potential, and the way home from where they end.

Perturbed structures surround the stable ones evenly. A relaxation goes elsewhere: down to minima
of the potential, some of them false ones, which training has never shown it. So some copies
descend on a potential trained before, and the next training learns the way home from there (as
imitation learning does with the states that the learner itself comes to: Ross, Gordon and Bagnell,
AISTATS 2011, arXiv:1011.0686). What it is worth: docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.relaxation.results import EXPLODED
from aiida_rm.engine.response import Response, fictitious_response, nearest_homes
from aiida_rm.engine.settings import PerturbSettings, Stage

Array = NDArray[np.float64]
#: A descent is over when no force is larger, in angstrom.
_FMAX = 5e-3
#: E~ per atom below this is a hole of the potential (as in GenerateSettings.floor).
_FLOOR = -0.5
#: Strain from home beyond which the cell may be another one of the same lattice.
_LARGEST_STRAIN = 0.3
#: Structures whose targets are computed in one go.
_CHUNK = 512
#: Homes and the frame they stand in are found in turn; few turns are enough.
_TURNS = 4


def with_descents(
    perturbed: Frames,
    potential: Potential,
    settings: PerturbSettings,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Frames:
    """Perturbed structures, some of which went down on a potential.

    Of those with a displacement level of at least ``descent_level``, a share ``descents``, drawn
    by the seed, is relaxed in ``descent_steps`` steps of FIRE at most. Homes are then found anew:
    moved as a whole, molecules turned and mirrored, too, to where all ways are shortest.

    Args:
        perturbed: of :func:`response.perturb`.
        potential: on its device and in its dtype, which the descents share.
        settings: the recipe.
        progress: takes the structures that went down and all that are to.

    Returns:
        The structures in the same order, with the same labels, and ``descended`` (S,). What fell
        into a hole of the potential or deformed beyond recognition stays as it was perturbed.

    Raises:
        PotentialError: the potential does not know all elements.
    """
    unknown = sorted({*perturbed.elements} - {*potential.elements})
    if unknown:
        raise PotentialError(
            f"the potential to descend on has never seen {', '.join(unknown)}; train one on these "
            "structures first, or set 'descents' to 0"
        )
    rows = descending(perturbed, settings)
    if not len(rows):
        return perturbed.with_labels(structure={"descended": np.zeros(len(perturbed), bool)})
    stage = Stage(cell="free", fmax=_FMAX, max_steps=settings.descent_steps)
    found = relax(
        perturbed.select(rows),
        potential,
        (stage,),
        floor=_FLOOR,
        on_step=lambda status: progress(status.finished, status.total),
    )
    homes, noise, strain = ways_home(found, settings)
    good = (found.structure["status"] < EXPLODED) & (strain <= _LARGEST_STRAIN)
    response = _response(found, homes, settings)
    fresh = {
        "stress": response.stress.numpy(),
        "energy": response.energy.numpy(),
        "noise": noise,
    }
    return _put(
        perturbed,
        rows[good],
        found.select(np.flatnonzero(good)),
        {name: values[good] for name, values in fresh.items()},
        {"force": response.forces.numpy(), "home": homes},
        np.repeat(good, found.counts),
    )


def descending(perturbed: Frames, settings: PerturbSettings) -> NDArray[np.int64]:
    """Which structures go down: a share of the far displaced ones, by the seed."""
    far = np.flatnonzero(perturbed.structure["level"] >= settings.descent_level)
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, 3]))
    return np.asarray(far[rng.random(len(far)) < settings.descents], np.int64)


def _response(frames: Frames, homes: Array, settings: PerturbSettings) -> Response:
    """Targets of all structures, some at a time."""
    parts = []
    for begin in range(0, len(frames), _CHUNK):
        some = frames.select(np.arange(begin, min(begin + _CHUNK, len(frames))))
        own = homes[frames.ptr[begin] : frames.ptr[begin + len(some)]]
        parts.append(fictitious_response(some, own, some.structure["home_cell"], settings))
    return Response(
        torch.cat([part.energy for part in parts]),
        torch.cat([part.forces for part in parts]),
        torch.cat([part.stress for part in parts]),
    )


def ways_home(frames: Frames, settings: PerturbSettings) -> tuple[Array, Array, Array]:
    """The nearest homes of structures that went far, moved (and turned) as a whole.

    Args:
        frames: with the labels ``home`` and ``home_cell``.
        settings: ``match`` exchanges homes among like atoms.

    Returns:
        Homes (A, 3) in the stable cells, root mean square displacement of a coordinate (S,), both
        in angstrom, and the largest component of the strain (S,).
    """
    homes, noise, strain = [], [], []
    for index in range(len(frames)):
        atoms = slice(frames.ptr[index], frames.ptr[index + 1])
        home, home_cell = frames.atom["home"][atoms], frames.structure["home_cell"][index]
        cell, periodic = frames.cells[index], bool(frames.pbc[index].all())
        gradient = np.linalg.solve(home_cell, cell) if periodic else np.eye(3)
        place = frames.positions[atoms]
        for _ in range(_TURNS):
            home = _aligned(place, home, gradient, turn=not periodic)
            if settings.match:
                numbers = frames.numbers[atoms]
                home = nearest_homes(numbers, place, cell, home, home_cell, periodic)
        home = _aligned(place, home, gradient, turn=not periodic)
        homes.append(home)
        noise.append(np.sqrt(np.mean((place - home @ gradient) ** 2)))
        strain.append(np.abs(gradient @ gradient.T - np.eye(3)).max() / 2)
    return np.concatenate([np.zeros((0, 3)), *homes]), np.array(noise), np.array(strain)


def _aligned(place: Array, home: Array, gradient: Array, *, turn: bool) -> Array:
    """Homes (n, 3) moved as a whole, and turned, to be nearest to where the atoms are (Kabsch).

    A mirror image is as stable as the molecule, so a turn may be an improper one.
    """
    carried = home @ gradient
    middle = place.mean(axis=0)
    if turn:
        left, _, right = np.linalg.svd((carried - carried.mean(axis=0)).T @ (place - middle))
        carried = (carried - carried.mean(axis=0)) @ left @ right
    moved = carried - carried.mean(axis=0) + middle
    return np.asarray(moved @ np.linalg.inv(gradient))


def _put(
    perturbed: Frames,
    rows: NDArray[np.int64],
    found: Frames,
    structure: dict[str, Any],
    atom: dict[str, Any],
    kept: NDArray[np.bool_],
) -> Frames:
    """The perturbed frames with some structures replaced, and the label ``descended``."""
    descended = np.zeros(len(perturbed), bool)
    descended[rows] = True
    atoms = descended[perturbed.batch]
    positions, cells = np.array(perturbed.positions), np.array(perturbed.cells)
    positions[atoms], cells[rows] = found.positions, found.cells
    structure_labels, atom_labels = dict(perturbed.structure), dict(perturbed.atom)
    for name, values in structure.items():
        structure_labels[name] = np.array(structure_labels[name])
        structure_labels[name][rows] = values
    for name, values in atom.items():
        atom_labels[name] = np.array(atom_labels[name])
        atom_labels[name][atoms] = values[kept]
    moved = replace(perturbed, positions=positions, cells=cells)
    return moved.with_labels(
        structure={**structure_labels, "descended": descended}, atom=atom_labels
    )
