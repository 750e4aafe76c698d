"""Every knob: defaults, ranges, messages, round trips."""

from __future__ import annotations

import dataclasses
import json
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiida_rm.engine import files
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.settings import (
    SETTINGS,
    GenerateSettings,
    PerturbSettings,
    RelaxSettings,
    ScoreSettings,
    Stage,
    TrainSettings,
    describe,
    parse_settings,
    to_plain,
)

CLASSES = [*SETTINGS.values(), Stage]


def scalar_knobs() -> list[tuple[type, dataclasses.Field, type]]:
    found = []
    for cls in SETTINGS.values():
        hints = typing.get_type_hints(cls)
        found += [
            (cls, item, hints[item.name])
            for item in dataclasses.fields(cls)
            if hints[item.name] in {int, float}
        ]
    return found


KNOBS = scalar_knobs()
IDS = [f"{cls.__name__}.{item.name}" for cls, item, _ in KNOBS]


def test_there_are_settings_for_each_task() -> None:
    assert tuple(SETTINGS) == files.TASKS


@pytest.mark.parametrize("cls", SETTINGS.values())
def test_defaults_are_in_range_and_round_trip(cls: type) -> None:
    needed = {"calculator": "ase.calculators.emt:EMT"} if cls is RelaxSettings else {}
    plain = json.loads(json.dumps(to_plain(cls(**needed))))
    assert parse_settings(cls, plain) == cls(**needed)
    assert parse_settings(cls, needed) == cls(**needed)


@pytest.mark.parametrize("cls", CLASSES)
def test_every_knob_says_what_it_is(cls: type) -> None:
    rows = describe(cls)
    assert [row["name"] for row in rows] == [item.name for item in dataclasses.fields(cls)]
    for row in rows:
        assert len(row["help"]) > 5
        assert set(row) == {"name", "type", "default", "help", "unit", "low", "high", "choices"}


@pytest.mark.parametrize("cls", CLASSES)
def test_settings_are_frozen(cls: type) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(cls(), dataclasses.fields(cls)[0].name, 1)


@pytest.mark.parametrize(("cls", "item", "kind"), KNOBS, ids=IDS)
def test_ranges(cls: type, item: dataclasses.Field, kind: type) -> None:
    step = 1 if kind is int else 1e-3
    for bound, sign, words in (("low", -1, "at least"), ("high", 1, "at most")):
        limit = item.metadata[bound]
        if limit is None:
            continue
        with pytest.raises(SettingsError, match=f"'{item.name}' is .* must be {words}"):
            parse_settings(cls, {item.name: kind(limit + sign * step)})
        try:
            assert getattr(parse_settings(cls, {item.name: kind(limit)}), item.name) == limit
        except SettingsError as error:  # in range alone, but not with the other defaults
            assert "must be" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(("cls", "item", "kind"), KNOBS, ids=IDS)
@pytest.mark.parametrize("value", ["3", None, True, [1], {}, "NaN"])
def test_wrong_types(cls: type, item: dataclasses.Field, kind: type, value: object) -> None:
    with pytest.raises(SettingsError, match=f"'{item.name}' must be of type {kind.__name__}"):
        parse_settings(cls, {item.name: value})


def test_numbers_that_are_not_finite() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(SettingsError, match="'cutoff' must be finite"):
            parse_settings(TrainSettings, {"cutoff": value})


def test_whole_numbers_are_fine_where_a_float_is_wanted() -> None:
    cutoff = parse_settings(TrainSettings, {"cutoff": 5}).cutoff
    assert cutoff == 5.0
    assert type(cutoff) is float
    with pytest.raises(SettingsError, match=r"'epochs' must be of type int, is 1\.5"):
        parse_settings(TrainSettings, {"epochs": 1.5})


def test_misspelt_names_get_a_suggestion() -> None:
    with pytest.raises(SettingsError, match=r"'cut_off' is no setting.* did you mean 'cutoff'"):
        parse_settings(TrainSettings, {"cut_off": 5.0})


