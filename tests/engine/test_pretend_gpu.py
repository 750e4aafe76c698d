"""The engine on a GPU that is none: every device mistake that CUDA would tell is told here."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk
from torch import Tensor, nn

from aiida_rm.engine import doctor, files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.potential import Potential, Prediction
from aiida_rm.engine.relaxation import RelaxStatus, load_penalty, memory, relax, with_uncertainty
from aiida_rm.engine.relaxation.memory import Room
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import (
    CELL_MODES,
    MOVES,
    GenerateSettings,
    PerturbSettings,
    Stage,
    TrainSettings,
)
from aiida_rm.engine.torchsim import graph_of
from aiida_rm.engine.training.distributed import Place, Team
from aiida_rm.engine.training.trainer import Trainer
from tests.engine.pretend_gpu import OnGpu, PretendGpu, pretend_gpu
from tests.engine.program import TRAIN, prepare, results

SETTINGS = TrainSettings(
    epochs=2,
    batch_atoms=40,
    cutoff=3.2,
    channels=3,
    radial=4,
    l_max=2,
    hidden=(6,),
    features=6,
    threads=1,
)
FREE = (Stage(cell="free", max_steps=4),)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[PretendGpu]:
    torch.set_num_threads(1)
    with pretend_gpu(monkeypatch) as mode:
        yield mode


def stable() -> Frames:
    """A crystal and a molecule."""
    crystal = bulk("SiC", "zincblende", a=4.36)
    chain = [[0, 0, 0], [1.2, 0, 0], [2.4, 0.3, 0]]
    return Frames.build(
        [crystal.numbers, [6, 6, 14]],
        [crystal.positions, chain],
        np.stack([crystal.cell.array, np.zeros((3, 3))]),
        np.array([[True] * 3, [False] * 3]),
    )


@pytest.fixture(scope="module")
def frames() -> Frames:
    return perturb(stable(), PerturbSettings(samples=12))


@pytest.fixture(scope="module")
def file(frames: Frames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A potential, trained on the processor."""
    path = tmp_path_factory.mktemp("potential") / "potential.safetensors"
    Trainer(frames, SETTINGS).run().potential.save(path)
    return path


@pytest.fixture(scope="module")
def starts(file: Path) -> Frames:
    """Crystals and molecules."""
    notes = Potential.load(file).notes
    crystals = GenerateSettings(n_atoms=(2, 3))
    molecules = replace(crystals, n_atoms=(4, 5), periodic=False)
    return concatenate([make_starts(range(3), s, notes)[0] for s in (crystals, molecules)])


# The pretence itself.


def on_gpu(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device="cuda")


MISTAKES: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "sum": (lambda: on_gpu(1, 2) + torch.ones(2), RuntimeError),
    "sum in place": (lambda: torch.ones(2).add_(on_gpu(1, 2)), RuntimeError),
    "scalar on the GPU": (lambda: torch.ones(2) * on_gpu(1)[0], RuntimeError),
    "product": (lambda: torch.eye(2) @ on_gpu(1, 2), RuntimeError),
    "where": (lambda: torch.where(on_gpu(1, 2) > 1, torch.ones(2), 0.0), RuntimeError),
    "cat": (lambda: torch.cat([on_gpu(1), torch.ones(1)]), RuntimeError),
    "stack": (lambda: torch.stack([on_gpu(1)[0], torch.tensor(1.0)]), RuntimeError),
    "index_select": (lambda: on_gpu(1).index_select(0, torch.tensor(0)), RuntimeError),
    "index_add": (lambda: torch.ones(2).index_add(0, on_gpu(0).long(), on_gpu(1)), RuntimeError),
    "index on the GPU": (lambda: torch.ones(2)[on_gpu(0, 1).long()], RuntimeError),
    "mask on the GPU": (lambda: torch.ones(2)[on_gpu(0, 1) > 0], RuntimeError),
    "index_put": (
        lambda: on_gpu(1, 2).__setitem__(torch.tensor([0, 1]), torch.ones(2)),
        RuntimeError,
    ),
    "module": (lambda: nn.Linear(2, 2)(on_gpu(1, 2)), RuntimeError),
    "input": (lambda: nn.Linear(2, 2).to("cuda")(torch.ones(2)), RuntimeError),
    "constant": (lambda: on_gpu(1, 2) * torch.from_numpy(np.ones(2)), RuntimeError),
    "numpy": (lambda: on_gpu(1).numpy(), TypeError),
    "asarray": (lambda: np.asarray(on_gpu(1)), TypeError),
    "concatenate": (lambda: np.concatenate([np.ones(1), on_gpu(1)]), TypeError),
    "generator": (lambda: torch.rand(2, device="cuda", generator=torch.Generator()), RuntimeError),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_told(gpu: PretendGpu, name: str) -> None:
    mistake, error = MISTAKES[name]
    with pytest.raises(error, match=r"device|numpy|cpu"):
        mistake()


