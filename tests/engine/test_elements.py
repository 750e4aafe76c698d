"""Symbols and formulas."""

from __future__ import annotations

import pytest
from ase.data import atomic_numbers, chemical_symbols
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Composition

from aiida_rm.engine.elements import MAX_NUMBER, NUMBERS, SYMBOLS, hill_formula, parse_formula

COUNTS = st.dictionaries(st.sampled_from(SYMBOLS[1:]), st.integers(1, 999), min_size=1, max_size=8)


def test_symbols_are_those_of_ase() -> None:
    assert list(SYMBOLS) == chemical_symbols[: MAX_NUMBER + 1]
    assert MAX_NUMBER == 118
    assert {symbol: atomic_numbers[symbol] for symbol in NUMBERS} == NUMBERS
    assert "X" not in NUMBERS


@given(COUNTS)
def test_formulas_round_trip(counts: dict[str, int]) -> None:
    assert parse_formula(hill_formula(counts)) == counts


@given(st.lists(st.sampled_from(SYMBOLS[1:]), min_size=1, max_size=20))
def test_hill_order_is_that_of_pymatgen(symbols: list[str]) -> None:
    counts = {symbol: symbols.count(symbol) for symbol in symbols}
    assert hill_formula(counts) == Composition(counts).hill_formula.replace(" ", "")


@pytest.mark.parametrize(
    ("formula", "counts"),
    [
        ("C", {"C": 1}),
        ("C5H6O", {"C": 5, "H": 6, "O": 1}),
        ("CO", {"C": 1, "O": 1}),
        ("Co", {"Co": 1}),
        ("CH3CH2OH", {"C": 2, "H": 6, "O": 1}),
        ("NaCl12", {"Na": 1, "Cl": 12}),
    ],
)
def test_readable_formulas(formula: str, counts: dict[str, int]) -> None:
    assert parse_formula(formula) == counts


@pytest.mark.parametrize(
    "formula",
    ["", " ", "c", "Xx2", "X2", "C-1", "C 2", "(CH2)3", "2C", "C1.5", "C2 ", "C0", "C0H0", "C4+"],
)
def test_unreadable_formulas(formula: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        parse_formula(formula)


@pytest.mark.parametrize(("formula", "meant"), [("C02", "CO2"), ("Si02", "SiO2"), ("C0", "CO")])
def test_a_zero_for_the_letter_is_told(formula: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"'{formula}' is not a formula.*'{meant}'"):
        parse_formula(formula)


@pytest.mark.parametrize("formula", ["C0H4", "C\u00b2", "C\u0663"])
def test_counts_are_plain_positive_numbers(formula: str) -> None:
    with pytest.raises(ValueError, match="formula"):
        parse_formula(formula)
