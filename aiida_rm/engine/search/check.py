"""What cannot be done is refused with the reason: at submission, and when the engine begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import FramesError, PotentialError, SearchError, SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search.composition import Compositions, is_allowed, species_of
from aiida_rm.engine.search.knowledge import Knowledge
from aiida_rm.engine.search.seeded import fitting_formulas
from aiida_rm.engine.search.starts import no_group
from aiida_rm.engine.search.substitution import Substitutions
from aiida_rm.engine.search.symmetry import compatible_groups, has_group
from aiida_rm.engine.settings import GenerateSettings

Array = NDArray[Any]
#: Largest share of space that equal spheres can fill.
_DENSEST = np.pi / np.sqrt(18)


def check_search(
    settings: GenerateSettings,
    elements: Sequence[str],
    notes: Mapping[str, Any],
    given: Frames | None = None,
) -> None:
    """Refuse what a potential cannot do, or what no random start can be.

    Args:
        settings: all knobs.
        elements: that the potential was trained on.
        notes: what it says of its training set.
        given: structures to make the starts of, if any.

    Raises:
        PotentialError: elements it never saw, or crystals from molecules.
        FramesError: the given structures cannot be used.
        SearchError: nothing to draw from, no room for the atoms, or an impossible symmetry.
        SettingsError: knobs that contradict the given structures.
    """
    known = Knowledge.from_notes(notes)
    if settings.periodic and not known.volumes:
        raise PotentialError(
            "the potential was trained on molecules and knows no volumes, but crystals are asked "
            "for; set 'periodic' to false and the 'cell' of every stage to 'fixed', or train on "
            "crystals"
        )
    # A substitution draws nothing, but its formulas have to pass as those that are drawn from.
    replaced = settings.seeding in ("decorate", "substitute")
    compositions = Compositions(settings, known) if given is None or replaced else None
    wanted = {"elements": set(settings.elements)}
    if compositions is not None:
        species = [species_of(formula) for formula in compositions.formulas]
        wanted["formulas"] = {SYMBOLS[z] for some in species for z in some}
    _check_given(settings, given, compositions)
    if given is not None and compositions is None:
        wanted["starts"] = set(given.elements)
    for name, symbols in wanted.items():
        _check_elements(name, symbols, elements)
    _check_latent(settings, known, set().union(*wanted.values()))
    if compositions is None:
        return
    _check_volumes(settings, known, compositions)
    if given is None:
        for formula in settings.formulas:
            _check_room(settings, known, formula)
        if settings.symmetry:
            _check_symmetry(settings)


def _check_latent(settings: GenerateSettings, known: Knowledge, symbols: set[str]) -> None:
    """Refuse to judge by a distance from what the potential does not remember."""
    number = next((n for n, stage in enumerate(settings.stages) if stage.latent_weight), None)
    if number is None:
        return
    if not known.latent:
        raise PotentialError(
            f"'stages[{number}].latent_weight' asks how far structures are from the training "
            "set, which the potential does not remember; set it to 0, or train with "
            "'environments' above 0 on a hundred stable structures or more"
        )
    if new := sorted(symbols - known.environments.keys()):
        raise PotentialError(
            f"'stages[{number}].latent_weight' asks how far structures are from the training "
            f"set, where the potential met no {', '.join(new)}; set it to 0, or train with "
            f"structures that hold {', '.join(new)}"
        )


def check_committee(elements: Sequence[str], members: Mapping[str, Sequence[str]]) -> None:
    """Refuse a committee that could not judge all that a potential makes.

    Args:
        elements: that the potential was trained on.
        members: those of each member, by its name.

    Raises:
        PotentialError: a member lacks some.
    """
    for name, known in members.items():
        missing = sorted(set(elements) - set(known))
        if missing:
            raise PotentialError(
                f"the member '{name}' of the committee never saw {', '.join(missing)}, which the "
                "potential knows; train all of them on the same structures, or leave it out"
            )


def _check_elements(name: str, symbols: set[str], elements: Sequence[str]) -> None:
    unknown = sorted(symbols - set(elements))
    if unknown:
        raise PotentialError(
            f"the potential never saw {', '.join(unknown)}; it was trained on "
            f"{', '.join(elements)}. Give those alone in '{name}', or train with structures that "
            f"hold {', '.join(unknown)}"
        )


def _check_given(
    settings: GenerateSettings, given: Frames | None, compositions: Compositions | None
) -> None:
    if given is None:
        if settings.mode == "seeded":
            raise SettingsError("'mode' is seeded, but no structures to begin with were given")
        if settings.seeding != GenerateSettings().seeding:
            raise SettingsError(
                f"'seeding' is {settings.seeding}, but no structures to begin with were given; "
                "give 'starts', or leave 'seeding' out"
            )
        return
    if settings.mode not in ("auto", "seeded"):
        raise SettingsError(
            f"structures to begin with were given, but 'mode' is {settings.mode}; set it to "
            "seeded, or leave them out"
        )
    given.check()
    kind = given.pbc.all(axis=1) if settings.periodic else ~given.pbc.any(axis=1)
    if not kind.all():
        what = "a crystal" if settings.periodic else "a molecule"
        raise FramesError(
            f"structure {np.flatnonzero(~kind)[0]} of those given is not {what}, but 'periodic' "
            f"is {str(settings.periodic).lower()}; give others, or change 'periodic'"
        )
    if settings.symmetry:
        raise SettingsError("'symmetry' is for random cells; set it to 0 with given structures")
    if compositions is None:
        if settings.formulas:
            raise SettingsError(
                "'formulas' are for 'seeding' decorate and substitute; "
                f"{settings.seeding} keeps the atoms of the given structures"
            )
        if not is_allowed(settings, list(given.elements)):
            raise SettingsError(
                "the given structures hold elements that 'elements' or 'without' forbid; give "
                "others, or set 'seeding' to decorate"
            )
    elif settings.seeding == "substitute":
        _check_substitutions(settings, given)
    elif compositions.formulas and not any(
        fitting_formulas(compositions, int(sites)) for sites in np.unique(given.counts)
    ):
        raise SearchError(
            "no formula has a number of atoms that divides the sites of a given structure "
            f"({', '.join(map(str, np.unique(given.counts)[:8]))}); give others"
        )


def _check_substitutions(settings: GenerateSettings, given: Frames) -> None:
    if settings.formula_weights:
        raise SettingsError(
            "'formulas' take turns with 'seeding' substitute; leave out 'formula_weights'"
        )
    substitutions = Substitutions(given, settings)
    idle = [formula for formula in settings.formulas if not substitutions.ranked(formula)]
    if idle:
        raise SearchError(
            f"no given structure has the numbers of atoms of {', '.join(idle)} (as Na4Cl4 has "
            "those of Mg4O4, but not those of MgO); give other structures, or leave these out"
        )


def _check_volumes(
    settings: GenerateSettings, known: Knowledge, compositions: Compositions
) -> None:
    """Volumes, or boxes, must be known of all elements that can be drawn."""
    if settings.periodic and settings.volume_per_atom:
        return
    if not settings.periodic and settings.box:
        return
    drawn = {SYMBOLS[z] for name in compositions.formulas for z in species_of(name)}
    table = known.volumes if settings.periodic else known.boxes
    absent = sorted((drawn or set(compositions.shares)) - set(table))
    if settings.periodic and absent:
        raise PotentialError(
            f"the potential knows no volume of {', '.join(absent)} in crystals; give "
            "'volume_per_atom', or train on crystals that hold them"
        )
    if absent:
        raise PotentialError(
            "the potential does not know how large molecules are; give the edges in 'box'"
        )


def _check_room(settings: GenerateSettings, known: Knowledge, formula: str) -> None:
    """Spheres of half the smallest distance must not need more room than there can be."""
    species = species_of(formula)
    sphere = np.pi / 6 * settings.min_distance**3 / _DENSEST
    if settings.periodic:
        if settings.volume_per_atom:
            most = settings.volume_per_atom[1] * len(species)
        else:
            most = known.volume(species) * (settings.volume_scale or (2.0, 2.0))[1]
        room, where = most, f"{most:.1f} A^3"
    else:
        if not settings.box:
            return
        room = float(np.prod(np.array(settings.box) + settings.min_distance))
        where = f"the box {' x '.join(f'{edge:g}' for edge in settings.box)} A"
    if len(species) * sphere > room:
        raise SearchError(
            f"{formula} does not fit into {where} with {settings.min_distance:g} A between its "
            f"atoms, however they are packed; lower 'min_distance' or give more room"
        )


def _check_symmetry(settings: GenerateSettings) -> None:
    """Every formula must have a group, and every group a formula; where pyxtal is installed."""
    if not settings.formulas or find_spec("pyxtal") is None:
        return
    possible: set[int] = set()
    for formula in settings.formulas:
        species = species_of(formula)
        counts = tuple(int(n) for n in np.unique(species, return_counts=True)[1])
        if not has_group(counts, settings.space_groups):
            raise SearchError(no_group(species, settings.space_groups))
        if settings.space_groups:
            possible |= set(compatible_groups(counts, settings.space_groups))
    idle = sorted(set(settings.space_groups) - possible)
    if idle:
        raise SearchError(
            f"none of the formulas can have the space groups {', '.join(map(str, idle))} in a "
            "primitive cell: their Wyckoff positions cannot hold these numbers of atoms; leave "
            "them out of 'space_groups'"
        )