def test_what_is_allowed(gpu: PretendGpu) -> None:
    x = on_gpu(1, 2, 3)
    assert isinstance(x, OnGpu)
    assert (x.device, x.is_cuda, x.device.type) == (torch.device("cuda:0"), True, "cuda")
    for found in (
        x * torch.tensor(2.0),
        x[torch.tensor([0, 2])],
        x[torch.tensor([True, False, True])],
        x.new_zeros(2),
        torch.zeros_like(x),
        torch.where(x > 1, x, 0.0),
        torch.ones(2).to(x),
        torch.ones(2).cuda(),
        torch.ones(2).to("cuda", torch.float64),
        torch.as_tensor(np.ones(2), device=x.device),
        torch.arange(2, device="cuda"),
        next(iter(x)),
        x.sort().values,
        torch.unique_consecutive(x, return_counts=True)[1],
    ):
        assert found.device == x.device, found
    for found in (
        x.cpu(),
        x.to("cpu"),
        x.to("cpu", torch.float64),
        torch.zeros_like(x, device="cpu"),
    ):
        assert type(found) is Tensor
        assert found.numpy().shape == (3,)
    # Copies share no memory.
    numbers = np.ones(2)
    torch.as_tensor(numbers, device="cuda").zero_()
    x.cpu().zero_()
    assert numbers.sum() == 2
    assert float(x.sum()) == 6
    x[0] = torch.tensor(5.0)
    torch.ones(3).copy_(x)
    x[1:].copy_(torch.ones(2))
    assert x.tolist() == [5, 1, 1]
    with torch.device("meta"):
        assert nn.Linear(2, 2).weight.device.type == "meta"


def test_modules_and_gradients(gpu: PretendGpu) -> None:
    """A module goes there and back; a loss on a derivative; optimiser and copies."""
    model = nn.Sequential(nn.Linear(2, 3), nn.SiLU(), nn.Linear(3, 1)).to("cuda")
    assert all(isinstance(weight, OnGpu) for weight in model.parameters())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    x = on_gpu(1, 2).requires_grad_(True)
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    slope.square().sum().backward()
    assert isinstance(model[0].weight.grad, OnGpu)
    before, copy = model[0].weight.detach().clone(), deepcopy(model)
    assert isinstance(nn.utils.clip_grad_norm_(model.parameters(), 1e-3), OnGpu)
    optimizer.step()
    assert not torch.equal(before, model[0].weight)
    assert torch.equal(before, copy[0].weight)
    assert isinstance(copy[0].weight, nn.Parameter)
    state = {name: value.cpu() for name, value in model.state_dict().items()}
    copy.load_state_dict(state)
    assert torch.equal(copy[0].weight, model[0].weight)
    assert type(copy.double().to("cpu")[0].weight) is nn.Parameter


