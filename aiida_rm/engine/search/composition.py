"""Which atoms a random start is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import NUMBERS, parse_formula
from aiida_rm.engine.errors import SearchError
from aiida_rm.engine.search.knowledge import Knowledge
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]


class Compositions:
    """What compositions are drawn from: formulas, or the elements of the training set.

    Attributes:
        formulas: those to draw from, with their weights; none: by elements.
        shares: elements to draw from, with their weights.
    """

    def __init__(self, settings: GenerateSettings, known: Knowledge) -> None:
        """Prepare.

        Raises:
            SearchError: nothing is left to draw from.
        """
        self.settings = settings
        self.formulas = _formulas(settings, known)
        self.shares = allowed(settings, known.shares)
        self._n_atoms, self._n_elements = known.n_atoms, known.n_elements
        if not self.formulas and not self.shares:
            raise SearchError(
                "'elements' and 'without' leave none of the elements of the training set "
                f"({', '.join(known.shares) or 'unknown'}); allow at least one"
            )
        if not (self.formulas or settings.atoms_range or settings.n_atoms or known.n_atoms):
            raise SearchError(
                "'n_atoms' is empty, but the potential does not know how many atoms the "
                "structures of its training set have; give 'n_atoms' or 'atoms_range'"
            )

    def draw(self, rng: np.random.Generator) -> Array:
        """(n,) atomic numbers, sorted."""
        if self.formulas:
            return species_of(_choose(rng, self.formulas))
        return self.draw_elements(rng, self._size(rng))

    def draw_elements(self, rng: np.random.Generator, size: int) -> Array:
        """(size,) atomic numbers, sorted, by the shares of the elements.

        First how many elements, as in the training set; then which, each with one atom; then the
        other atoms. Where the first is not known, every atom may be any element.
        """
        some, taken = list(self.shares), []
        table = {n: times for n, times in self._n_elements.items() if n <= min(size, len(some))}
        if table:
            taken = some = self.draw_distinct(rng, _choose(rng, table))
        rest = [_choose(rng, {s: self.shares[s] for s in some}) for _ in range(size - len(taken))]
        return np.sort(np.array([NUMBERS[symbol] for symbol in [*taken, *rest]]))

    def draw_distinct(self, rng: np.random.Generator, count: int) -> list[str]:
        """So many different elements."""
        shares = np.array(list(self.shares.values()))
        places = rng.choice(len(shares), count, replace=False, p=shares / shares.sum())
        return [list(self.shares)[place] for place in places]

    def _size(self, rng: np.random.Generator) -> int:
        settings = self.settings
        if settings.atoms_range:
            return int(rng.integers(settings.atoms_range[0], settings.atoms_range[1] + 1))
        if settings.n_atoms:
            return settings.n_atoms[rng.integers(len(settings.n_atoms))]
        return int(_choose(rng, self._n_atoms))


def species_of(formula: str) -> Array:
    """(n,) atomic numbers of a formula, sorted."""
    counts = parse_formula(formula)
    return np.sort(np.repeat([NUMBERS[s] for s in counts], list(counts.values())))


def allowed(settings: GenerateSettings, values: Mapping[str, float]) -> dict[str, float]:
    """What of a table of elements the knobs ``elements`` and ``without`` leave."""
    return {s: value for s, value in values.items() if is_allowed(settings, [s])}


def is_allowed(settings: GenerateSettings, symbols: list[str]) -> bool:
    """Whether the knobs ``elements`` and ``without`` allow all of these."""
    inside = not settings.elements or set(symbols) <= set(settings.elements)
    return inside and not set(symbols) & set(settings.without)


def _formulas(settings: GenerateSettings, known: Knowledge) -> dict[str, float]:
    if settings.formulas:
        weights = settings.formula_weights or (1.0,) * len(settings.formulas)
        return dict(zip(settings.formulas, weights, strict=True))
    if settings.composition != "training_formulas":
        return {}
    if not known.formulas:
        raise SearchError(
            "the potential does not know the formulas of its training set (it was made by an "
            "earlier version); set 'composition' to training_elements, or give 'formulas'"
        )
    low, high = settings.atoms_range or (1, np.inf)
    found = {}
    for formula, times in known.formulas.items():
        counts = parse_formula(formula)
        if low <= sum(counts.values()) <= high and is_allowed(settings, list(counts)):
            found[formula] = float(times)
    if not found:
        raise SearchError(
            "no formula of the training set is within 'elements', 'without' and 'atoms_range'; "
            "loosen them, or set 'composition' to training_elements"
        )
    return found


def _choose(rng: np.random.Generator, table: Mapping[Any, float]) -> Any:
    """One key, by weight."""
    weights = np.array(list(table.values()), float)
    return list(table)[rng.choice(len(weights), p=weights / weights.sum())]
