"""Compositions: from formulas, from the training set's formulas, and from its elements."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine.elements import SYMBOLS, hill_formula, parse_formula
from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.search import Knowledge
from aiida_rm.engine.search.composition import Compositions
from aiida_rm.engine.settings import GenerateSettings


def drawn(settings: GenerateSettings, notes: dict[str, Any], count: int = 300) -> Counter[str]:
    source = Compositions(settings, Knowledge.from_notes(notes))
    rng = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for _ in range(count):
        numbers = Counter(SYMBOLS[z] for z in source.draw(rng))
        found[hill_formula(dict(numbers))] += 1
    return found


def test_formulas_with_weights(settings: GenerateSettings, notes: Any) -> None:
    even = drawn(replace(settings, formulas=("MgO", "TiO2")), notes)
    assert abs(even["MgO"] - 150) < 45
    uneven = replace(settings, formulas=("MgO", "TiO2", "Mg"), formula_weights=(9, 1, 0))
    found = drawn(uneven, notes)
    assert abs(found["MgO"] - 270) < 25
    assert set(found) == {"MgO", "O2Ti"}


def test_formulas_of_the_training_set(settings: GenerateSettings, notes: Any) -> None:
    settings = replace(settings, composition="training_formulas")
    found = drawn(settings, notes)
    assert set(found) == set(notes["formulas"])
    assert abs(found["MgO"] - 150) < 45
    assert set(drawn(replace(settings, atoms_range=(3, 7)), notes)) == {"O2Ti", "Mg2O4Ti"}
    assert set(drawn(replace(settings, without=("Ti",)), notes)) == {"MgO"}
    assert set(drawn(replace(settings, elements=("Ti", "O")), notes)) == {"O2Ti"}
    with pytest.raises(SearchError, match="no formula of the training set is within"):
        drawn(replace(settings, atoms_range=(4, 6)), notes)
    with pytest.raises(SearchError, match=r"earlier version.*training_elements"):
        drawn(settings, {**notes, "formulas": {}})


def test_elements_of_the_training_set(settings: GenerateSettings, notes: Any) -> None:
    found = drawn(settings, notes)
    sizes = Counter[int]()
    kinds = Counter[int]()
    for formula, times in found.items():
        counts = parse_formula(formula)
        sizes[sum(counts.values())] += times
        kinds[len(counts)] += times
    assert set(sizes) == {2, 4, 6, 8, 12}
    # As many elements as in the training set: never one, mostly two.
    assert set(kinds) == {2, 3}
    assert kinds[2] > 4 * kinds[3]
    only = drawn(replace(settings, elements=("Mg", "O"), n_atoms=(2,)), notes)
    assert set(only) == {"MgO"}


def test_numbers_of_atoms(settings: GenerateSettings, notes: Any) -> None:
    def sizes(**knobs: Any) -> set[int]:
        source = Compositions(replace(settings, **knobs), Knowledge.from_notes(notes))
        rng = np.random.default_rng(0)
        return {len(source.draw(rng)) for _ in range(100)}

    assert sizes(n_atoms=()) == {2, 3, 7}
    assert sizes(atoms_range=(3, 5)) == {3, 4, 5}
    with pytest.raises(SearchError, match="'n_atoms' is empty"):
        Compositions(replace(settings, n_atoms=()), Knowledge(shares={"C": 1.0}))


def test_without_statistics_every_atom_is_drawn_by_itself(settings: GenerateSettings) -> None:
    notes = {"composition": {"C": 0.5, "O": 0.5}}
    found = drawn(replace(settings, n_atoms=(2,)), notes)
    assert set(found) == {"C2", "CO", "O2"}


def test_nothing_left_to_draw_from(settings: GenerateSettings, notes: Any) -> None:
    with pytest.raises(SearchError, match=r"leave none of the elements.*\(Mg, O, Ti\)"):
        Compositions(replace(settings, elements=("C",)), Knowledge.from_notes(notes))
