"""A user's own energy: its derivatives, its weight, and its mistakes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import load_penalty, relax
from aiida_rm.engine.settings import GenerateSettings, Stage, parse_settings
from tests.engine.relaxation.systems import starts

HERE = "tests.engine.relaxation.penalties"


def strained(frames: Frames, strain: np.ndarray) -> Frames:
    whole = np.eye(3) + strain
    return replace(frames, positions=frames.positions @ whole, cells=frames.cells @ whole)


@pytest.mark.parametrize("name", ["flat", "pairs", "large", "nothing", "Soft"])
def test_forces_and_virial_are_its_slopes(potential: Potential, name: str) -> None:
    """Also of ASE's calculators, with weight 2."""
    penalty = load_penalty(f"{HERE}:{name}", 2.0, "{}")
    frames = starts(potential, 3)
    cutoff = 3.0

    def energy(frames: Frames) -> np.ndarray:
        return np.asarray(penalty(build_graph(frames, cutoff)).energy)

    found = penalty(build_graph(frames, cutoff))
    step = 1e-5
    for axis in range(3):
        up, down = (np.array(frames.positions) for _ in range(2))
        up[1, axis] += step
        down[1, axis] -= step
        slope = (
            energy(replace(frames, positions=up)) - energy(replace(frames, positions=down))
        ) / (2 * step)
        assert -slope[0] == pytest.approx(float(found.forces[1, axis]), abs=1e-5)
        assert np.abs(slope[1:]).max() < 1e-9
        strain = np.zeros((3, 3))
        strain[axis, (axis + 1) % 3] = strain[(axis + 1) % 3, axis] = step / 2
        slope = (energy(strained(frames, strain)) - energy(strained(frames, -strain))) / (2 * step)
        np.testing.assert_allclose(slope, found.virial[:, axis, (axis + 1) % 3], atol=2e-4)


def test_it_drives_the_relaxation_and_is_told_apart(potential: Potential) -> None:
    frames = starts(potential, 4)
    stages = (Stage(cell="fixed", fmax=1e-2, max_steps=40),)
    penalty = load_penalty(f"{HERE}:flat", 5.0, '{"strength": 2, "height": 1.0}')
    found = relax(frames, potential, stages, penalty=penalty)
    free = relax(frames, potential, stages)
    spread = [np.abs(f.positions[:, 2] - 1.0).mean() for f in (found, free)]
    assert spread[0] < 0.5 * spread[1]
    plain = potential(build_graph(found, potential.cutoff)).energy
    np.testing.assert_allclose(found.structure["energy"], plain, atol=1e-9)
    squares = 10 * (found.positions[:, 2] - 1.0) ** 2
    np.testing.assert_allclose(
        found.structure["penalty"], np.add.reduceat(squares, frames.ptr[:-1]), atol=1e-9
    )
    assert "penalty" not in free.structure


def test_it_pulls_at_the_cell(potential: Potential) -> None:
    frames = starts(potential, 4)
    stages = (Stage(cell="free", max_steps=30),)
    found = relax(frames, potential, stages, penalty=load_penalty(f"{HERE}:large", 20.0, "{}"))
    assert (found.volumes > relax(frames, potential, stages).volumes).all()


def test_a_molecule_has_no_virial(potential: Potential) -> None:
    frames = Frames.build([[6, 6]], [[[0, 0, 0], [0, 0, 1.5]]])
    found = load_penalty(f"{HERE}:Soft", 1.0, "{}")(build_graph(frames, 3.0))
    assert float(found.virial.abs().max()) == 0
    assert float(found.forces.abs().max()) > 0
    relaxed = relax(
        frames, potential, (Stage(max_steps=5),), penalty=load_penalty(f"{HERE}:Soft", 1.0, "{}")
    )
    assert np.isfinite(relaxed.positions).all()


@pytest.mark.parametrize(
    ("path", "arguments", "message"),
    [
        ("no_such_package.at_all:f", "{}", "no_such_package"),
        (f"{HERE}:missing", "{}", "missing"),
        (f"{HERE}:constant", "{}", "neither a function"),
        (f"{HERE}:Graph", "{}", "neither a function"),
        (f"{HERE}:Soft", '{"sigma": 1}', "TypeError"),
    ],
)
def test_what_cannot_be_loaded(path: str, arguments: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message) as caught:
        load_penalty(path, 1.0, arguments)
    assert path in str(caught.value)


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("column", "{}", r"\(2, 1\).*2 structures"),
        ("number", "{}", "float"),
        ("broken", "{}", "ZeroDivisionError: too bad"),
        ("flat", '{"strong": 1}', "strong"),
        ("OnlyEnergy", "{}", "PropertyNotImplementedError"),
    ],
)
def test_what_goes_wrong_when_called(
    potential: Potential, name: str, arguments: str, message: str
) -> None:
    penalty = load_penalty(f"{HERE}:{name}", 1.0, arguments)
    with pytest.raises(SettingsError, match=message):
        relax(starts(potential, 2), potential, (Stage(),), penalty=penalty)


def test_a_calculator_that_fails_for_one_structure_breaks_that_one_alone(
    potential: Potential,
) -> None:
    frames = starts(potential, 4)
    positions = np.array(frames.positions)
    positions[frames.ptr[1] : frames.ptr[2], 2] += 100
    frames = replace(frames, positions=positions)
    stages = (Stage(max_steps=10, cell="free"), Stage(kind="langevin", max_steps=5))
    penalty = load_penalty(f"{HERE}:Fussy", 1.0, "{}")
    found = relax(frames, potential, stages, penalty=penalty)
    assert found.structure["status"].tolist() == [1, 2, 1, 1]
    rest = [0, 2, 3]
    alone = relax(frames.select(rest), potential, stages, penalty=penalty)
    np.testing.assert_allclose(found.select(rest).positions, alone.positions, atol=1e-9)
    np.testing.assert_allclose(found.select(rest).cells, alone.cells, atol=1e-9)
    with pytest.raises(SettingsError, match="SCF did not converge"):
        relax(frames.select([1]), potential, stages, penalty=load_penalty(f"{HERE}:Fussy", 1, "{}"))


def test_memory_errors_of_a_penalty_halve_the_batch(
    potential: Potential, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.engine.relaxation import penalties

    whole = penalties.flat

    def greedy(graph: penalties.Graph) -> torch.Tensor:
        if graph.n_structures > 2:
            raise torch.OutOfMemoryError("out of memory")
        return whole(graph)

    monkeypatch.setattr(penalties, "flat", greedy)
    stages = (Stage(max_steps=2),)
    found = relax(
        starts(potential, 6), potential, stages, penalty=load_penalty(f"{HERE}:flat", 1.0, "{}")
    )
    assert len(found) == 6


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({"penalty": "mypackage.penalties"}, "package.module:name"),
        ({"penalty": "my package:f"}, "package.module:name"),
        ({"penalty": "a.b:f()"}, "package.module:name"),
        ({"penalty_arguments": "[1]"}, "must be the text of a table"),
        ({"penalty_arguments": "{"}, "no JSON"),
    ],
)
def test_bad_names_are_refused_without_importing(knobs: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(GenerateSettings, knobs)
