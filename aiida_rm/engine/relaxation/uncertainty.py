"""What potentials disagree about, and how far a structure is from what they learnt from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import COMMITTEE
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation.batch import Batch
from aiida_rm.engine.relaxation.memory import Room
from aiida_rm.engine.relaxation.queue import Answer, Queue, TooLargeError


def with_uncertainty(
    frames: Frames,
    potentials: Sequence[Potential],
    which: NDArray[np.bool_] | None = None,
    *,
    batch_atoms: int = 0,
    batch_edges: int = 0,
    should_stop: Callable[[], str | None] = lambda: None,
    on_batch: Callable[[int, int], None] = lambda _finished, _total: None,
) -> Frames:
    """Label structures with the disagreement of K potentials, in the units of E~.

    The model deviation of Zhang et al., Computer Physics Communications 253, 107206 (2020): with
    <> the mean over the potentials,

    - atoms: ``force_deviation``, ``sqrt(<|F - <F>|^2>)`` in angstrom;
    - structures: ``uncertainty``, the largest one of the atoms, and ``uncertainty_mean``, their
      mean, in angstrom; ``committee_energy_per_atom``, ``<E>`` of E~ per atom, and
      ``energy_deviation``, ``sqrt(<(E - <E>)^2>)`` of the same, in angstrom^2;
      ``cell_deviation``, the largest row of the same for the slope of E~ along a strain over the
      number of atoms (as in ``fmax``), in angstrom^2; 0 without a cell. Where symmetry forbids
      forces it is not 0.

    NaN is what was not found out: it was not asked for, the run was stopped, something is not
    finite, or the structure alone does not fit into the memory.

    Args:
        frames: any structures; labels are kept.
        potentials: all on one device and in one dtype, on which it runs; each knows all elements.
        which: (S,) the structures to judge; None: all.
        batch_atoms: as in :func:`driver.relax`.
        batch_edges: as in :func:`driver.relax`.
        should_stop: asked before every batch; a reason ends the run.
        on_batch: told after every batch how many of how many are done.
    """
    rows = np.flatnonzero(which) if which is not None else np.arange(len(frames))
    force_deviation = np.full(frames.n_atoms, np.nan)
    labels = np.full((len(COMMITTEE), len(frames)), np.nan)
    told = _in_batches(
        frames.select(rows),
        potentials,
        _deviations,
        batch_atoms,
        batch_edges,
        should_stop,
        on_batch,
    )
    for places, (atoms, structures) in told:
        force_deviation[frames.atoms_of(rows[places])] = atoms.cpu().numpy()
        labels[:, rows[places]] = structures.cpu().numpy()
    return frames.with_labels(
        structure=dict(zip(COMMITTEE, labels, strict=True)),
        atom={"force_deviation": force_deviation},
    )


def latent_distances(
    frames: Frames,
    potentials: Sequence[Potential],
    which: NDArray[np.bool_] | None = None,
    *,
    batch_atoms: int = 0,
    batch_edges: int = 0,
) -> NDArray[np.float64]:
    """How far the atoms of structures are from those that K potentials learnt from.

    Args:
        frames: any structures.
        potentials: with environments, all on one device and in one dtype.
        which: (S,) the structures to look at; None: all.
        batch_atoms: as in :func:`driver.relax`.
        batch_edges: as in :func:`driver.relax`.

    Returns:
        (K, S) latent distances (potential/environments.py), the mean of the atoms of each
        structure; NaN is what was not asked for, or does not fit into the memory.
    """
    rows = np.flatnonzero(which) if which is not None else np.arange(len(frames))
    found = np.full((len(potentials), len(frames)), np.nan)
    part = frames.select(rows)
    for places, apart in _in_batches(part, potentials, _apart, batch_atoms, batch_edges):
        found[:, rows[places]] = apart.cpu().numpy()
    return found


def _in_batches(
    frames: Frames,
    potentials: Sequence[Potential],
    question: Callable[[Batch, Sequence[Potential], Tensor], Answer],
    batch_atoms: int,
    batch_edges: int,
    should_stop: Callable[[], str | None] = lambda: None,
    on_batch: Callable[[int, int], None] = lambda _finished, _total: None,
) -> Iterator[tuple[NDArray[np.int64], Answer]]:
    """Rows of the structures in each batch, and what the potentials answer about them.

    A structure that does not fit into the memory alone has no answer.
    """
    weight = potentials[0].element_energy
    reach = max(potential.cutoff for potential in potentials)
    room = Room(batch_atoms, weight.device)
    queue = Queue(frames, room, batch_edges, weight.dtype, weight.device)

    def ask(some: Batch, broken: Tensor) -> Answer:
        return question(some, potentials, broken)

    finished = 0
    while not should_stop() and (batch := queue.fill(None)) is not None:
        answer = None
        with suppress(TooLargeError):
            while answer is None:
                batch, answer = queue.attempt(batch, reach, skin=0.0, question=ask)
        room.measure(len(batch.numbers))
        if answer is not None:
            yield batch.row.cpu().numpy(), answer
        finished += len(batch)
        on_batch(finished, len(frames))


def _apart(batch: Batch, potentials: Sequence[Potential], broken: Tensor) -> Tensor:
    """(K, S) mean latent distances of the atoms."""
    graph = batch.graph()
    found = [one.energies_and_distances(graph.within(one.cutoff))[1] for one in potentials]
    return (torch.stack(found).double() / batch.counts).masked_fill(broken, torch.nan)


def _deviations(
    batch: Batch, potentials: Sequence[Potential], broken: Tensor
) -> tuple[Tensor, Tensor]:
    """(A,) of the atoms, and (5, S) of the structures, in the order of the labels."""
    graph = batch.graph()
    volumes = torch.where(graph.periodic, torch.linalg.det(batch.cells).abs(), 0.0).double()
    forces, energies, slopes = [], [], []
    for potential in potentials:
        found = potential(graph.within(potential.cutoff))
        forces.append(found.forces.double())
        energies.append(found.energy.double() / batch.counts)
        slopes.append(found.stress.double() * (volumes / batch.counts)[:, None, None])
    atoms = _rms_deviation(torch.stack(forces))
    energy = _rms_deviation(torch.stack(energies)[..., None])
    level = torch.stack(energies).mean(0)
    cell = _rms_deviation(torch.stack(slopes)).amax(1)
    zero = torch.zeros_like(energy)
    largest = zero.scatter_reduce(0, batch.owner, atoms, "amax")
    mean = zero.index_add(0, batch.owner, atoms) / batch.counts
    lost = broken | ~torch.isfinite(mean + level + energy + cell)
    atoms = atoms.masked_fill(lost.index_select(0, batch.owner), torch.nan)
    return atoms, torch.stack([largest, mean, level, energy, cell]).masked_fill(lost, torch.nan)


def _rms_deviation(values: Tensor) -> Tensor:
    """(...) root mean square distance of K vectors (K, ..., D) from their mean."""
    # From the first one: equal vectors then have none, to the last bit.
    away = values - values[0]
    return (away - away.mean(0)).square().sum(-1).mean(0).sqrt()
