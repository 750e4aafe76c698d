"""Crystals in the task score: structural validity, density, space groups."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import CRYSTAL
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings, parse_settings

ONE = ScoreSettings(processes=1)


def rock_salt() -> Atoms:
    return bulk("NaCl", "rocksalt", a=5.64)


def materials(step: int) -> Frames:
    """Every ``step``-th of the crystals of the Materials Project."""
    folder = os.environ.get("AIIDA_RM_DATA", "")
    path = Path(folder) / "mp_pool.extxyz"
    if not folder or not path.is_file():
        pytest.skip("AIIDA_RM_DATA names no folder with mp_pool.extxyz")
    frames = read_dataset(path).frames
    return frames.select(np.arange(0, len(frames), step))


def test_rock_salt() -> None:
    scored, summary = score(from_ase([rock_salt()]), ONE)
    found = scored.structure
    assert found["structure_valid"].tolist() == found["structure_strict"].tolist() == [True]
    # 4 (22.990 + 35.453) u in 5.64^3 cubic angstrom.
    assert found["density"][0] == pytest.approx(4 * 58.443 / 0.602214 / 5.64**3, rel=1e-4)
    # Radii of 1.55 and 0.99 angstrom.
    assert found["min_radii_ratio"][0] == pytest.approx(2.82 / 2.54)
    crystals = summary["crystals"]
    assert crystals["n_crystals"] == crystals["structure_valid"] == 1
    assert crystals["density_median"] == pytest.approx(found["density"][0])
    assert crystals["spacegroup"] == {"symprec": 0.05, "different": 1, "above_1": 1}


def test_overlap_that_only_images_show() -> None:
    flat = Atoms("C", cell=[5, 5, 0.4], pbc=True)
    across = Atoms("C2", [[0, 0, 0.1], [0, 0, 4.8]], cell=[5, 5, 5], pbc=True)
    apart = Atoms("C", cell=[5, 5, 0.55], pbc=True)
    found = score(from_ase([flat, across, apart]), ONE)[0].structure
    assert found["structure_valid"].tolist() == [False, False, True]
    assert not found["structure_strict"].any()


def test_tiny_cells_are_not_valid() -> None:
    # A flat rhombus: no distance below 0.5 angstrom, and yet hardly a volume.
    cell = np.array([[0.6, 0, 0], [0.3, 0.52, 0], [0.3, 0.18, 0.25]])
    found = score(from_ase([Atoms("H", cell=cell, pbc=True)]), ONE)[0].structure
    assert abs(np.linalg.det(cell)) < 0.1
    assert not found["structure_valid"][0]


def test_strict_limits() -> None:
    loose, tight = rock_salt(), rock_salt()
    loose.set_cell(loose.cell * 3, scale_atoms=True)
    tight.set_cell(tight.cell * 0.6, scale_atoms=True)
    frames = from_ase([rock_salt(), loose, tight])
    found = score(frames, ONE)[0].structure
    assert found["structure_valid"].all()
    assert found["structure_strict"].tolist() == [True, False, False]
    wide = ScoreSettings(processes=1, strict_ratio=0.5, strict_volume=(1.0, 1000.0))
    assert score(frames, wide)[0].structure["structure_strict"].all()


@pytest.mark.parametrize("values", [[5.0], [9.0, 5.0], [1, 2, 3]])
def test_odd_volumes_are_refused(values: list[float]) -> None:
    with pytest.raises(SettingsError, match="'strict_volume' must be two numbers"):
        parse_settings(ScoreSettings, {"strict_volume": values})


def test_second_space_group() -> None:
    stirred = rock_salt().repeat(2)
    stirred.positions += np.random.default_rng(0).uniform(-0.05, 0.05, stirred.positions.shape)
    fine = ScoreSettings(processes=1, symprec=1e-3, symprec_loose=0.2)
    scored, summary = score(from_ase([stirred]), fine)
    assert scored.structure["spacegroup"].tolist() == [1]
    assert scored.structure["spacegroup_loose"].tolist() == [225]
    crystals = summary["crystals"]
    assert (crystals["spacegroup"]["above_1"], crystals["spacegroup_loose"]["above_1"]) == (0, 1)


def test_what_is_no_crystal() -> None:
    lost = rock_salt()
    lost.positions[0] = np.nan
    layer = Atoms("C", cell=[1.4, 1.4, 9], pbc=(True, True, False))
    scored, summary = score(from_ase([molecule("H2O"), layer, lost]), ONE)
    found = scored.structure
    assert {name: found[name].dtype.kind for name in CRYSTAL} == CRYSTAL
    assert not found["structure_valid"].any()
    assert np.isnan(found["density"]).all()
    assert summary["crystals"]["n_crystals"] == 1
    assert summary["crystals"]["density_median"] is None
    assert "crystals" not in score(from_ase([molecule("H2O")]), ONE)[1]


def test_a_sample_of_materials() -> None:
    crystals = score(materials(400), ONE)[1]["crystals"]
    assert crystals["structure_valid"] == crystals["n_crystals"] == 35
    assert crystals["structure_strict"] >= 34


@pytest.mark.slow
def test_all_materials() -> None:
    """Known ceilings."""
    crystals = score(materials(1), ScoreSettings())[1]["crystals"]
    assert crystals["structure_valid"] == crystals["n_crystals"] == 13888
    assert crystals["structure_strict"] / 13888 > 0.995
