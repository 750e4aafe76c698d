"""Stable structures to perturbed ones with their fictitious response (arXiv:2405.09057).

One energy is written down, in one frame of reference, and every target is its derivative.
A stable structure has positions x0, cell h0 (rows) and volume V0; the perturbed one x and h.
With F = h0^-1 h the stable positions move along with the cell, so

    d   = x - x0 F                                      displacement from home
    eps = (F F^T - 1) / 2                               Green-Lagrange strain
    E~  = k/2 sum d^2 + sum_pairs v(r) + V0 (lambda/2 tr(eps)^2 + mu eps:eps)

    forces = -dE~/dx,      stress = (1/V) dE~/d(strain of x and h together).

Far displaced atoms come nearer to another's place than to their own. With ``match``, x0 is first
permuted among like atoms and lattice images so that the sum of d^2 is least (linear assignment);
the energy is that of the atoms' new homes.

v is the core repulsion (potential/core.py), lambda and mu the Lame constants of an isotropic
solid. The stress therefore holds the springs' virial, sum d d^T / V, besides Hooke's law.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aiida_rm.engine.cells import nearest_images
from aiida_rm.engine.elements import RADII, SYMBOLS
from aiida_rm.engine.errors import FramesError, OutOfMemoryError, SettingsError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential.core import core_energy, core_radii, largest_core
from aiida_rm.engine.settings import PerturbSettings

Array = NDArray[np.float64]
#: Perturbed structures whose targets are computed in one go, and about how many atoms they have.
_CHUNK, _CHUNK_ATOMS = 512, 4096
#: Atoms and homes that are paired in one go.
_PAIRS = 200_000


@dataclass(frozen=True)
class Response:
    """E~ and its derivatives: energy (S,), forces (A, 3), stress (S, 3, 3)."""

    energy: Tensor
    forces: Tensor
    stress: Tensor


def fictitious_energy(
    graph: Graph, home: Tensor, home_cells: Tensor, settings: PerturbSettings
) -> Tensor:
    """E~ of perturbed structures (the equation above).

    Args:
        graph: the perturbed structures, with edges up to the core radius.
        home: (A, 3) stable positions x0.
        home_cells: (S, 3, 3) stable cells h0; ignored where not periodic.
        settings: spring, elastic constants and core.

    Returns:
        (S,) energies.
    """
    one = torch.eye(3, dtype=home.dtype)
    still = ~graph.periodic[:, None, None]
    gradient = torch.linalg.solve(
        torch.where(still, one, home_cells), torch.where(still, one, graph.cells)
    )
    away = graph.positions - torch.bmm(home[:, None], gradient[graph.batch])[:, 0]
    vectors = graph.edge_vectors()
    # Every pair is two directed edges.
    covalent = torch.tensor(RADII, dtype=home.dtype)
    radii = core_radii(graph.numbers, graph.edge_index, settings.core_scale, covalent)
    pairs = 0.5 * core_energy(vectors.square().sum(-1), radii, settings.core_strength)
    energy = torch.zeros(graph.n_structures, dtype=home.dtype)
    energy = energy.index_add(0, graph.batch, spring_energy(away.square().sum(-1), settings))
    energy = energy.index_add(0, graph.batch[graph.edge_index[0]], pairs)

    strain = 0.5 * (gradient @ gradient.transpose(1, 2) - one)
    young, nu = settings.young_modulus, settings.poisson_ratio
    lame = young * nu / ((1 + nu) * (1 - 2 * nu))
    shear = young / (2 * (1 + nu))
    trace = torch.diagonal(strain, dim1=1, dim2=2).sum(-1)
    density = 0.5 * lame * trace.square() + shear * strain.square().sum((1, 2))
    volumes = torch.linalg.det(torch.where(still, one, home_cells)).abs()
    return energy + torch.where(graph.periodic, volumes * density, torch.zeros_like(density))


def spring_energy(squares: Tensor, settings: PerturbSettings) -> Tensor:
    """(A,) energy of atoms whose displacements have these squares (A,), in square angstrom.

    k/2 d^2, or with ``saturation`` s the pseudo-Huber form k s^2 (sqrt(1 + d^2 / s^2) - 1), whose
    force grows to k s at most.
    """
    if settings.saturation == 0:
        return 0.5 * settings.spring * squares
    limit = settings.saturation**2
    return settings.spring * limit * (torch.sqrt(1 + squares / limit) - 1)


def fictitious_response(
    frames: Frames, home: Array, home_cells: Array, settings: PerturbSettings
) -> Response:
    """Energy, forces and stress of perturbed structures, all in float64."""
    graph = build_graph(frames, largest_core(frames.numbers, settings.core_scale))
    positions = graph.positions.requires_grad_(True)
    cells = graph.cells.requires_grad_(True)
    energy = fictitious_energy(
        graph.moved(positions, cells), torch.as_tensor(home), torch.as_tensor(home_cells), settings
    )
    by_position, by_cell = torch.autograd.grad(energy.sum(), (positions, cells))
    # Straining x and h together: dE/dstrain = x^T dE/dx + h^T dE/dh.
    virial = cells.transpose(1, 2) @ by_cell
    outer = positions[:, :, None] * by_position[:, None, :]
    virial = virial.index_add(0, graph.batch, outer)
    volumes = torch.linalg.det(cells).abs()
    volumes = torch.where(graph.periodic, volumes, torch.full_like(volumes, torch.inf))
    stress = 0.5 * (virial + virial.transpose(1, 2)) / volumes[:, None, None]
    return Response(energy.detach(), -by_position, stress.detach())


def perturb(
    frames: Frames,
    settings: PerturbSettings,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    first_copy: int = 0,
) -> Frames:
    """Displace and strain structures, ``settings.samples`` in all, and attach the targets.

    The structures share the samples evenly, the first ones getting one more, each at least one.
    Copy number k of structure p depends on the seed, p and k alone. The pairs of displacement
    level and strain are dealt in random order, each as often as the others.

    Args:
        frames: stable structures.
        settings: the recipe.
        progress: takes the copies that are done and all of them, every few thousand atoms; what
            it raises ends the work.
        first_copy: number k of the first copy of each structure; beyond those of another set,
            all copies are new.

    Returns:
        Frames with the labels ``force`` (A, 3), ``stress`` (S, 3, 3), ``energy``, ``parent``,
        ``level``, ``noise`` (root mean square displacement of a coordinate, angstrom),
        ``strain``, ``core_scale``, ``core_strength``, ``reference_volume`` (S,), and the stable
        structure that each came from, repeated as it was: ``home`` (A, 3), ``home_cell``
        (S, 3, 3), ``home_atoms`` (S,) its atoms before it was repeated.

    Raises:
        FramesError: unusable structures, or such that are periodic in one or two directions.
        SettingsError: ``match`` is on and scipy is not installed.
        OutOfMemoryError: a structure is too large for ``match``.
    """
    if settings.match and find_spec("scipy") is None:
        raise SettingsError(
            "'match' needs scipy, which is not installed here; install it, or set 'match' to false"
        )
    frames.check()
    partial = np.flatnonzero(frames.pbc.any(axis=1) & ~frames.pbc.all(axis=1))
    if len(partial):
        raise FramesError(
            f"structure {partial[0]} is periodic in only some directions; put it into a full "
            "cell (pbc all true) or make it a molecule (pbc all false)"
        )
    jobs = copies_to_make(len(frames), settings.samples, first_copy)
    parts, done = [], 0
    for some in _chunks(frames, jobs, settings.min_atoms):
        parts.append(perturb_copies(frames, some, settings))
        done += len(some)
        progress(done, len(jobs))
    return concatenate(parts)


def _chunks(
    frames: Frames, jobs: Sequence[tuple[int, int]], min_atoms: int
) -> Iterator[Sequence[tuple[int, int]]]:
    """Copies to make in one go: little memory, and not long until the next is asked for."""
    repeated = np.where(frames.pbc.all(axis=1), min_atoms, 0)
    sizes = np.maximum(frames.counts, repeated)
    begin = atoms = 0
    for end, (parent, _) in enumerate(jobs):
        size = int(sizes[parent])
        if end > begin and (end - begin == _CHUNK or atoms + size > _CHUNK_ATOMS):
            yield jobs[begin:end]
            begin, atoms = end, 0
        atoms += size
    yield jobs[begin:]


def copies_to_make(count: int, samples: int, first_copy: int = 0) -> list[tuple[int, int]]:
    """Structure and number of every copy, when ``count`` structures share ``samples``."""
    share, more = divmod(samples, count)
    sizes = [max(1, share + (parent < more)) for parent in range(count)]
    return [(p, first_copy + copy) for p, size in enumerate(sizes) for copy in range(size)]


def perturb_copies(
    frames: Frames, jobs: Sequence[tuple[int, int]], settings: PerturbSettings
) -> Frames:
    """Some copies of :func:`perturb`, given as (structure, number of the copy)."""
    numbers, positions, cells, pbc, homes, home_cells, pairs = [], [], [], [], [], [], []
    for parent, copy in jobs:
        atoms = slice(frames.ptr[parent], frames.ptr[parent + 1])
        periodic = bool(frames.pbc[parent].all())
        species, home, home_cell = (
            frames.numbers[atoms],
            frames.positions[atoms],
            frames.cells[parent],
        )
        if periodic:
            species, home, home_cell = repeat(species, home, home_cell, settings.min_atoms)
        level, strain = _levels(settings, parent, copy, periodic)
        rng = np.random.default_rng(np.random.SeedSequence([settings.seed, parent, copy]))
        gradient = np.eye(3)
        if periodic:
            gradient = _gradient(rng, strain, settings.shear)
        amplitude = level * settings.displacement
        numbers.append(species)
        homes.append(np.array(home))
        home_cells.append(np.array(home_cell))
        cells.append(home_cell @ gradient)
        positions.append(home @ gradient + amplitude * _noise(rng, home.shape, settings))
        pbc.append(frames.pbc[parent])
        pairs.append((level, strain))
    bare = Frames.build(numbers, positions, np.stack(cells), np.stack(pbc))
    stable_cells = np.stack(home_cells)
    if settings.match:
        homes = [
            nearest_homes(species, place, cell, home, home_cell, bool(periodic.all()))
            for species, place, cell, home, home_cell, periodic in zip(
                numbers, positions, cells, homes, home_cells, pbc, strict=True
            )
        ]
    response = fictitious_response(bare, np.concatenate(homes), stable_cells, settings)
    forces = response.forces.numpy()
    levels = np.array([level for level, _ in pairs])
    if settings.force_noise > 0:
        noise = np.concatenate(
            [
                np.random.default_rng(np.random.SeedSequence([settings.seed, p, c, 1])).normal(
                    size=(len(species), 3)
                )
                for (p, c), species in zip(jobs, numbers, strict=True)
            ]
        )
        forces = forces + settings.force_noise * np.sqrt(levels)[bare.batch, None] * noise
    volumes = np.abs(np.linalg.det(stable_cells))
    return bare.with_labels(
        structure={
            "stress": response.stress.numpy(),
            "energy": response.energy.numpy(),
            "parent": np.array([parent for parent, _ in jobs], np.int64),
            "level": levels,
            "noise": levels * settings.displacement / np.sqrt(12),
            "strain": np.array([strain for _, strain in pairs]),
            "core_scale": np.full(len(bare), settings.core_scale),
            "core_strength": np.full(len(bare), settings.core_strength),
            "reference_volume": np.where(bare.pbc.all(axis=1), volumes, np.nan),
            "home_cell": stable_cells,
            "home_atoms": np.array([int(frames.counts[parent]) for parent, _ in jobs], np.int64),
        },
        atom={"force": forces, "home": np.concatenate(homes)},
    )


def _gradient(rng: np.random.Generator, strain: float, shear: float) -> Array:
    """(3, 3) what a cell is multiplied by; never one that mirrors or flattens it."""
    while True:
        gradient: Array = (1 + strain) * np.eye(3) + shear * (rng.random((3, 3)) - 0.5)
        if np.linalg.det(gradient) > 0.1 * (1 + strain) ** 3:
            return gradient


def _noise(rng: np.random.Generator, shape: tuple[int, ...], settings: PerturbSettings) -> Array:
    """Random numbers of the variance of U - 1/2, U uniform in [0, 1)."""
    if settings.distribution == "normal":
        return rng.normal(scale=np.sqrt(1 / 12), size=shape)
    return np.asarray(rng.random(shape) - 0.5)


def _levels(
    settings: PerturbSettings, parent: int, copy: int, periodic: bool
) -> tuple[float, float]:
    """The displacement level and isotropic strain of one copy."""
    strains = (
        np.linspace(-settings.strain, settings.strain, settings.strain_levels)
        if periodic and settings.strain_levels > 1
        else np.zeros(1)
    )
    grid = [(level, strain) for level in settings.displacement_levels for strain in strains]
    cycle, place = divmod(copy, len(grid))
    rng = np.random.default_rng(np.random.SeedSequence([settings.seed, parent, cycle, 0, 2]))
    level, strain = grid[rng.permutation(len(grid))[place]]
    return float(level), float(strain)


def nearest_homes(
    numbers: NDArray[np.uint8],
    positions: Array,
    cell: Array,
    home: Array,
    home_cell: Array,
    periodic: bool,
) -> Array:
    """Give every atom the home among like atoms (and images) that makes sum d^2 least.

    Args:
        numbers: (n,) species.
        positions: (n, 3) where the atoms are.
        cell: (3, 3) as it is.
        home: (n, 3) stable positions, in the stable cell.
        home_cell: (3, 3) stable cell.
        periodic: whether lattice images of a home count.

    Returns:
        (n, 3) stable positions, one for each atom, each taken once.

    Raises:
        OutOfMemoryError: of as many like atoms, not all pairs can be held.
    """
    carried = home @ np.linalg.solve(home_cell, cell) if periodic else home
    places = np.arange(len(numbers))
    for number in np.unique(numbers):
        like = np.flatnonzero(numbers == number)
        try:
            pairs = _least_pairs(positions[like], carried[like], cell if periodic else None)
        except MemoryError as error:
            raise OutOfMemoryError(
                f"to match {len(like)} atoms of {SYMBOLS[number]} takes "
                f"{8e-9 * len(like) ** 2:.1f} GB and more; set 'match' to false, or take smaller "
                "cells (also by 'min_atoms')"
            ) from error
        places[like] = like[pairs]
    if not periodic:
        return np.asarray(home[places])
    images, _ = nearest_images(positions - carried[places], cell)
    return np.asarray(home[places] + images @ home_cell)


def _least_pairs(positions: Array, homes: Array, cell: Array | None) -> NDArray[np.int64]:
    """(n,) which of the homes (n, 3) each of the atoms (n, 3) gets, in a cell or in none."""
    # Not needed to train or to generate, so not by the rest of the engine.
    from scipy.optimize import linear_sum_assignment

    cost = np.empty((len(homes), len(homes)))
    rows = max(1, _PAIRS // len(homes))
    for begin in range(0, len(homes), rows):
        gaps = (positions[begin : begin + rows, None] - homes).reshape(-1, 3)
        squares = (gaps**2).sum(-1) if cell is None else nearest_images(gaps, cell)[1]
        cost[begin : begin + rows] = squares.reshape(-1, len(homes))
    return np.asarray(linear_sum_assignment(cost)[1])


def repeat(
    numbers: NDArray[np.uint8], positions: Array, cell: Array, min_atoms: int
) -> tuple[NDArray[np.uint8], Array, Array]:
    """Repeat a cell along its shortest vector until it holds ``min_atoms`` atoms.

    Returns:
        numbers (n,), positions (n, 3), cell (3, 3) of the supercell.
    """
    numbers, positions, cell = np.array(numbers), np.array(positions), np.array(cell)
    original, times = cell, np.ones(3, int)
    while len(numbers) * times.prod() < min_atoms:
        times[np.argmin(np.linalg.norm(original * times[:, None], axis=1))] += 1
    steps = np.stack(np.meshgrid(*[np.arange(n) for n in times], indexing="ij"), -1).reshape(-1, 3)
    shifted = (positions[None] + (steps @ original)[:, None]).reshape(-1, 3)
    return np.tile(numbers, len(steps)), shifted, original * times[:, None]
