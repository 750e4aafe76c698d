"""Random starts: reproducible in any batch, sensible, and refused where none exists."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from aiida_rm.engine.errors import PotentialError, SearchError
from aiida_rm.engine.search import check_search, random_starts
from aiida_rm.engine.settings import GenerateSettings

SHARES = {"C": 0.5, "O": 0.5}
VOLUMES = {"C": 5.0, "O": 9.0}
SETTINGS = GenerateSettings(n_structures=40, seed=7, min_distance=0.9)


def test_structure_i_is_the_same_in_any_batch() -> None:
    whole, _ = random_starts(range(12), SETTINGS, SHARES, VOLUMES)
    part, _ = random_starts([11, 4], SETTINGS, SHARES, VOLUMES)
    np.testing.assert_array_equal(part.positions, whole.select([11, 4]).positions)
    np.testing.assert_array_equal(part.cells, whole.select([11, 4]).cells)
    assert part.structure["index"].tolist() == [11, 4]
    other, _ = random_starts(range(12), replace(SETTINGS, seed=8), SHARES, VOLUMES)
    assert other.formulas() != whole.formulas() or np.abs(other.cells - whole.cells).max() > 0.01


def test_crystals_keep_distance_volume_and_shape() -> None:
    starts, impossible = random_starts(range(40), SETTINGS, SHARES, VOLUMES)
    assert impossible == []
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


def test_formulas_and_molecules() -> None:
    settings = replace(SETTINGS, formulas=("C2H6O", "CO2"), periodic=False)
    starts, _ = random_starts(range(20), settings, {}, {})
    assert set(starts.formulas()) == {"C2H6O", "CO2"}
    assert not starts.pbc.any()
    assert all(starts.minimum_distance(i) >= 0.9 for i in range(20))
    assert (starts.positions <= [10, 5, 5]).all()
    assert (starts.positions >= 0).all()


def test_dense_starts_still_come_out() -> None:
    settings = replace(SETTINGS, n_atoms=(12,), volume_scale=(0.9, 0.9), min_distance=1.2)
    starts, impossible = random_starts(range(10), settings, {"C": 1.0}, {"C": 5.67})
    assert len(starts) + len(impossible) == 10
    assert all(starts.minimum_distance(i) >= 1.2 for i in range(len(starts)))


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"volume_scale": (0.05, 0.05)}, "do not fit into .* A\\^3.*lower 'min_distance'"),
        ({"periodic": False, "box": (1.0, 1.0, 1.0), "n_atoms": (50,)}, "do not fit into the box"),
    ],
)
def test_impossible_starts_are_told(knobs: dict[str, object], words: str) -> None:
    with pytest.raises(SearchError, match=words):
        random_starts(range(2), replace(SETTINGS, **knobs), SHARES, VOLUMES)  # type: ignore[arg-type]


def test_one_impossible_start_does_not_spoil_the_others() -> None:
    settings = replace(SETTINGS, formulas=("C", "C40"), periodic=False, box=(2.0, 2.0, 2.0))
    starts, impossible = random_starts(range(20), settings, {}, {})
    assert impossible
    assert len(starts)
    assert len(starts) + len(impossible) == 20
    assert set(starts.formulas()) == {"C"}


def test_what_the_potential_cannot_do_is_refused() -> None:
    check_search(replace(SETTINGS, formulas=("CO",)), ("C", "O"), VOLUMES)
    with pytest.raises(PotentialError, match="never saw Si; it was trained on C, O"):
        check_search(replace(SETTINGS, formulas=("SiO2",)), ("C", "O"), VOLUMES)
    with pytest.raises(PotentialError, match="trained on molecules"):
        check_search(SETTINGS, ("C", "O"), {})
