"""What potentials disagree about: by hand, in any company, and where nothing can be said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.labels import COMMITTEE
from aiida_rm.engine.neighbors import Graph, build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import uncertainty, with_uncertainty
from tests.engine.relaxation.systems import Formula, starts

LABELS = tuple(COMMITTEE)


def along(axis: int, strength: float) -> Formula:
    """The force ``strength`` along one axis on every atom; carbon feels it twice."""

    def formula(graph: Graph) -> Tensor:
        charge = torch.where(graph.numbers == 6, 2.0, 1.0).double()
        energy = -strength * charge * graph.positions[:, axis]
        return energy.new_zeros(graph.n_structures).index_add(0, graph.batch, energy)

    return Formula(formula)


def test_two_fields_by_hand() -> None:
    """Forces (3, 0, 0) and (0, 4, 0) are each 2.5 from their mean, twice so for carbon."""
    frames = Frames.build(
        [[1], [6, 1, 1]], [[[1.0, 1.0, 0.0]], [[0.0, 0, 0], [2.0, 0, 0], [0, 2.0, 0]]]
    )
    found = with_uncertainty(frames, [along(0, 3.0), along(1, 4.0)])
    np.testing.assert_allclose(found.atom["force_deviation"], [2.5, 5, 2.5, 2.5])
    np.testing.assert_allclose(found.structure["uncertainty"], [2.5, 5])
    np.testing.assert_allclose(found.structure["uncertainty_mean"], [2.5, 10 / 3])
    # Energies -3 and -4, and -6 / 3 and -8 / 3 an atom.
    np.testing.assert_allclose(found.structure["committee_energy_per_atom"], [-3.5, -7 / 3])
    np.testing.assert_allclose(found.structure["energy_deviation"], [0.5, 1 / 3])


def test_three_fields_by_hand() -> None:
    """The standard deviation of 0, 0 and 3 over all three, not over two."""
    frames = Frames.build([[1]], [[[0.0, 0, 0]]])
    found = with_uncertainty(frames, [along(2, 0.0), along(2, 0.0), along(2, 3.0)])
    np.testing.assert_allclose(found.structure["uncertainty"], [np.sqrt(2)])


def test_two_pressures_by_hand() -> None:
    """The slopes of pV are pV along each axis: here V and 3 V, over two atoms."""

    def pushed(pressure: float) -> Formula:
        return Formula(lambda graph: pressure * torch.linalg.det(graph.cells).abs())

    cell = Frames.build([[6, 6]], [[[0.0, 0, 0], [1, 1, 1.5]]], [np.diag([2.0, 2, 3])])
    found = with_uncertainty(cell, [pushed(1.0), pushed(3.0)])
    np.testing.assert_allclose(found.structure["cell_deviation"], [12 / 2])
    np.testing.assert_allclose(found.structure["uncertainty"], [0], atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_agree_to_the_last_bit(potential: Potential, dtype: torch.dtype) -> None:
    same = Potential(potential.network.shape, potential.core_scale, potential.core_strength)
    same.double().load_state_dict(potential.state_dict())
    same = same.to(dtype)
    same.elements = potential.elements
    found = with_uncertainty(starts(potential), [same, same, same])
    for name in set(LABELS) - {"committee_energy_per_atom"}:
        assert (found.structure[name] == 0).all()


@pytest.mark.parametrize("limits", [{"batch_atoms": 1}, {"batch_atoms": 20}, {"batch_edges": 500}])
def test_company_and_order_do_not_matter(
    potential: Potential, other: Potential, limits: dict[str, int]
) -> None:
    frames = starts(potential)
    whole = with_uncertainty(frames, [potential, other])
    assert (whole.structure["uncertainty"] > 1e-3).all()
    order = np.random.default_rng(0).permutation(len(frames))
    part = with_uncertainty(frames.select(order), [other, potential], **limits)
    for name in LABELS:
        np.testing.assert_allclose(part.structure[name], whole.structure[name][order], atol=1e-10)
    np.testing.assert_allclose(
        part.atom["force_deviation"], whole.select(order).atom["force_deviation"], atol=1e-10
    )


def test_equals_forces_of_lone_calls_with_other_cutoffs(
    potential: Potential, other: Potential
) -> None:
    """Each gets the edges within its own reach."""
    shape = replace(potential.network.shape, cutoff=4.1)
    wide = Potential(shape, potential.core_scale, potential.core_strength)
    wide.double().load_state_dict(other.state_dict())
    wide.elements = potential.elements
    frames = starts(potential, 4)
    found = with_uncertainty(frames, [potential, wide])
    alone = [one(build_graph(frames, one.cutoff)) for one in (potential, wide)]
    spread = np.sqrt(np.var([one.forces.numpy() for one in alone], axis=0).sum(axis=1))
    np.testing.assert_allclose(found.atom["force_deviation"], spread, atol=1e-10)
    energies = np.std([one.energy.numpy() / frames.counts for one in alone], axis=0)
    np.testing.assert_allclose(found.structure["energy_deviation"], energies, atol=1e-10)


def test_molecules_single_atoms_and_nothing(potential: Potential, other: Potential) -> None:
    alone = Frames.build([[6]], [[[0.0, 0, 0]]])
    pair = Frames.build([[6, 6]], [[[0.0, 0, 0], [1.4, 0, 0]]])
    cell = Frames.build([[6]], [[[0.0, 0, 0]]], [2.0 * np.eye(3)])
    found = with_uncertainty(concatenate([alone, pair, cell]), [potential, other])
    # One atom feels no force, by symmetry.
    np.testing.assert_allclose(found.structure["uncertainty"][[0, 2]], 0, atol=1e-12)
    assert found.structure["uncertainty"][1] > 0
    assert found.structure["cell_deviation"][:2].tolist() == [0, 0]
    assert found.structure["cell_deviation"][2] > 0
    nothing = with_uncertainty(pair.select([]), [potential, other])
    assert len(nothing.structure["uncertainty"]) == len(nothing.atom["force_deviation"]) == 0


def test_what_cannot_be_judged_is_nan(potential: Potential, other: Potential) -> None:
    frames = starts(potential, 3)
    positions = np.array(frames.positions)
    positions[frames.ptr[1]] = np.nan
    cells = np.array(frames.cells)
    cells[2] *= 1e-3
    found = with_uncertainty(replace(frames, positions=positions, cells=cells), [potential, other])
    assert np.isfinite(found.structure["uncertainty"]).tolist() == [True, False, False]
    atoms = np.isfinite(found.atom["force_deviation"])
    np.testing.assert_array_equal(atoms, frames.batch == 0)


def test_only_those_that_are_asked_for(potential: Potential, other: Potential) -> None:
    frames = starts(potential, 4)
    which = np.array([False, True, False, True])
    whole = with_uncertainty(frames, [potential, other])
    found = with_uncertainty(frames, [potential, other], which)
    for name in LABELS:
        expected = np.where(which, whole.structure[name], np.nan)
        np.testing.assert_allclose(found.structure[name], expected, atol=1e-10)
    np.testing.assert_array_equal(np.isfinite(found.atom["force_deviation"]), which[frames.batch])


def test_a_stop_keeps_what_is_done(potential: Potential, other: Potential) -> None:
    told: list[tuple[int, int]] = []
    found = with_uncertainty(
        starts(potential, 4),
        [potential, other],
        batch_atoms=1,
        should_stop=lambda: "walltime" if len(told) == 2 else None,
        on_batch=lambda *counts: told.append(counts),
    )
    assert told == [(1, 4), (2, 4)]
    assert np.isfinite(found.structure["uncertainty"]).tolist() == [True, True, False, False]


def test_too_little_memory(
    potential: Potential, other: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is halved; what does not fit alone is not judged."""
    frames = starts(potential, n_atoms=(4, 12))
    large = int(frames.counts.max())
    whole = with_uncertainty(frames, [potential, other])
    real = uncertainty._deviations

    def narrow(batch: object, *rest: object) -> object:
        if len(batch.numbers) >= large:  # type: ignore[attr-defined]
            raise MemoryError
        return real(batch, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(uncertainty, "_deviations", narrow)
    found = with_uncertainty(frames, [potential, other])
    fits = frames.counts < large
    assert fits.any()
    assert not fits.all()
    expected = np.where(fits, whole.structure["uncertainty"], np.nan)
    np.testing.assert_allclose(found.structure["uncertainty"], expected, atol=1e-10)
