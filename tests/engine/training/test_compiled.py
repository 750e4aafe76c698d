"""A compiled gradient: the same numbers, and as it is where it cannot be compiled."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings, to_plain
from aiida_rm.engine.training.compiled import CompiledGradient, even_batch
from aiida_rm.engine.training.trainer import Trainer
from tests.engine.test_program import prepare
from tests.engine.training.test_trainer import assert_same, crystals, molecules

SETTINGS = TrainSettings(
    epochs=2,
    batch_atoms=40,
    cutoff=3.2,
    channels=2,
    radial=3,
    l_max=1,
    hidden=(4,),
    features=4,
    layers=1,
    threads=1,
    dtype="float64",
)
ARCHITECTURES = pytest.mark.parametrize("architecture", ["local", "equivariant"])


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program as it is: compiling takes a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)


def odd_ones() -> Frames:
    """Crystals of one atom and a molecule, one after the other; an atom that sees no other."""
    copper, far = bulk("Cu"), molecule("H2")
    far.positions[1] += 9.0
    parts = [copper, molecule("H2O"), far]
    stable = Frames.build(
        [a.numbers for a in parts],
        [a.positions for a in parts],
        [a.cell.array for a in parts],
        [a.pbc for a in parts],
    )
    return perturb(stable, PerturbSettings(samples=12, min_atoms=1))


@ARCHITECTURES
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("energy_weight", [0.0, 0.5])
@pytest.mark.parametrize("make", [crystals, molecules, odd_ones])
def test_an_even_batch_is_the_same_batch(
    architecture: str, make: Callable[[], Frames], energy_weight: float
) -> None:
    said: list[str] = []
    knobs = {"architecture": architecture, "l_max": 3, "energy_weight": energy_weight}
    trainer = Trainer(make(), replace(SETTINGS, **knobs))
    plain = trainer._add_gradient
    trainer._say = said.append
    trainer._compile()
    even = trainer._add_gradient
    assert isinstance(even, CompiledGradient)
    assert even.works, said
    for rows in (trainer.train_rows[:7], trainer.train_rows[:1]):
        example = (*trainer.data.batch(rows), trainer._factors(rows))
        torch.testing.assert_close(even._alone(even, example), even._alone(plain, example))


def test_no_size_of_an_even_batch_is_below_two() -> None:
    trainer = Trainer(odd_ones(), SETTINGS)
    alone = np.array([int(np.flatnonzero(trainer.data.counts == 1)[0])])
    batch = even_batch(*trainer.data.batch(alone))
    assert min(size for name in batch for size in batch[name].shape) >= 2


@ARCHITECTURES
@pytest.mark.usefixtures("uncompiled")
def test_compiled_training_is_the_same_training(architecture: str, tmp_path: Path) -> None:
    frames = concatenate([crystals(16), molecules()])
    settings = replace(SETTINGS, architecture=architecture)
    plain = Trainer(frames, settings).run()
    said: list[str] = []
    whole = Trainer(frames, replace(settings, compile=True)).run(say=said.append)
    assert said[0].startswith("compiling")
    assert said[1].startswith("compiled in")
    for name, value in plain.potential.state_dict().items():
        torch.testing.assert_close(
            whole.potential.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name
        )
    # Stopped, and resumed.
    state, calls = tmp_path / "state.safetensors", iter(range(100))
    Trainer(frames, replace(settings, compile=True)).run(
        lambda: "walltime" if next(calls) == 3 else None, checkpoint=state
    )
    second = Trainer(frames, replace(settings, compile=True))
    second.restore(state)
    assert_same(second.run().potential, whole.potential)
    # A state serves with and without.
    Trainer(frames, settings).restore(state)


@pytest.mark.usefixtures("uncompiled")
def test_what_fails_on_the_way_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    trainer = Trainer(crystals(), replace(SETTINGS, compile=True))
    calls = iter(range(10**6))
    original = CompiledGradient.__call__

    def fail_once(self: CompiledGradient, *batch: Any) -> torch.Tensor:
        if next(calls) == 4:
            monkeypatch.setattr(self, "_run", lambda *_: 1 / 0)
        return original(self, *batch)

    monkeypatch.setattr(CompiledGradient, "__call__", fail_once)
    found = trainer.run(say=said.append).potential
    assert said[2] == (
        "the training step is not compiled (ZeroDivisionError: division by zero); training goes "
        "on without"
    )
    assert len([line for line in said if "not compiled" in line]) == 1
    plain = Trainer(crystals(), SETTINGS).run().potential
    torch.testing.assert_close(found.state_dict(), plain.state_dict(), rtol=1e-9, atol=1e-11)


def test_other_numbers_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(function: Any, **_: Any) -> Any:
        def program(*given: Any) -> Any:
            gradient, loss = function(*given)
            return {name: 1.01 * part for name, part in gradient.items()}, loss

        return program

    monkeypatch.setattr(torch, "compile", wrong)
    said: list[str] = []
    found = Trainer(crystals(), replace(SETTINGS, compile=True)).run(say=said.append).potential
    assert "its gradient differs" in said[1]
    assert_same(found, Trainer(crystals(), SETTINGS).run().potential)


def train(folder: Path, environment: dict[str, str], processes: int, knobs: dict[str, Any]) -> str:
    """Run the program in a folder of its own; what the first process says."""
    plain = {**to_plain(replace(SETTINGS, architecture="equivariant")), **knobs}
    prepare(folder, "train", plain)
    crystals().save(folder / files.INPUT_FRAMES)
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "aiida_rm.engine", "train", files.SETTINGS],
            cwd=folder,
            env={
                **os.environ,
                **environment,
                "OMPI_COMM_WORLD_RANK": str(rank),
                "OMPI_COMM_WORLD_SIZE": str(processes),
                "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    said = [process.communicate(timeout=900)[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes
    assert json.loads((folder / files.RESULTS).read_text())["status"] == "finished"
    return said[0]


@pytest.mark.slow
def test_the_program_with_and_without_a_compiler(tmp_path: Path) -> None:
    expected = {files.SETTINGS, files.INPUT_FRAMES, files.OUTPUT_POTENTIAL}
    expected |= {files.METRICS, files.RESULTS, files.OUTPUT_FRAMES}
    found = {}
    for name, environment, processes, knobs, line in (
        ("plain", {}, 1, {"compile": False}, "epoch 1"),
        ("one", {}, 1, {"compile": True}, "compiled in"),
        ("local", {}, 1, {"compile": True, "architecture": "local"}, "compiled in"),
        ("plain local", {}, 1, {"architecture": "local"}, "epoch 1"),
        ("two", {}, 2, {"compile": True}, "compiled in"),
        ("none", {"CXX": "/nowhere/c++"}, 1, {"compile": True}, "not compiled (Inductor"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / f"cache-{name}")}
        said = train(folder, {**environment, **cache}, processes, knobs)
        assert line in said, name
        assert {path.name for path in folder.iterdir()} == expected
        found[name] = Potential.load(folder / files.OUTPUT_POTENTIAL)
    for name, same in (("one", "plain"), ("two", "plain"), ("local", "plain local")):
        torch.testing.assert_close(
            found[name].state_dict(), found[same].state_dict(), rtol=1e-8, atol=1e-10
        )
    assert_same(found["none"], found["plain"])
