"""What random starts learn from a training set, of the stable structures behind the copies."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import Knowledge
from aiida_rm.engine.settings import PerturbSettings
from aiida_rm.engine.training.statistics import MAX_FORMULAS, describe_training_set, molecule_boxes


def salt(edge: float = 5.64) -> Frames:
    """Primitive rock salt: NaCl."""
    half = edge / 2
    cell = half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    return Frames.build([[11, 17]], [[[0, 0, 0], [half, half, half]]], [cell])


def test_elemental_volumes_by_least_squares() -> None:
    # Normal equations by hand: 2 c + s = 35, c + 5 s = 105.
    cells = np.stack([np.eye(3) * v ** (1 / 3) for v in (10.0, 40.0, 25.0)])
    frames = Frames.build(
        [[6], [14, 14], [6, 14]], [np.zeros((1, 3)), np.eye(3)[:2], np.eye(3)[:2]], cells
    )
    found = describe_training_set(frames)
    assert found["elemental_volumes"]["C"] == pytest.approx(7.78, abs=0.02)
    assert found["elemental_volumes"]["Si"] == pytest.approx(19.44, abs=0.02)
    assert sum(found["composition"].values()) == pytest.approx(1)


def test_pairs_formulas_and_numbers() -> None:
    found = describe_training_set(salt())
    assert found["pair_distances"] == {
        "Na Na": pytest.approx(3.988, abs=1e-3),
        "Na Cl": 2.82,
        "Cl Cl": pytest.approx(3.988, abs=1e-3),
    }
    # Over the sums of the radii 1.55 and 0.99, the one in the middle.
    assert found["distance_ratio"] == pytest.approx(3.988 / 3.10, abs=1e-3)
    assert found["formulas"] == {"ClNa": 1}
    assert found["n_atoms"] == {"2": 1}
    assert found["n_elements"] == {"2": 1}
    assert found["n_structures"] == 1
    assert found["volume_spread"] == pytest.approx(0, abs=1e-3)


def test_copies_tell_of_the_stable_structures() -> None:
    stable = salt()
    for match in (True, False):
        copies = perturb(stable, PerturbSettings(samples=40, match=match))
        assert copies.counts.max() == 8
        found, wanted = describe_training_set(copies), describe_training_set(stable)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert found[name] == pytest.approx(value, rel=1e-6), name
        assert describe_training_set(copies.select(np.arange(40)[::-1])) == found


def test_a_perturbed_set_of_an_earlier_version() -> None:
    copies = perturb(salt(), PerturbSettings(samples=10))
    labels = {k: v for k, v in copies.structure.items() if not k.startswith("home")}
    old = replace(copies, structure=labels, atom={"force": copies.atom["force"]})
    found = describe_training_set(old)
    assert found["elemental_volumes"].keys() == {"Na", "Cl"}
    assert "pair_distances" not in found
    assert Knowledge.from_notes(found).pair_distances(np.array([11]))[0, 0] == pytest.approx(3.1)


def test_the_spread_of_volumes() -> None:
    rng = np.random.default_rng(0)
    edges = 4 * np.exp(0.05 * rng.normal(size=400))
    cells = edges[:, None, None] * np.eye(3)
    frames = Frames.build([[6]] * 400, [np.zeros((1, 3))] * 400, cells)
    assert describe_training_set(frames)["volume_spread"] == pytest.approx(0.15, rel=0.15)


def test_sizes_of_molecules(molecule_frames: Frames) -> None:
    found = describe_training_set(molecule_frames)
    assert found["elemental_volumes"] == {}
    assert "volume_spread" not in found
    edges = molecule_boxes(molecule_frames)
    # Water is 1.52 wide, 0.6 high and flat; CO is a stick of 1.13.
    np.testing.assert_allclose(edges[0], [3.02, 2.1, 1.5], atol=1e-6)
    np.testing.assert_allclose(edges[1], [2.63, 1.5, 1.5], atol=1e-6)
    assert np.prod(found["box_shape"]) == pytest.approx(1, abs=1e-3)
    known = Knowledge.from_notes(found)
    assert known.box(np.array([6, 8])).prod() == pytest.approx(edges[1].prod(), rel=0.05)
    assert found["pair_distances"]["C O"] == 1.13


def test_the_header_stays_small() -> None:
    rng = np.random.default_rng(0)
    numbers = [rng.integers(1, 101, rng.integers(1, 13)) for _ in range(2200)]
    positions = [3 * rng.random((len(n), 3)) for n in numbers]
    found = describe_training_set(
        Frames.build(numbers, positions, np.tile(9 * np.eye(3), (2200, 1, 1)))
    )
    assert len(found["formulas"]) == MAX_FORMULAS
    assert len(found["pair_distances"]) > 3000
    assert len(json.dumps(found)) < 300_000