def test_knobs_of_a_stage_are_sent_there() -> None:
    with pytest.raises(
        SettingsError, match=r"'fmax' is no setting.*; it is one of each of 'stages'"
    ):
        parse_settings(GenerateSettings, {"fmax": 1e-3})


def test_unknown_names_get_the_list() -> None:
    with pytest.raises(SettingsError, match="'zzz' is no setting of this task; known: seed, "):
        parse_settings(TrainSettings, {"zzz": 5.0})


def test_all_problems_in_one_message() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(TrainSettings, {"cutof": 1.0, "epochs": 0, "dtype": "int8", "seed": "a"})
    for words in ("did you mean 'cutoff'", "'epochs' is 0", "must be one of float32", "'seed'"):
        assert words in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_settings_must_be_a_table(value: object) -> None:
    with pytest.raises(SettingsError, match="'settings' must be a table"):
        parse_settings(ScoreSettings, value)  # type: ignore[arg-type]


@pytest.mark.parametrize(("given", "meant"), [(True, "on"), (False, "off")])
def test_on_and_off_as_yaml_reads_them(given: bool, meant: str) -> None:
    assert parse_settings(ScoreSettings, {"coverage": given}).coverage == meant


@pytest.mark.parametrize(
    ("cls", "values"),
    [(ScoreSettings, {"chemistry": True}), (GenerateSettings, {"formulas": [False]})],
)
def test_other_words_that_yaml_reads_as_true_or_false(cls: type, values: dict) -> None:
    with pytest.raises(SettingsError, match=r"YAML reads yes, no, on and off as .* in quotes"):
        parse_settings(cls, values)


def test_lists() -> None:
    settings = parse_settings(PerturbSettings, {"displacement_levels": [0, 2, 4.5]})
    assert settings.displacement_levels == (0.0, 2.0, 4.5)
    assert all(type(level) is float for level in settings.displacement_levels)
    with pytest.raises(SettingsError, match="'displacement_levels' must be a list, is 3"):
        parse_settings(PerturbSettings, {"displacement_levels": 3})
    with pytest.raises(SettingsError, match=r"'displacement_levels\[1\]' is -1.0, must be at le"):
        parse_settings(PerturbSettings, {"displacement_levels": [0, -1]})
    with pytest.raises(SettingsError, match=r"'formulas\[0\]' must be of type str"):
        parse_settings(GenerateSettings, {"formulas": [6]})


