"""Space groups: what is dealt comes out exactly, and the symmetry is really there."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import spglib
import torch

from aiida_rm.engine.errors import SearchError, SettingsError
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.search import check_search, make_starts
from aiida_rm.engine.search.symmetry import (
    Dealer,
    compatible_groups,
    space_group,
    symmetric_crystal,
)
from aiida_rm.engine.settings import GenerateSettings, Stage


@pytest.fixture(autouse=True)
def _pyxtal(request: pytest.FixtureRequest) -> None:
    if "without" not in request.node.name:
        pytest.importorskip("pyxtal")


def keeps(number: int, kinds: Any, positions: Any, cell: Any, limit: float = 1e-6) -> bool:
    """Whether every operation of the group maps the crystal on itself."""
    group = space_group(number)
    inside = positions @ np.linalg.inv(cell)
    general = group.positions[0]
    conventional = inside @ group.primitive
    axes = np.linalg.inv(group.primitive) @ cell
    metric = axes @ axes.T
    for place, rotation in enumerate(group.primitive.T @ general.rotations):
        # Lengths must stay as well.
        if not np.allclose(rotation.T @ metric @ rotation, metric, atol=10 * limit):
            return False
        moved = general.orbits(conventional)[:, place]
        gaps = moved[:, None] - inside[None]
        same = (np.abs(gaps - np.round(gaps)) < limit).all(-1) & (kinds[:, None] == kinds)
        if not same.any(1).all():
            return False
    return True


@pytest.mark.parametrize("counts", [(2,), (4, 4), (1, 1, 3), (2, 4, 8)])
def test_every_possible_group_comes_out(counts: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    groups = compatible_groups(counts)
    assert len(groups) > 40
    nearest = np.full((len(counts), len(counts)), 0.9)
    for number in groups[::5]:
        dealer = Dealer(space_group(number), counts)
        made = (symmetric_crystal(rng, dealer, nearest, 12.0 * sum(counts)) for _ in range(60))
        kinds, positions, cell = next(crystal for crystal in made if crystal is not None)
        assert tuple(np.bincount(kinds)) == counts
        assert abs(np.linalg.det(cell)) == pytest.approx(12.0 * sum(counts))
        assert keeps(number, kinds, positions, cell), number
        # By an independent judge: the group is a subgroup of what there is.
        found = spglib.get_symmetry(
            (cell, positions @ np.linalg.inv(cell), kinds + 1), symprec=1e-4
        )
        assert len(found["rotations"]) % space_group(number).positions[0].size == 0, number


def test_what_is_possible_is_known_exactly() -> None:
    # Rock salt and perovskite, primitive; one atom alone cannot be diamond, two can.
    assert 225 in compatible_groups((1, 1))
    assert 221 in compatible_groups((1, 1, 3))
    assert 227 not in compatible_groups((1,))
    assert 227 in compatible_groups((2,))
    # 227 has two positions of two atoms without free coordinates, no more.
    assert 227 in compatible_groups((2, 2))
    assert 227 not in compatible_groups((2, 2, 2))
    # A general position alone (P1) or screw axes: no position of one atom.
    assert 4 not in compatible_groups((1, 1))
    assert 4 in compatible_groups((2, 4))
    assert compatible_groups((1, 1), (4, 7)) == ()


def test_agrees_with_pyxtal() -> None:
    from pyxtal.symmetry import Group

    rng = np.random.default_rng(0)
    for number in range(2, 231, 12):
        group = Group(number)
        for _ in range(6):
            counts = [int(n) for n in rng.integers(1, 9, rng.integers(1, 4))]
            told = group.check_compatible([n * group.cellsize() for n in counts])[0]
            assert (number in compatible_groups(counts)) == bool(told), (number, counts)


def test_starts_with_symmetry(settings: GenerateSettings, notes: Any) -> None:
    settings = replace(settings, symmetry=0.5, formulas=("Mg4O4",), distance_scale=0.6)
    starts, impossible = make_starts(range(40), settings, notes)
    assert impossible == {}
    groups = starts.structure["start_spacegroup"]
    assert 10 < (groups == 1).sum() < 30
    assert len(set(groups)) > 10
    for index in np.flatnonzero(groups > 1):
        part = starts[int(index)]
        assert keeps(int(groups[index]), part.numbers, part.positions, part.cells[0])
        assert part.formula(0) == "Mg4O4"
        assert part.minimum_distance(0) >= 0.7
    rattled, _ = make_starts(range(40), replace(settings, rattle=0.05), notes)
    moved = rattled.positions - starts.positions
    assert moved.std() == pytest.approx(0.05, rel=0.1)


def test_a_relaxation_keeps_symmetry_and_a_rattle_breaks_it() -> None:
    folder = Path(__file__).parents[3] / "examples" / "potentials"
    potential = Potential.load(folder / "diamond.safetensors", dtype=torch.float64)
    settings = GenerateSettings(
        seed=2, n_atoms=(4, 6), symmetry=1.0, space_groups=(62, 166, 194), volume_scale=(1.1, 1.4)
    )
    kept = {}
    for rattle in (0.0, 0.05):
        starts, _ = make_starts(range(6), replace(settings, rattle=rattle), potential.notes)
        found = relax(starts, potential, (Stage(max_steps=60),))
        moved = np.abs(found.cells - starts.cells).max((1, 2))
        assert moved.min() > 1e-3
        kept[rattle] = [
            keeps(int(group), part.numbers, part.positions, part.cells[0], 1e-4)
            for group, part in zip(
                found.structure["start_spacegroup"], (found[i] for i in range(6)), strict=True
            )
        ]
    assert all(kept[0.0])
    assert not any(kept[0.05])


def test_many_atoms_with_symmetry(settings: GenerateSettings, notes: Any) -> None:
    settings = replace(settings, symmetry=1.0, formulas=("Mg40Ti40O120",))
    starts, impossible = make_starts(range(4), settings, notes)
    assert impossible == {}
    assert starts.counts.tolist() == [200] * 4


def test_listed_groups_only(settings: GenerateSettings, notes: Any) -> None:
    settings = replace(settings, symmetry=1.0, space_groups=(225, 194), formulas=("MgO", "Mg2O2"))
    starts, _ = make_starts(range(30), settings, notes)
    assert set(starts.structure["start_spacegroup"]) == {194, 225}


def test_impossible_symmetry_is_refused(settings: GenerateSettings, notes: Any) -> None:
    elements = ("O", "Mg", "Ti")
    knobs = {"symmetry": 1.0, "space_groups": (227,)}
    never = replace(settings, formulas=("MgO",), **knobs)  # type: ignore[arg-type]
    with pytest.raises(SearchError, match="none of the space groups 227 can be had by MgO"):
        check_search(never, elements, notes)
    with pytest.raises(SearchError, match=r"^start 0: none of the space groups 227"):
        make_starts(range(2), never, notes)
    check_search(replace(never, formulas=("Mg2O4",)), elements, notes)
    idle = replace(never, formulas=("MgO",), space_groups=(225, 227))
    with pytest.raises(SearchError, match="none of the formulas can have the space groups 227"):
        check_search(idle, elements, notes)
    # Where the composition is drawn, those that cannot have it are told one by one.
    mixed = replace(never, formulas=(), elements=("Mg", "O"), n_atoms=(2, 4))
    check_search(mixed, elements, notes)
    starts, impossible = make_starts(range(20), mixed, notes)
    assert set(starts.formulas()) == {"Mg2O2"}
    assert "can be had by MgO" in next(iter(impossible.values()))


def test_without_pyxtal(
    settings: GenerateSettings, notes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyxtal", None)
    space_group.cache_clear()
    settings = replace(settings, symmetry=1.0, formulas=("Ti3O5",))
    with pytest.raises(SettingsError, match="needs pyxtal, which is not installed"):
        make_starts(range(2), settings, notes)
    make_starts(range(2), replace(settings, symmetry=0.0), notes)
