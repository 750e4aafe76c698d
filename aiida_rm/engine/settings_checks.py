"""What one knob of the random starts alone cannot show: contradictions between several."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiida_rm.engine.elements import NUMBERS, hill_formula, parse_formula
from aiida_rm.engine.errors import SettingsError

if TYPE_CHECKING:
    from aiida_rm.engine.settings import GenerateSettings


def check_starts(settings: GenerateSettings) -> None:
    """Refuse knobs of the random starts that contradict each other.

    Raises:
        SettingsError: naming both, and what to change.
    """
    count = len(set(settings.indices))
    if settings.indices and count != settings.n_structures:
        raise SettingsError(
            f"'indices' are {count} different ones, but 'n_structures' is "
            f"{settings.n_structures}; make these equal"
        )
    _check_composition(settings)
    for name in ("volume_scale", "volume_per_atom", "atoms_range"):
        ends = getattr(settings, name)
        if ends and (len(ends) != 2 or ends[0] > ends[1]):
            raise SettingsError(f"'{name}' must be two numbers, the smaller one first")
    if len(settings.box) not in (0, 3):
        raise SettingsError("'box' must be three lengths, or empty")
    if settings.periodic and settings.box != type(settings)().box:
        raise SettingsError(
            "'box' is for molecules, and 'periodic' is true; leave it out, and give crystals their "
            "volume by 'volume_scale' or 'volume_per_atom'"
        )
    if settings.space_groups and not settings.symmetry:
        raise SettingsError("'space_groups' are given, but 'symmetry' is 0; set it to their share")
    if settings.symmetry and not settings.periodic:
        raise SettingsError("'symmetry' is for crystals; set it to 0 for molecules")
    if settings.seeding == "substitute" and not settings.periodic:
        raise SettingsError(
            "'seeding' is substitute, which is for crystals; for molecules take repair, mutate or "
            "decorate"
        )
    if settings.seeding == "substitute" and not settings.formulas:
        raise SettingsError("'seeding' is substitute, which needs 'formulas'")
    _check_mode(settings)


def _check_composition(settings: GenerateSettings) -> None:
    for name in ("elements", "without"):
        for symbol in getattr(settings, name):
            if symbol not in NUMBERS:
                raise SettingsError(f"'{name}': '{symbol}' is not an element")
    both = sorted(set(settings.elements) & set(settings.without))
    if both:
        raise SettingsError(f"{', '.join(both)}: in 'elements' and in 'without'; choose one")
    written: dict[str, str] = {}
    for formula in settings.formulas:
        try:
            counts = parse_formula(formula)
        except ValueError as error:
            raise SettingsError(f"'formulas': {error}") from error
        if twin := written.get(hill_formula(counts)):
            raise SettingsError(
                f"'formulas': {twin} and {formula} are the same; leave one out"
                f"{' and give the other the weight of both' if settings.formula_weights else ''}"
            )
        written[hill_formula(counts)] = formula
        barred = set(counts) & set(settings.without)
        barred |= set(counts) - set(settings.elements or counts)
        if barred:
            raise SettingsError(
                f"'formulas': {formula} holds {', '.join(sorted(barred))}, which 'elements' or "
                "'without' forbid; mend one of them"
            )
        low, high = (*settings.atoms_range, 0, 0)[:2] if settings.atoms_range else (1, 10**9)
        if not low <= sum(counts.values()) <= high:
            raise SettingsError(
                f"'formulas': {formula} has {sum(counts.values())} atoms, outside 'atoms_range'"
            )
    weights = settings.formula_weights
    if weights and (len(weights) != len(settings.formulas) or not sum(weights) > 0):
        raise SettingsError(
            "'formula_weights' must be one number for each of 'formulas', not all of them 0"
        )
    if settings.formulas and settings.composition == "training_formulas":
        raise SettingsError(
            "'formulas' are given, but 'composition' is training_formulas; leave one of them out"
        )


def _check_mode(settings: GenerateSettings) -> None:
    """A mode that was named must agree with the other knobs."""
    mode = settings.mode
    if mode == "random" and settings.formulas:
        raise SettingsError(
            "'mode' is random, but 'formulas' are given; leave them out, or set 'mode' to "
            f"{'composition' if settings.periodic else 'molecule'}"
        )
    if mode in ("composition", "molecule") and not settings.formulas:
        raise SettingsError(f"'mode' is {mode}, which needs 'formulas'")
    if mode in ("composition", "molecule") and settings.periodic != (mode == "composition"):
        raise SettingsError(
            f"'mode' is {mode}, but 'periodic' is {str(settings.periodic).lower()}; change one"
        )
