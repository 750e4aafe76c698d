"""Our neighbour lists and batched FIRE against well-kept libraries, where these are installed.

    pip install --no-deps --target FOLDER vesin vesin-torch nvalchemi-toolkit-ops warp-lang \
        torch-sim-atomistic h5py tables tqdm numexpr blosc2 py-cpuinfo ndindex msgpack
    PYTHONPATH=FOLDER .venv/bin/python benchmarks/neighbour_lists.py

All get the same random carbon crystals in one batch, and must find the same number of edges (or end
at the same energies). Processor time, the best of a few rounds, because other work may run beside.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common import arguments, finish, table
from diamond import diamond

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import Graph, build_graph, neighbour_list
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, PerturbSettings, Stage, TrainSettings
from aiida_rm.engine.training.trainer import Trainer

CUTOFF = 5.0


def lists(frames: Frames) -> dict[str, Callable[[], int]]:
    """By name, what makes all lists of a batch and returns the number of edges."""
    positions = torch.as_tensor(np.array(frames.positions))
    cells, pbc = torch.as_tensor(np.array(frames.cells)), torch.as_tensor(np.array(frames.pbc))
    counts = torch.as_tensor(np.array(frames.counts))
    ptr = torch.as_tensor(np.array(frames.ptr)).int()
    owner = torch.repeat_interleave(torch.arange(len(counts)), counts)
    parts = [slice(int(a), int(b)) for a, b in pairwise(ptr)]
    ways: dict[str, Callable[[], int]] = {
        "ours": lambda: neighbour_list(positions, cells, pbc, counts, CUTOFF)[0].shape[1]
    }
    try:
        from vesin import NeighborList

        one = NeighborList(cutoff=CUTOFF, full_list=True, sorted=True)
        places, boxes = positions.numpy(), cells.numpy()

        def vesin() -> int:
            found = [
                one.compute(places[part], boxes[index], periodic=True, quantities="PS")
                for index, part in enumerate(parts)
            ]
            pairs = np.concatenate([f[0] + p.start for f, p in zip(found, parts, strict=True)])
            shifts = np.concatenate([f[1] for f in found])
            assert len(shifts) == len(pairs)
            return len(torch.as_tensor(pairs.astype(np.int64)))

        ways["vesin, one at a time"] = vesin
    except ImportError:
        pass
    try:
        from vesin_torch import NeighborList as TorchList

        other = TorchList(cutoff=CUTOFF, full_list=True, sorted=True)

        def vesin_torch() -> int:
            found = [
                other.compute(positions[part], cells[index], periodic=True, quantities="PS")
                for index, part in enumerate(parts)
            ]
            pairs = torch.cat([f[0] + p.start for f, p in zip(found, parts, strict=True)])
            shifts = torch.cat([f[1] for f in found])
            assert len(shifts) == len(pairs)
            return len(pairs)

        ways["vesin-torch, one at a time"] = vesin_torch
    except ImportError:
        pass
    try:
        from torch_sim.neighbors import torch_nl_linked_cell, torch_nl_n2

        scaled = torch.bmm(positions[:, None], torch.linalg.inv(cells)[owner])[:, 0]
        wrapped = torch.bmm((scaled - scaled.floor())[:, None], cells[owner])[:, 0]
        reach = torch.tensor(CUTOFF)
        for name, way in (("n2", torch_nl_n2), ("linked cell", torch_nl_linked_cell)):
            ways[f"torch-sim, {name}"] = lambda way=way: way(
                reach, wrapped, cells.flatten(0, 1), pbc, owner
            )[0].shape[1]
    except ImportError:
        pass
    try:
        from nvalchemiops.torch.neighbors import neighbor_list

        for name in ("batch_naive", "batch_cell_list"):
            ways[f"nvalchemi-toolkit-ops, {name}"] = lambda name=name: neighbor_list(
                positions,
                CUTOFF,
                cell=cells,
                pbc=pbc,
                batch_idx=owner.int(),
                batch_ptr=ptr,
                method=name,
                max_neighbors=256,
                return_neighbor_list=True,
            )[0].shape[1]
    except ImportError:
        pass
    return ways


def torch_sim_fire(potential: Potential, frames: Frames, fmax: float, steps: int) -> Frames | None:
    """The same relaxation by torch-sim: its batches, its FIRE, our neighbour lists and forces."""
    try:
        import torch_sim as ts
        from torch_sim.models.interface import ModelInterface
    except ImportError:
        return None

    class Model(ModelInterface):  # type: ignore[misc]
        _device, _dtype = torch.device("cpu"), potential.element_energy.dtype
        _compute_forces = _compute_stress = True
        _memory_scales_with = "n_atoms"

        def forward(self, state: Any, **_: Any) -> dict[str, torch.Tensor]:
            cells = state.row_vector_cell
            counts = torch.bincount(state.system_idx)
            periodic = torch.ones((len(cells), 3), dtype=torch.bool)
            edges, shifts = neighbour_list(
                state.positions.double(), cells.double(), periodic, counts, potential.cutoff
            )
            graph = Graph(
                numbers=state.atomic_numbers.long(),
                positions=state.positions,
                cells=cells,
                periodic=periodic.all(1),
                batch=state.system_idx,
                edge_index=edges,
                shifts=shifts.to(cells),
            )
            found = potential(graph)
            return {"energy": found.energy, "forces": found.forces, "stress": found.stress}

    from ase import Atoms

    model = Model()
    atoms = [
        Atoms(part.numbers, part.positions, cell=part.cells[0], pbc=True)
        for part in (frames[index] for index in range(len(frames)))
    ]
    batcher = ts.InFlightAutoBatcher(model, memory_scales_with="n_atoms", max_memory_scaler=1024)
    final = ts.optimize(
        ts.initialize_state(atoms, model.device, model.dtype),
        model,
        optimizer=ts.optimizers.fire,
        convergence_fn=ts.runners.generate_force_convergence_fn(fmax, include_cell_forces=False),
        autobatcher=batcher,
        max_steps=steps,
        steps_between_swaps=1,
    )
    return frames.with_labels(structure={"energy": final.energy.double().numpy()})


def best(way: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """Seconds of processor time, and what came out."""
    found, seconds = way(), []
    for _ in range(rounds):
        began = time.process_time()
        found = way()
        seconds.append(time.process_time() - began)
    return min(seconds), found


def main() -> None:
    """Print the table and the JSON line."""
    given = arguments(__doc__ or "", structures=150, rounds=7, fire=24)
    frames = perturb(diamond(), PerturbSettings(seed=given.seed, samples=121, min_atoms=8))
    potential = (
        Trainer(frames, TrainSettings(seed=given.seed, epochs=6, batch_atoms=256)).run().potential
    )
    settings = GenerateSettings(seed=given.seed, n_structures=given.structures)
    starts, _ = make_starts(range(given.structures), settings, potential.notes)
    figures: dict[str, Any] = {"structures": len(starts), "atoms": starts.n_atoms}
    rows: list[tuple[str, Any]] = list(figures.items())
    edges = set()
    for name, way in lists(starts).items():
        try:
            seconds, count = best(way, given.rounds)
        except Exception as error:  # noqa: BLE001 - a library that fails is a finding
            figures[name] = str(error)
        else:
            figures[name] = seconds * 1e3
            edges.add(count)
            rows.append((f"{name}, {count} edges, ms", seconds * 1e3))
    figures["edges"] = sorted(edges)

    part = starts.select(range(given.fire))
    stages = (Stage(optimizer="fire", cell="fixed", fmax=5e-3, max_steps=300),)
    seconds, ours = best(lambda: relax(part, potential, stages), 1)
    figures["fire_ours"] = seconds
    rows.append(("batched FIRE, ours, s", seconds))
    began = time.process_time()
    theirs = torch_sim_fire(potential, part, 5e-3, 300)
    if theirs is not None:
        figures["fire_torch_sim"] = time.process_time() - began
        rows.append(("batched FIRE, torch-sim, s", figures["fire_torch_sim"]))
        same = np.abs(theirs.structure["energy"] - ours.structure["energy"]) < 1e-3
        figures["fire_same_energy"] = float(same.mean())
    graph = build_graph(part, potential.cutoff, dtype=torch.float32)
    figures["one_force_call_ms"] = 1e3 * best(lambda: potential(graph), given.rounds)[0]
    table(rows)
    finish("neighbour_lists", given.seed, figures)


if __name__ == "__main__":
    main()
