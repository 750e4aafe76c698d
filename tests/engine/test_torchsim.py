"""The model of TorchSim against the calculator of ASE."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.torchsim import graph_of, torchsim_model

FILE = Path(__file__).parents[2] / "examples/potentials/mp_equivariant.safetensors"


def cells() -> list[Atoms]:
    """Two crystals, skewed and rattled."""
    atoms = [bulk("Si", "diamond", a=5.43), bulk("NaCl", "rocksalt", a=5.64)]
    for seed, one in enumerate(atoms):
        one.set_cell(one.cell.array @ [[1, 0.1, 0], [0, 1, 0], [0.05, 0, 1]], scale_atoms=True)
        one.rattle(0.1, seed=seed)
    return atoms


def state_of(atoms: list[Atoms]) -> Any:
    """What TorchSim's own function makes of them."""
    return SimpleNamespace(
        positions=torch.tensor(np.concatenate([one.positions for one in atoms])),
        cell=torch.tensor(np.stack([one.cell.array.T for one in atoms])),
        pbc=True,
        atomic_numbers=torch.tensor(np.concatenate([one.numbers for one in atoms])),
        system_idx=torch.repeat_interleave(
            torch.arange(len(atoms)), torch.tensor([len(one) for one in atoms])
        ),
    )


def test_the_graph_of_a_state() -> None:
    """Every pair once in each direction, as the calculator sees it."""
    atoms = cells()
    graph = graph_of(state_of(atoms), 4.0)
    lengths = graph.edge_vectors().norm(dim=1)
    assert lengths.max() < 4.0
    for index, one in enumerate(atoms):
        from ase.neighborlist import neighbor_list

        found = lengths[graph.batch[graph.edge_index[0]] == index].numpy()
        assert np.allclose(np.sort(found), np.sort(neighbor_list("d", one, 4.0)))
    as_table = graph_of(vars(state_of(atoms)), 4.0)
    assert torch.equal(as_table.edge_index, graph.edge_index)


def test_the_model_is_the_calculator() -> None:
    torch_sim = pytest.importorskip("torch_sim")
    from torch_sim.models.interface import validate_model_outputs

    model = torchsim_model(FILE, device="cpu")
    atoms = cells()
    state = torch_sim.io.atoms_to_state(atoms, torch.device("cpu"), torch.float64)
    found = model(state)
    for index, one in enumerate(atoms):
        one.calc = ResponseMatchingCalculator.from_file(FILE, device="cpu")
        assert np.isclose(found["energy"][index], one.get_potential_energy(), atol=1e-9)
        forces = found["forces"][state.system_idx == index]
        assert np.allclose(forces, one.get_forces(), atol=1e-9)
        assert np.allclose(found["stress"][index], one.get_stress(voigt=False), atol=1e-9)
    validate_model_outputs(model, torch.device("cpu"), torch.float64)


def test_without_torchsim(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_sim", None)
    monkeypatch.setitem(sys.modules, "torch_sim.models.interface", None)
    with pytest.raises(PotentialError, match="pip install 'aiida-rm"):
        torchsim_model(FILE)
