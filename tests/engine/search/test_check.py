"""What cannot be done is refused before anything runs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aiida_rm.engine.errors import EngineError, FramesError, PotentialError, SearchError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.search import Knowledge, check_search
from aiida_rm.engine.settings import GenerateSettings

ELEMENTS = ("O", "Mg", "Ti")
MOLECULES = {
    "composition": {"O": 1.0},
    "elemental_volumes": {},
    "elemental_boxes": {"O": 9.0},
    "box_shape": [1.4, 1, 0.7],
}


def test_what_can_be_done_passes(settings: GenerateSettings, notes: Any) -> None:
    check_search(settings, ELEMENTS, notes)
    check_search(replace(settings, formulas=("MgO",)), ELEMENTS, notes)
    check_search(replace(settings, composition="training_formulas"), ELEMENTS, notes)
    check_search(replace(settings, periodic=False, box=()), ("O",), MOLECULES)
    # Files of earlier versions know shares and volumes only.
    old = {name: notes[name] for name in ("composition", "elemental_volumes")}
    check_search(replace(settings, volume_scale=(), distance_scale=0.7), ELEMENTS, old)


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"formulas": ("SiO2",)}, "never saw Si; it was trained on O, Mg, Ti.*'formulas'"),
        ({"elements": ("O", "Fe")}, "never saw Fe.*'elements'"),
        ({"without": ("O", "Mg", "Ti")}, "leave none of the elements"),
        ({"composition": "training_formulas", "atoms_range": (50, 60)}, "no formula of the train"),
        ({"formulas": ("MgO",), "min_distance": 4.0}, "MgO does not fit into .* however they are"),
        ({"formulas": ("MgO",), "volume_scale": (0.05, 0.05), "min_distance": 1.2}, "lower 'min_"),
        (
            {"periodic": False, "formulas": ("Mg50O50",), "box": (2.0, 2.0, 2.0)},
            "does not fit into the box 2 x 2 x 2 A",
        ),
        ({"periodic": False, "box": ()}, "does not know how large molecules are; give .* 'box'"),
        ({"mode": "seeded"}, "no structures to begin with were given"),
    ],
)
def test_refused(knobs: dict[str, Any], words: str, settings: GenerateSettings, notes: Any) -> None:
    with pytest.raises(EngineError, match=words):
        check_search(replace(settings, **knobs), ELEMENTS, notes)


def test_crystals_from_molecules(settings: GenerateSettings) -> None:
    with pytest.raises(PotentialError, match="trained on molecules"):
        check_search(settings, ("O",), MOLECULES)


def test_volumes_of_all_elements_are_needed(settings: GenerateSettings, notes: Any) -> None:
    notes["elemental_volumes"] = {"O": 10.0, "Mg": 8.0}
    check_search(replace(settings, formulas=("MgO",)), ELEMENTS, notes)
    titania = replace(settings, formulas=("TiO2",))
    with pytest.raises(PotentialError, match=r"no volume of Ti .* 'volume_per_atom'"):
        check_search(titania, ELEMENTS, notes)
    check_search(replace(titania, volume_per_atom=(10.0, 12.0)), ELEMENTS, notes)


def given(periodic: bool = True) -> Frames:
    cells = 3.0 * np.eye(3)[None] if periodic else None
    return Frames.build([[12, 8]], [[[0, 0, 0], [1.5, 1.5, 1.5]]], cells)


@pytest.mark.parametrize(
    ("knobs", "frames", "words"),
    [
        ({"mode": "random"}, given(), "'mode' is random"),
        ({}, given(periodic=False), "structure 0 of those given is not a crystal"),
        ({"periodic": False}, given(), "is not a molecule"),
        ({"symmetry": 0.5}, given(), "'symmetry' is for random cells"),
        ({"formulas": ("MgO",)}, given(), "'formulas' are for 'seeding' decorate"),
        ({"without": ("Mg",)}, given(), "hold elements that"),
        ({"seeding": "decorate", "formulas": ("MgO2",)}, given(), "divides the sites .*2"),
        (
            {"seeding": "substitute", "formulas": ("MgO",), "formula_weights": (1.0,)},
            given(),
            "take turns .* leave out 'formula_weights'",
        ),
        (
            {"seeding": "substitute", "formulas": ("TiO2", "MgO", "Mg2O2")},
            given(),
            "no given structure has the numbers of atoms of TiO2, Mg2O2 ",
        ),
        ({"seeding": "substitute", "formulas": ("MgO",)}, None, "no structures to begin with"),
        (
            {},
            Frames.build([[26]], [np.zeros((1, 3))], np.eye(3)[None] * 3),
            "never saw Fe.*'starts'",
        ),
        ({}, Frames.build([[12]], [[[np.nan, 0, 0]]], np.eye(3)[None]), "not a finite number"),
    ],
)
def test_given_structures_that_cannot_be_used(
    knobs: dict[str, Any],
    frames: Frames | None,
    words: str,
    settings: GenerateSettings,
    notes: Any,
) -> None:
    with pytest.raises(EngineError, match=words):
        check_search(replace(settings, **knobs), ELEMENTS, notes, frames)


def test_sites_of_unknown_elements_can_be_decorated(settings: GenerateSettings, notes: Any) -> None:
    frames = Frames.build([[26]], [np.zeros((1, 3))], np.eye(3)[None] * 3)
    check_search(replace(settings, seeding="decorate", mode="seeded"), ELEMENTS, notes, frames)
    metal = replace(settings, seeding="substitute", formulas=("Mg",))
    check_search(metal, ELEMENTS, notes, frames)
    with pytest.raises(FramesError, match="no structures"):
        check_search(settings, ELEMENTS, notes, frames.select([]))


@pytest.mark.parametrize(
    "damage",
    [
        {"pair_distances": {"O Xx": 2.0}},
        {"pair_distances": {"O O": -1.0}},
        {"n_atoms": {"two": 1}},
        {"volume_spread": "much"},
        {"composition": ["O"]},
    ],
)
def test_damaged_notes_are_told(damage: dict[str, Any], notes: Any) -> None:
    with pytest.raises(PotentialError, match="cannot be read"):
        Knowledge.from_notes(notes | damage)
    assert SearchError.code == "bad_search"
