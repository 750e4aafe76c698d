"""Random starts: reproducible in any batch, sensible, and told where none exists."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.search import make_starts
from aiida_rm.engine.settings import GenerateSettings

#: As in files of earlier versions.
FEW = {"composition": {"C": 0.5, "O": 0.5}, "elemental_volumes": {"C": 5.0, "O": 9.0}}
SETTINGS = GenerateSettings(n_structures=40, seed=7, min_distance=0.9)
BOX = {"elemental_boxes": {"C": 12.0, "H": 10.0}, "box_shape": [1.4, 1.0, 0.714]}


def given() -> Frames:
    cell = 4.2 * np.eye(3)
    salt = np.array([[0, 0, 0], [0, 2.1, 2.1], [2.1, 0, 2.1], [2.1, 2.1, 0]])
    return Frames.build(
        [[12] * 4 + [8] * 4, [22, 8, 8]],
        [np.concatenate([salt, salt + np.array([2.1, 0, 0])]), [[0, 0, 0], [2, 0, 0], [0, 2, 2]]],
        [cell, 3.3 * np.eye(3)],
    )


@pytest.mark.parametrize(
    "knobs",
    [
        {},
        {"composition": "training_formulas", "volume_scale": (), "distance_scale": 0.7},
        {"symmetry": 0.5, "rattle": 0.02},
        {"periodic": False, "formulas": ("CH4", "C2H6"), "box": (), "distance_scale": 0.7},
        {"seeding": "repair", "rattle": 0.1},
        {"seeding": "mutate"},
        {"seeding": "decorate", "formulas": ("MgO", "TiO2", "MgO2")},
        {"seeding": "substitute", "formulas": ("Ti4O4", "MgO2"), "rattle": 0.1},
    ],
)
def test_structure_i_is_the_same_in_any_batch(knobs: dict[str, Any], notes: Any) -> None:
    if "symmetry" in knobs:
        pytest.importorskip("pyxtal")
    settings = replace(SETTINGS, **knobs)
    start = concatenate([given()] * 6) if "seeding" in knobs else None
    whole, impossible = make_starts(range(12), settings, notes | BOX, start)
    assert impossible == {}
    part, _ = make_starts([11, 4], settings, notes | BOX, start)
    again = whole.select([11, 4])
    for name, array in part.to_arrays().items():
        np.testing.assert_array_equal(array, again.to_arrays()[name])
    other, _ = make_starts(range(12), replace(settings, seed=8), notes | BOX, start)
    assert other.n_atoms != whole.n_atoms or np.abs(other.positions - whole.positions).max() > 0.01


def test_the_order_of_the_notes_does_not_matter(notes: Any) -> None:
    turned = {
        name: dict(reversed(value.items())) if isinstance(value, dict) else value
        for name, value in notes.items()
    }
    for knobs in ({}, {"composition": "training_formulas"}, {"n_atoms": ()}):
        settings = replace(SETTINGS, **knobs)  # type: ignore[arg-type]
        first, second = (make_starts(range(6), settings, n)[0] for n in (notes, turned))
        np.testing.assert_array_equal(first.positions, second.positions)
        assert first.formulas() == second.formulas()


def test_crystals_keep_distance_volume_and_shape() -> None:
    starts, impossible = make_starts(range(40), SETTINGS, FEW)
    assert impossible == {}
    for index in range(len(starts)):
        assert starts.minimum_distance(index) >= 0.9
    wanted = np.bincount(starts.batch, np.where(starts.numbers == 6, 5.0, 9.0))
    ratio = starts.volumes / wanted
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.3
    assert np.ptp(ratio) > 0.2
    heights = 1 / np.linalg.norm(np.linalg.inv(starts.cells), axis=1)
    assert (heights.min(1) >= 0.5 * np.cbrt(starts.volumes) - 1e-9).all()
    assert set(starts.counts) == {2, 4, 6, 8, 12}
    assert set(starts.elements) == {"C", "O"}
    assert (starts.structure["start"] == -1).all()
    assert (starts.structure["start_spacegroup"] == 1).all()


def test_volumes_by_the_spread_of_the_training_set(notes: Any) -> None:
    settings = replace(SETTINGS, volume_scale=(), formulas=("MgO",))

    def ratios(known: dict[str, Any]) -> Any:
        return make_starts(range(300), settings, known)[0].volumes / 18.0

    logs = np.log(ratios(notes))
    assert abs(logs.mean()) < 0.02
    assert logs.std() == pytest.approx(0.1, rel=0.15)
    # A few structures, or an earlier version, have no spread worth the name.
    for known in (notes | {"n_structures": 2}, {**notes, "volume_spread": None}):
        assert ratios(known).min() >= 0.9
        assert 1.2 < ratios(known).max() <= 1.3


def test_volume_per_atom(notes: Any) -> None:
    settings = replace(SETTINGS, volume_per_atom=(20.0, 21.0))
    starts, _ = make_starts(range(10), settings, notes)
    per_atom = starts.volumes / starts.counts
    assert per_atom.min() >= 20
    assert per_atom.max() <= 21


def test_learnt_distances_hold_for_each_pair(notes: Any) -> None:
    from ase.neighborlist import neighbor_list

    from aiida_rm.engine.converters import to_ase

    settings = replace(
        SETTINGS, formulas=("Mg4O4", "Ti2O4"), distance_scale=0.7, volume_scale=(1.3, 1.3)
    )
    starts, _ = make_starts(range(30), settings, notes)
    # Ti Ti was never seen: the sum of the radii (1.36 each) times the ratio.
    limits = {(8, 8): 2.5, (8, 12): 2.0, (8, 22): 1.8, (12, 12): 2.9, (22, 22): 2.72 * 1.1}
    seen = set()
    for index in range(len(starts)):
        atoms = to_ase(starts, index)
        for i, j, length in zip(*neighbor_list("ijd", atoms, 3.0), strict=True):
            pair = tuple(sorted(int(z) for z in atoms.numbers[[i, j]]))
            assert length >= 0.7 * limits[pair] - 1e-9  # type: ignore[index]
            seen.add(pair)
    assert seen == set(limits)


def test_learnt_distances_yield_where_there_is_no_room(notes: Any) -> None:
    settings = replace(SETTINGS, formulas=("Mg8O8",), distance_scale=1.2, volume_scale=(0.9, 0.9))
    starts, impossible = make_starts(range(5), settings, notes)
    assert impossible == {}
    for index in range(5):
        assert 0.9 <= starts.minimum_distance(index) < 2.0 * 1.2


def test_formulas_and_molecules() -> None:
    settings = replace(SETTINGS, formulas=("C2H6O", "CO2"), periodic=False)
    starts, _ = make_starts(range(20), settings, {})
    assert set(starts.formulas()) == {"C2H6O", "CO2"}
    assert not starts.pbc.any()
    assert (starts.structure["start_spacegroup"] == 0).all()
    assert all(starts.minimum_distance(i) >= 0.9 for i in range(20))
    assert (starts.positions <= [10, 5, 5]).all()
    assert (starts.positions >= 0).all()


def test_a_box_grows_with_the_molecule() -> None:
    settings = replace(
        SETTINGS, formulas=("CH4", "C12H26"), periodic=False, box=(), volume_scale=(1, 1)
    )
    starts, _ = make_starts(range(40), settings, BOX)
    for index in range(40):
        extents = np.ptp(starts[index].positions, axis=0)
        volume = 52.0 if starts.formula(index) == "CH4" else 404.0
        assert (extents <= np.cbrt(volume) * np.array(BOX["box_shape"])).all()
    largest = max(np.ptp(starts[i].positions, axis=0).prod() for i in range(40))
    assert largest > 0.4 * 404


def test_dense_starts_still_come_out() -> None:
    settings = replace(SETTINGS, n_atoms=(12,), volume_scale=(0.9, 0.9), min_distance=1.2)
    notes = {"composition": {"C": 1.0}, "elemental_volumes": {"C": 5.67}}
    starts, impossible = make_starts(range(10), settings, notes)
    assert len(starts) + len(impossible) == 10
    assert all(starts.minimum_distance(i) >= 1.2 for i in range(len(starts)))


def test_many_atoms_find_their_places(notes: Any) -> None:
    settings = replace(SETTINGS, formulas=("Mg64O64",), distance_scale=0.6)
    starts, _ = make_starts(range(2), settings, notes)
    assert starts.counts.tolist() == [128, 128]
    assert starts.minimum_distance(0) >= 0.6 * 1.8


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"volume_scale": (0.05, 0.05)}, "do not fit into .* A\\^3.*lower 'min_distance'"),
        ({"periodic": False, "box": (1.0, 1.0, 1.0), "n_atoms": (50,)}, "do not fit into the box"),
    ],
)
def test_impossible_starts_are_told(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(SearchError, match=words):
        make_starts(range(2), replace(SETTINGS, **knobs), FEW)


def test_one_impossible_start_does_not_spoil_the_others() -> None:
    settings = replace(SETTINGS, formulas=("C", "C40"), periodic=False, box=(2.0, 2.0, 2.0))
    starts, impossible = make_starts(range(20), settings, {})
    assert len(starts) + len(impossible) == 20
    assert set(starts.formulas()) == {"C"}
    for index, reason in impossible.items():
        assert f"start {index}: 40 atoms do not fit" in reason