def test_stages() -> None:
    stages = [{"cell": "fixed"}, {"kind": "jitter", "amplitude": 0.5}, {"cell": "free", "fmax": 1}]
    settings = parse_settings(GenerateSettings, {"stages": stages})
    assert settings.stages[0] == Stage(cell="fixed")
    assert settings.stages[1] == Stage(kind="jitter", amplitude=0.5)
    assert settings.stages[2].fmax == 1.0
    assert parse_settings(GenerateSettings, json.loads(json.dumps(to_plain(settings)))) == settings


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([{"fmx": 1.0}], r"'stages\[0\]\.fmx' is no setting of this task, did you mean 'fmax'"),
        ([{}, {"fmax": -1.0}], r"'stages\[1\]\.fmax' is -1.0, must be at least"),
        ([{"kind": "melt"}], r"'stages\[0\]\.kind' is 'melt', must be one of relax, jitter"),
        (["relax"], r"'stages\[0\]\.?' must be a table"),
        ([], "'stages' is empty"),
        ({"kind": "relax"}, "'stages' must be a list"),
        ([{"kind": "langevin", "temperature": 1.0}], "last of 'stages' is 'langevin'"),
        ([{"kind": "langevin"}, {}], r"'stages\[0\]\.temperature' is 0"),
        ([{"kind": "hop"}, {}], r"'stages\[0\]\.amplitude' is 0"),
        ([{"kind": "hop", "moves": []}, {}], r"'stages\[0\]\.moves' is empty"),
        ([{"kind": "hop", "moves": ["leap"]}, {}], r"'leap', must be one of jitter, swap"),
        ([{"kind": "hop", "moves": ["strain"], "strain": 0}, {}], r"'stages\[0\]\.strain' is 0"),
        (
            [{"kind": "hop", "moves": ["strain"], "cell": "hydrostatic"}, {}],
            r"'stages\[0\]\.moves' names 'strain', .* but 'stages\[0\]\.cell' is 'hydrostatic'",
        ),
        ([{"amplitude": 0.1}], r"'stages\[0\]\.amplitude' says nothing to a stage of kind 'relax'"),
        ([{"kind": "fire"}], r"'stages\[0\]\.kind' is 'fire', must be one of relax"),
        ([{"optimizer": "adam"}], r"'stages\[0\]\.optimizer' is 'adam', must be one of lbfgs"),
        (
            [{"kind": "jitter", "amplitude": 0.1, "optimizer": "fire"}, {}],
            r"'stages\[0\]\.optimizer' says nothing to a stage of kind 'jitter'",
        ),
        ([{"latent_weight": 0.1}], r"'stages\[0\]\.latent_weight' says nothing to a stage of kind"),
        ([{"connected": True}], r"'stages\[0\]\.connected' says nothing to a stage of kind"),
        (
            [{"kind": "hop", "amplitude": 0.5, "connected": True}, {}],
            r"'stages\[0\]\.connected' is for molecules, and 'periodic' is true",
        ),
        ([{"kind": "hop", "temperature": -1.0}, {}], r"'stages\[0\]\.temperature' is -1.0"),
    ],
)
def test_bad_stages(stages: object, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(GenerateSettings, {"stages": stages})


@pytest.mark.parametrize(
    "first", [{}, {"kind": "hop", "amplitude": 0.5}, {"kind": "langevin", "temperature": 0.1}]
)
def test_a_molecule_has_no_cell_to_move(first: dict[str, object]) -> None:
    last = {"cell": "fixed"}
    with pytest.raises(SettingsError, match=r"stages\[0\]\.cell' is 'free', but molecules"):
        parse_settings(GenerateSettings, {"periodic": False, "stages": [first, last]})
    parse_settings(GenerateSettings, {"periodic": False, "stages": [{**first, **last}, last]})


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (PerturbSettings, {"displacement_levels": []}, "'displacement_levels' is empty"),
        (TrainSettings, {"force_weight": 0, "stress_weight": 0}, "nothing to learn"),
        (TrainSettings, {"patience": 3, "validation_fraction": 0}, "needs a 'validation_fraction'"),
        (TrainSettings, {"recipe": {"samples": 9}}, "'recipe' is for fresh copies, but 'draw' is"),
        (GenerateSettings, {"formulas": ["C4", "Qq"]}, "'formulas'.*'Qq' is not a formula|'Qq' in"),
        (GenerateSettings, {"formulas": ["C2"], "formula_weights": [1, 2]}, "one number for each"),
        (GenerateSettings, {"formulas": ["C2"], "formula_weights": [0]}, "not all of them 0"),
        (GenerateSettings, {"formulas": ["CO"], "without": ["O"]}, "CO holds O, which"),
        (GenerateSettings, {"formulas": ["CO"], "elements": ["C"]}, "CO holds O, which"),
        (GenerateSettings, {"formulas": ["CO"], "atoms_range": [3, 4]}, "CO has 2 atoms, outside"),
        (
            GenerateSettings,
            {"formulas": ["CO"], "composition": "training_formulas"},
            "leave one of them out",
        ),
        (GenerateSettings, {"formulas": ["CO2", "O2C"]}, "CO2 and O2C are the same; leave one out"),
        (
            GenerateSettings,
            {"formulas": ["CO", "CO"], "formula_weights": [1, 2]},
            "leave one out and give the other the weight of both",
        ),
        (
            GenerateSettings,
            {"seeding": "substitute", "formulas": ["TiO", "MgO", "OTi"]},
            "TiO and OTi are the same; leave one out",
        ),
        (GenerateSettings, {"box": [9.0, 9.0, 9.0]}, "'box' is for molecules"),
        (GenerateSettings, {"floor": 1.0}, "'floor' is 1.0, must be at most 0"),
        (GenerateSettings, {"elements": ["Qq"]}, "'Qq' is not an element"),
        (GenerateSettings, {"elements": ["C"], "without": ["C"]}, "in 'elements' and in"),
        (GenerateSettings, {"atoms_range": [4, 2]}, "'atoms_range' must be two numbers"),
        (GenerateSettings, {"volume_per_atom": [4.0]}, "'volume_per_atom' must be two numbers"),
        (GenerateSettings, {"space_groups": [225]}, "'symmetry' is 0; set it to"),
        (GenerateSettings, {"space_groups": [1]}, "must be at least 2"),
        (
            GenerateSettings,
            {"symmetry": 0.5, "periodic": False, "stages": [{"cell": "fixed"}]},
            "'symmetry' is for crystals",
        ),
        (GenerateSettings, {"seeding": "substitute"}, "substitute, which needs 'formulas'"),
        (
            GenerateSettings,
            {"seeding": "substitute", "periodic": False, "stages": [{"cell": "fixed"}]},
            "substitute, which is for crystals",
        ),
        (GenerateSettings, {"mode": "random", "formulas": ["C2"]}, "set 'mode' to composition"),
        (GenerateSettings, {"mode": "molecule"}, "needs 'formulas'"),
        (GenerateSettings, {"mode": "molecule", "formulas": ["C2"]}, "'periodic' is true"),
        (GenerateSettings, {"volume_scale": [1.3, 0.9]}, "the smaller one first"),
        (GenerateSettings, {"volume_scale": [1.0]}, "must be two numbers"),
        (GenerateSettings, {"box": [1.0, 2.0]}, "'box' must be three lengths"),
        (GenerateSettings, {"periodic": False}, "molecules have no cell; use 'fixed'"),
    ],
)
def test_what_does_not_fit_together(cls: type, values: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_settings(cls, values)


def test_molecules_with_fixed_stages() -> None:
    stages = [{"cell": "fixed"}, {"kind": "jitter"}, {"cell": "fixed"}]
    values = {"periodic": False, "stages": stages}
    assert not parse_settings(GenerateSettings, values).periodic


def test_a_recipe_within_the_settings_of_a_training() -> None:
    settings = parse_settings(TrainSettings, {"draw": "fresh", "recipe": {"samples": 7}})
    assert settings.recipe == PerturbSettings(samples=7)
    assert parse_settings(TrainSettings, json.loads(json.dumps(to_plain(settings)))) == settings
    for values, words in (
        ({"sample": 7}, r"'recipe\.sample' is no setting of this task, did you mean 'samples'"),
        ({"samples": 0}, r"'recipe\.samples' is 0, must be at least 1"),
        ({"displacement_levels": []}, "'displacement_levels' is empty"),
        (3, r"'recipe\.' must be a table|'recipe' must be a table"),
    ):
        with pytest.raises(SettingsError, match=words):
            parse_settings(TrainSettings, {"recipe": values})


def test_empty_lists_that_mean_any() -> None:
    assert parse_settings(ScoreSettings, {"coordination": []}).coordination == ()
    assert parse_settings(GenerateSettings, {"formulas": ["C4"], "n_atoms": []}).n_atoms == ()


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda children: st.lists(children) | st.dictionaries(st.text(max_size=5), children),
            max_leaves=5,
        ),
        max_size=4,
    )
)
def test_nonsense_is_refused_and_never_crashes(values: dict) -> None:
    for cls in SETTINGS.values():
        try:
            parse_settings(cls, values)
        except SettingsError:
            continue
        assert not values


@pytest.mark.parametrize(("cls", "item", "kind"), KNOBS, ids=IDS)
def test_huge_whole_numbers_never_crash(cls: type, item: dataclasses.Field, kind: type) -> None:
    with pytest.raises(SettingsError, match=f"'{item.name}'"):
        parse_settings(cls, {item.name: 10**400})


def test_a_search_ends_with_a_relaxation() -> None:
    stages = [{"kind": "relax"}, {"kind": "jitter", "amplitude": 0.1}]
    with pytest.raises(SettingsError, match="the last of 'stages' is 'jitter'"):
        parse_settings(GenerateSettings, {"stages": stages})