# The engine.


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {
            "architecture": "equivariant",
            "dtype": "float64",
            "batch_edges": 1000,
            "batch_parts": 2,
        },
    ],
    ids=["local", "equivariant"],
)
def test_training(gpu: PretendGpu, frames: Frames, tmp_path: Path, knobs: dict[str, Any]) -> None:
    """As on the processor; a state goes from one to the other."""
    settings = replace(SETTINGS, checkpoint_seconds=0.0, **knobs)
    there = Trainer(frames, settings)
    assert there.device.type == "cuda"
    state = tmp_path / "state.safetensors"
    outcome = there.run(checkpoint=state)
    here = Trainer(frames, replace(settings, device="cpu"))
    wanted = here.run()
    for row, other in zip(outcome.progress.history, wanted.progress.history, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert (row["gpu"], other["gpu"]) == (1, 0)
    assert there.held_out(outcome.potential) is not None
    outcome.potential.save(tmp_path / "potential.safetensors")
    for device in ("cpu", "cuda"):
        resumed = Trainer(frames, replace(settings, device=device))
        resumed.restore(state)
        assert resumed.run().progress.step == outcome.progress.step
        assert resumed.model.element_energy.device.type == device
    initial = Potential.load(tmp_path / "potential.safetensors")
    Trainer(frames, replace(settings, epochs=1), initial).run()


def test_a_training_that_diverges_is_rescued(gpu: PretendGpu, frames: Frames) -> None:
    trainer = Trainer(frames, replace(SETTINGS, rescues=1))

    def spoil(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 1:
            with torch.no_grad():
                trainer.weights[0].fill_(float("nan"))

    assert trainer.run(on_epoch=spoil).progress.rescues == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_fresh_copies(gpu: PretendGpu, workers: int) -> None:
    recipe = PerturbSettings(samples=12)
    knobs = {"draw": "fresh", "recipe": recipe, "workers": workers}
    outcome = Trainer(stable(), replace(SETTINGS, **knobs)).run()
    assert outcome.progress.history[-1]["gpu"] == 1


def test_a_step_waits_for_few_things(gpu: PretendGpu, frames: Frames) -> None:
    """Copies of the batch, and two numbers; none of the constants."""
    trainer = Trainer(frames, SETTINGS)
    rows = trainer._batches(0)[0]
    trainer._step(rows, 0.0)
    gpu.waits.clear()
    trainer._step(rows, 0.0)
    assert sum(gpu.waits.values()) <= 16, gpu.waits
    assert not [where for where in gpu.waits if "potential" in where]


@pytest.mark.parametrize("kind", ["jitter", "langevin", "hop"])
def test_relaxing(gpu: PretendGpu, file: Path, starts: Frames, kind: str) -> None:
    """Crystals and molecules through all cell modes; as on the processor."""
    moves = {"moves": MOVES, "cycles": 2} if kind == "hop" else {}
    walk = Stage(kind=kind, max_steps=3, amplitude=0.1, temperature=0.01, **moves)
    stages = tuple(
        replace(stage, cell=mode)
        for mode in CELL_MODES
        for stage in (walk, Stage(max_steps=2, pressure=0.01))
    )
    there = Potential.load(file, dtype=torch.float64, device="cuda")
    here = Potential.load(file, dtype=torch.float64)
    found, wanted = (relax(starts, one, stages) for one in (there, here))
    np.testing.assert_allclose(found.positions, wanted.positions, atol=1e-6)
    np.testing.assert_array_equal(found.structure["steps"], wanted.structure["steps"])


@pytest.mark.parametrize("optimizer", ["lbfgs", "fire"])
def test_a_relaxation_waits_for_few_things(
    gpu: PretendGpu, file: Path, starts: Frames, optimizer: str
) -> None:
    potential = Potential.load(file, device="cuda")
    waits = []
    for steps in (5, 25):
        gpu.waits.clear()
        stage = Stage(optimizer=optimizer, cell="free", max_steps=steps, fmax=0.0)
        # So large a skin that no list grows old.
        relax(starts, potential, (stage,), skin=9.0)
        waits.append(sum(gpu.waits.values()))
    assert (waits[1] - waits[0]) / 20 < 5, gpu.waits


def test_a_batch_on_a_gpu_grows_at_once(
    gpu: PretendGpu, file: Path, starts: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step by step to what fits, long before the first structures finish."""
    monkeypatch.setattr(memory, "_FIRST", int(starts.counts[0]))
    told: list[RelaxStatus] = []
    walk = Stage(kind="langevin", max_steps=8, temperature=0.001)
    relax(starts, Potential.load(file, device="cuda"), (walk, *FREE), on_step=told.append)
    active = [status.active for status in told]
    assert active[0] == 1
    assert max(active) == len(starts)
    assert active.index(max(active)) < 8


@pytest.mark.parametrize("name", ["flat", "pairs", "large", "nothing", "Soft"])
def test_penalties(gpu: PretendGpu, file: Path, starts: Frames, name: str) -> None:
    penalty = load_penalty(f"tests.engine.relaxation.penalties:{name}", 0.1, "{}")
    crystals = starts.select(np.flatnonzero(starts.pbc.all(axis=1)))
    potential = Potential.load(file, device="cuda")
    assert "penalty" in relax(crystals, potential, FREE, penalty=penalty).structure


def test_a_committee_and_memory_that_runs_out(
    gpu: PretendGpu, file: Path, starts: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Potential.forward

    def forward(potential: Potential, graph: Any, **kwargs: Any) -> Prediction:
        if len(graph.numbers) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return whole(potential, graph, **kwargs)

    monkeypatch.setattr(Potential, "forward", forward)
    potential = Potential.load(file, device="cuda")
    told: list[RelaxStatus] = []
    found = relax(starts, potential, FREE, on_step=told.append)
    assert told[-1].batch_halved
    found = with_uncertainty(found, [potential, deepcopy(potential)])
    assert np.nanmax(found.structure["uncertainty"]) == 0


def test_the_batch_grows_with_the_memory(gpu: PretendGpu) -> None:
    room = Room(0, torch.device("cuda"))
    sizes = [room.atoms]
    for _ in range(7):
        room.measure(room.atoms)
        sizes.append(room.atoms)
    assert sizes == [4096, 8192, 16384, 32768, 65536, 131072, 131072, 131072]


def test_calculator_and_torchsim(gpu: PretendGpu, file: Path) -> None:
    atoms = bulk("SiC", "zincblende", a=4.4)
    atoms.rattle(0.05)
    atoms.calc = ResponseMatchingCalculator.from_file(file)
    assert atoms.calc.potential.element_energy.device.type == "cuda"
    state = SimpleNamespace(
        positions=torch.tensor(atoms.positions, device="cuda"),
        cell=torch.tensor(atoms.cell.array.T[None], device="cuda"),
        pbc=True,
        atomic_numbers=torch.tensor(atoms.numbers, device="cuda"),
        system_idx=torch.zeros(2, dtype=torch.int64, device="cuda"),
    )
    found = atoms.calc.potential(graph_of(state, atoms.calc.potential.cutoff))
    assert float(found.energy[0]) == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_allclose(found.stress[0].cpu(), atoms.get_stress(voigt=False), atol=1e-9)
    assert len(atoms.get_forces()) == 2


def test_the_program(gpu: PretendGpu, frames: Frames, tmp_path: Path) -> None:
    """Tasks of jobs with all that goes into files."""
    train, generate = tmp_path / "train", tmp_path / "generate"
    assert main(["doctor", str(prepare(tmp_path / "doctor", "doctor", {}))]) == 0
    (found,) = results(tmp_path / "doctor")["summary"]["gpus"]
    assert (found["name"], found["problem"]) == ("Pretend GPU", None)
    job = prepare(train, "train", {**TRAIN, "device": "cuda"})
    frames.save(train / files.INPUT_FRAMES)
    assert main(["train", str(job)]) == 0
    assert results(train)["engine"]["device"] == "Pretend GPU"
    stages = [{"cell": "free", "max_steps": 5}]
    job = prepare(generate, "generate", {"n_structures": 3, "n_atoms": [2], "stages": stages})
    shutil.copy(train / files.OUTPUT_POTENTIAL, generate / files.INPUT_POTENTIAL)
    (generate / files.INPUT_COMMITTEE).mkdir()
    member = Potential.load(train / files.OUTPUT_POTENTIAL)
    with torch.no_grad():
        for weights in member.network.trained():
            weights.mul_(1.1)
    member.save(generate / files.INPUT_COMMITTEE / "a.safetensors")
    assert main(["generate", str(job)]) == 0
    assert results(generate)["engine"]["device"] == "Pretend GPU"
    assert results(generate)["summary"]["committee"]["uncertainty_max"] > 0


def test_a_gpu_that_does_not_compute(gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_given: Any, **_knobs: Any) -> Tensor:
        raise RuntimeError("CUDA error: no kernel image is available\nmore")

    monkeypatch.setattr(torch, "ones", fail)
    assert doctor._gpu(0)["problem"] == "CUDA error: no kernel image is available"


# Several processes: as NCCL, which knows GPUs alone.


class Nccl:
    """Stands for torch.distributed: this process, and another that says the same."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, gpus: list[str]) -> None:
        self.gpus = gpus
        self.kept: dict[str, bytes] = {}
        self.joined: dict[str, Any] = {}
        dist = torch.distributed
        monkeypatch.setattr(dist, "TCPStore", lambda *_a, **_k: self)
        monkeypatch.setattr(dist, "PrefixStore", lambda _name, store: store)
        monkeypatch.setattr(dist, "init_process_group", self.init_process_group)
        monkeypatch.setattr(dist, "get_backend", lambda: self.joined["backend"])
        monkeypatch.setattr(dist, "all_reduce", self.all_reduce)
        monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
        monkeypatch.setattr(torch.version, "cuda", "13.0")

    def set(self, key: str, value: str) -> None:
        self.kept[key] = value.encode()

    def get(self, key: str) -> bytes:
        return self.kept.get(key, self.gpus[int(key[-1])].encode())

    def init_process_group(self, backend: str, **knobs: Any) -> None:
        self.joined = {"backend": backend, **knobs}

    def all_reduce(self, flat: Tensor, **_knobs: Any) -> Any:
        assert isinstance(flat, OnGpu), "No backend type associated with device type cpu"
        flat.mul_(2)
        return SimpleNamespace(is_completed=lambda: True, wait=lambda: None)


def test_nccl(gpu: PretendGpu, frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    nccl = Nccl(monkeypatch, ["0", "1"])
    team = Team(Place(rank=0, size=2))
    team.join("auto")
    assert (nccl.joined["backend"], nccl.joined["device_id"]) == ("nccl", torch.device("cuda:0"))
    assert team.sum([1.0, 2.5]) == [2, 5]
    trainer = Trainer(frames, replace(SETTINGS, epochs=1), team=team)
    assert trainer.run().finished
    assert isinstance(trainer.weights[0].grad, OnGpu)
    team.leave()


def test_processes_that_share_a_gpu(gpu: PretendGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    Nccl(monkeypatch, ["0", "0"])
    with pytest.raises(SettingsError, match="2 processes found 1 different GPUs"):
        Team(Place(rank=1, size=2, local_rank=1)).join("cuda")


# A machine for GPUs has little else.


def test_the_benchmark(gpu: PretendGpu, frames: Frames, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    bench = importlib.import_module("gpu")
    device, noted = torch.device("cuda"), {}
    monkeypatch.setattr(bench, "Stage", lambda **knobs: Stage(**{**knobs, "max_steps": 2}))
    potential = bench.measure_training(
        frames, "local", 0, device, noted.__setitem__, quick=True, budget=0.0
    )
    bench.measure_forces(potential, 16, 0, device, noted.__setitem__)
    bench.measure_generation(potential, 1, 0, noted.__setitem__, quick=True)
    assert {"train_local_batch_320", "forces_16_atoms", "generate_batch_1"} == set(noted)
    assert noted["train_local_batch_320"]["peak_memory_mib"] > 0


BARE = """
import sys
for name in ("aiida", "ase", "matplotlib", "pandas", "pymatgen", "rdkit", "scipy", "spglib"):
    sys.modules[name] = None
sys.path.insert(0, {benchmarks!r})
import gpu
from aiida_rm.engine.__main__ import main
print([main([task, task + "/settings.json"]) for task in ("perturb", "train", "generate")])
"""


def test_without_what_a_bare_node_lacks(file: Path, tmp_path: Path) -> None:
    recipe = {"samples": 6, "match": False}
    prepare(tmp_path / "perturb", "perturb", recipe)
    prepare(tmp_path / "train", "train", {**TRAIN, "epochs": 1, "draw": "fresh", "recipe": recipe})
    prepare(tmp_path / "generate", "generate", {"n_structures": 1, "stages": [{"max_steps": 1}]})
    for task in ("perturb", "train"):
        stable().save(tmp_path / task / files.INPUT_FRAMES)
    shutil.copy(file, tmp_path / "generate" / files.INPUT_POTENTIAL)
    script = BARE.format(benchmarks=str(Path(__file__).parents[2] / "benchmarks"))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.stdout.splitlines()[-1:] == ["[0, 0, 0]"], done.stderr
