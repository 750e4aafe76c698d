"""Starts made of given structures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings, Stage


@pytest.fixture
def given() -> Frames:
    """Rock salt of MgO, and three atoms of TiO2."""
    half = 2.1
    return Frames.build(
        [[12, 8], [22, 8, 8]],
        [[[0, 0, 0], [half] * 3], [[0, 0, 0], [2, 0, 0], [0, 2, 2]]],
        [half * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]), 3.3 * np.eye(3)],
    )


def test_given_structures_take_turns(settings: GenerateSettings, notes: Any, given: Frames) -> None:
    starts, _ = make_starts(range(3, 8), replace(settings, seeding="repair"), notes, given)
    assert starts.structure["start"].tolist() == [1, 0, 1, 0, 1]
    assert (starts.structure["start_spacegroup"] == 0).all()
    for place, row in enumerate([1, 0, 1, 0, 1]):
        np.testing.assert_array_equal(starts[place].positions, given[row].positions)
        np.testing.assert_array_equal(starts[place].numbers, given[row].numbers)
    moved, _ = make_starts(
        range(3, 8), replace(settings, seeding="repair", rattle=0.1), notes, given
    )
    assert 0 < np.abs(moved.positions - starts.positions).max() < 0.6
    np.testing.assert_array_equal(moved.cells, starts.cells)


def test_mutations(settings: GenerateSettings, notes: Any, given: Frames) -> None:
    knobs = {"displacement": 0.0, "strain": 0.0, "swaps": 1}
    swapped, _ = make_starts(range(20), replace(settings, **knobs), notes, given)  # type: ignore[arg-type]
    assert swapped.formulas() == given.formulas() * 10
    np.testing.assert_array_equal(swapped.positions[:5], given.positions)
    changed = [(swapped[i].numbers != given[i % 2].numbers).sum() for i in range(20)]
    assert set(changed) == {2}
    strained, _ = make_starts(
        range(20), replace(settings, swaps=0, displacement=0.0, strain=0.1), notes, given
    )
    gradient = np.linalg.solve(given.cells[np.arange(20) % 2], strained.cells)
    assert np.abs(gradient - np.eye(3)).max() <= 0.1
    assert np.abs(gradient - np.eye(3)).std() > 0.02
    fractional = strained[1].positions @ np.linalg.inv(strained.cells[1])
    wanted = given[1].positions @ np.linalg.inv(given.cells[1])
    np.testing.assert_allclose(fractional, wanted, atol=1e-12)


def test_a_box_around_a_molecule_is_not_strained(settings: GenerateSettings, notes: Any) -> None:
    places = [[[10, 10, 10], [11.1, 10, 10], [10, 11.1, 10]]]
    boxed = Frames.build([[8, 1, 1]], places, [20 * np.eye(3)], pbc=[[False] * 3])
    fire = (Stage(kind="fire", cell="fixed"),)
    still = replace(settings, periodic=False, stages=fire, swaps=0, displacement=0.0, strain=0.2)
    starts, _ = make_starts(range(3), still, notes, boxed)
    for index in range(3):
        np.testing.assert_array_equal(starts[index].positions, boxed.positions)


def test_decorations_by_formula(settings: GenerateSettings, notes: Any, given: Frames) -> None:
    settings = replace(settings, seeding="decorate", volume_scale=(1.0, 1.0))
    monoxide = replace(settings, formulas=("TiO",))
    starts, impossible = make_starts(range(40), monoxide, notes, given)
    # Three sites cannot hold it: they are told, the others come out at the right volume.
    assert len(starts) == len(impossible) == 20
    assert "divides the 3 sites" in next(iter(impossible.values()))
    assert set(starts.formulas()) == {"OTi"}
    np.testing.assert_allclose(starts.volumes, 19.0)
    assert {tuple(starts[i].numbers) for i in range(20)} == {(22, 8), (8, 22)}
    # Numbers of atoms as in the structure: like sites stay alike.
    two, _ = make_starts(range(1, 41, 2), replace(settings, formulas=("MgO2",)), notes, given)
    assert {tuple(two[i].numbers) for i in range(20)} == {(12, 8, 8)}
    # Otherwise the sites are dealt at random.
    three, _ = make_starts(range(1, 41, 2), replace(settings, formulas=("MgTiO",)), notes, given)
    assert len({tuple(three[i].numbers) for i in range(20)}) > 3


def test_decorations_by_elements(settings: GenerateSettings, notes: Any, given: Frames) -> None:
    settings = replace(settings, seeding="decorate", elements=("Mg", "Ti"))
    starts, _ = make_starts(range(1, 41, 2), settings, notes, given)
    assert {tuple(starts[i].numbers) for i in range(20)} == {(12, 22, 22), (22, 12, 12)}
    with pytest.raises(SearchError, match="2 different elements are needed to decorate"):
        make_starts(range(2), replace(settings, elements=("Mg",)), notes, given)


def test_molecules_can_be_mutated(settings: GenerateSettings, molecule_frames: Frames) -> None:
    settings = replace(settings, periodic=False, swaps=2)
    starts, _ = make_starts(range(6), settings, {}, molecule_frames)
    assert starts.formulas() == molecule_frames.formulas() * 3
    assert not starts.cells.any()
    assert starts.structure["start"].tolist() == [0, 1] * 3


def test_formulas_take_the_sites_of_those_like_them(
    settings: GenerateSettings, notes: Any, given: Frames
) -> None:
    """Their turns, order, sites, volumes and distances; no more than there are."""
    salts = Frames.build(
        [[17, 11], [8, 12], [12, 16], [22, 8, 8]],
        [[[0, 0, 0], [x, x, x]] for x in (2.8, 2.1, 2.6)] + [given[1].positions],
        [x * np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]]) for x in (2.8, 2.1, 2.6)]
        + [given.cells[1]],
    )
    settings = replace(settings, seeding="substitute", formulas=("TiO", "MgO", "TiO2"))
    starts, impossible = make_starts(range(12), settings, notes, salts)
    assert starts.structure["index"].tolist() == [0, 1, 2, 3, 4, 6, 7]
    assert sorted(impossible) == [5, 8, 9, 10, 11]
    assert "only 1 of the given structures have the numbers of atoms of TiO2" in impossible[5]
    assert starts.structure["start"].tolist() == [1, 1, 3, 2, 2, 0, 0]
    assert starts.formulas() == ["OTi", "MgO", "O2Ti", "OTi", "MgO", "OTi", "MgO"]
    distances = starts.structure["substitution_distance"]
    assert distances[1] == distances[2] == 0
    assert 0 < distances[0] < distances[3] < distances[5]
    assert 0 < distances[4] < distances[6]
    assert (starts.structure["start_spacegroup"] == 0).all()
    # O on the site of O, of S, and of Cl, whose neighbour on the scale it is
    assert [tuple(starts[i].numbers) for i in (1, 4, 6)] == [(8, 12), (12, 8), (8, 12)]
    # as densely packed as the given one, by the regression; Na is not in it
    np.testing.assert_allclose(starts.volumes[1], salts.volumes[1])
    known = notes["elemental_volumes"]
    np.testing.assert_allclose(
        starts.volumes[0],
        salts.volumes[1] * (known["Ti"] + known["O"]) / (known["Mg"] + known["O"]),
    )
    np.testing.assert_allclose(starts.volumes[6], known["Mg"] + known["O"])
    per_atom = replace(settings, volume_per_atom=(8.0, 9.0))
    del notes["elemental_volumes"]["Ti"]  # the remedy for an element of unknown volume
    volumes = make_starts(range(2), per_atom, notes, salts)[0].volumes
    assert ((volumes > 16) & (volumes < 18)).all()


def test_a_spread_mixes_the_order(settings: GenerateSettings, notes: Any, given: Frames) -> None:
    row = [12, 30, 48, 80, 4, 13, 31, 49]  # Mg Zn Cd Hg Be Al Ga In
    rock_salts = Frames.build([[z, 8] for z in row], [given[0].positions] * 8, [given.cells[0]] * 8)
    knobs: dict[str, Any] = {"seeding": "substitute", "formulas": ("MgO",)}
    first = make_starts(range(8), replace(settings, **knobs), notes, rock_salts)[0]
    assert first.structure["start"].tolist() == list(range(8))
    knobs["substitution_spread"] = 2.0
    mixed = [
        make_starts(range(8), replace(settings, seed=seed, **knobs), notes, rock_salts)[0]
        for seed in (1, 1, 2)
    ]
    orders = [one.structure["start"].tolist() for one in mixed]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == list(range(8)) != orders[2]


def test_rounding_orders_no_equal_ones(
    settings: GenerateSettings, notes: Any, given: Frames
) -> None:
    """Zr for Ti is two places away; Zn for Mg one, of as many atoms as make up for it."""
    cells = [5.0 * np.eye(3)] * 2
    places = np.random.default_rng(0).uniform(0, 5, (5, 3))
    pair = Frames.build([[30, 30, 22, 8, 8], [12, 12, 40, 8, 8]], [places] * 2, cells)
    knobs: dict[str, Any] = {"seeding": "substitute", "formulas": ("Mg2TiO2",)}
    starts, _ = make_starts(range(2), replace(settings, **knobs), notes, pair)
    assert starts.structure["substitution_distance"].tolist() == [0.4, 0.4]
    assert starts.structure["start"].tolist() == [0, 1]
