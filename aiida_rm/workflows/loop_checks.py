"""What is found at the submission of a loop that would else stop one of its stages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm

from aiida_rm.calculations.generate import GenerateCalculation
from aiida_rm.calculations.perturb import PerturbCalculation, unusable
from aiida_rm.calculations.score import NAMELESS
from aiida_rm.calculations.train import TrainCalculation, cannot_begin_with
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.errors import EngineError, SettingsError
from aiida_rm.engine.labels import COMMITTEE, GENERATED, LATENT
from aiida_rm.engine.search import check_search
from aiida_rm.engine.settings import TrainSettings, parse_settings
from aiida_rm.engine.training.statistics import (
    describe_training_set,
    enough_to_remember,
    stable_structures,
)
from aiida_rm.workflows.committee import strange_members
from aiida_rm.workflows.rounds import StopSettings
from aiida_rm.workflows.validate import referees_and_rules_problem

MAX_ROUNDS = 99


def check_rounds(value: orm.Int, _: Any) -> str | None:
    """Validator of `rounds`."""
    if not 1 <= value.value <= MAX_ROUNDS:
        return f"`rounds` is {value.value}, must be between 1 and {MAX_ROUNDS}"
    return None


def check_first_round(value: orm.Int, _: Any) -> str | None:
    """Validator of `first_round`."""
    if not 1 <= value.value <= MAX_ROUNDS:
        return f"`first_round` is {value.value}, must be between 1 and {MAX_ROUNDS}"
    return None


def check_stop(value: orm.Dict, _: Any) -> str | None:
    """Validator of `stop`."""
    try:
        parse_settings(StopSettings, value.get_dict())
    except SettingsError as error:
        return f"`stop`: {error}"
    return None


def check_together(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Find at submission what would else stop a later stage."""
    dataset, known = inputs.get("dataset"), inputs.get("known")
    if not isinstance(dataset, FramesData):
        return None  # the port says so
    if isinstance(known, FramesData) and "name" not in known.structure_labels:
        return NAMELESS
    try:
        if message := unusable(dataset):
            return f"`dataset`: {message}"
        return _check_end(inputs) or _check_stages(dataset, inputs)
    except EngineError as error:
        return f"`dataset` or the settings: {error}"
    except KeyError:
        return None  # a missing namespace; its port says so


def _check_end(inputs: Mapping[str, Any]) -> str | None:
    if problem := strange_members(inputs):
        return problem
    last = inputs["first_round"].value + inputs["rounds"].value - 1
    if last > MAX_ROUNDS:
        return f"`first_round` and `rounds` lead to round {last}; {MAX_ROUNDS} is the last one"
    stop = parse_settings(StopSettings, inputs["stop"].get_dict())
    if stop.recovered and "known" not in inputs:
        return (
            "`stop`: 'recovered' is a share of the known structures; give `known`, or leave it out"
        )
    return None


def _check_stages(dataset: FramesData, inputs: Mapping[str, Any]) -> str | None:
    train, generate = inputs["train"]["train"], inputs["generate"]["generate"]
    potential = train.get("potential")
    settings = TrainCalculation.settings_of(train)
    if settings.draw == "fresh":
        return (
            "the settings of 'train' have 'draw' of 'fresh', but a loop perturbs its dataset "
            "itself; set 'draw' to 'stored', and raise 'samples' of 'perturb' for more copies"
        )
    cold = not isinstance(potential, PotentialData)
    recipe = PerturbCalculation.settings_of(inputs["perturb"])
    core = (recipe.core_scale, recipe.core_strength)
    if message := None if cold else cannot_begin_with(potential, settings, core):
        return message
    for name, member in (inputs.get("committee") or {}).items():
        if message := cannot_begin_with(member, settings, core):
            return f"`committee.{name}`: {message}"
    aware = remembers(dataset, settings.environments)
    if message := _check_generation(dataset, None if cold else potential, generate, aware=aware):
        return message
    # The dataset stands for what will be generated: crystals for crystals.
    validate = {"score": {}, **inputs["validate"]}
    labels = {**GENERATED, **(COMMITTEE if inputs["committee_size"].value else {})}
    if not aware:
        labels = {name: kind for name, kind in labels.items() if name not in LATENT}
    problem = referees_and_rules_problem(validate, dataset, labels)
    return problem.replace("`referees.", "`validate.referees.") if problem else None


def remembers(dataset: FramesData, environments: int | None) -> bool:
    """Whether a training (`environments`; None: the default) will remember this set."""
    count = TrainSettings().environments if environments is None else environments
    return enough_to_remember(stable_structures(dataset.get_frames())[0], count)


def _check_generation(
    dataset: FramesData, potential: Any, generate: Any, *, aware: bool
) -> str | None:
    """What a potential that was trained on the dataset could not do; ``aware``: it remembers it."""
    starts = generate.get("starts")
    given = starts.get_frames() if isinstance(starts, FramesData) else None
    elements = {*dataset.elements, *([] if potential is None else potential.elements)}
    notes = describe_training_set(dataset.get_frames(), distances=False)
    if aware:
        notes["latent_percentiles"] = [0.0, 1.0]
        notes["environments"] = dict.fromkeys(dataset.elements, 1)
    try:
        check_search(
            GenerateCalculation.settings_of(generate),
            sorted(elements),
            notes,
            given,
        )
    except EngineError as error:
        return f"the settings of 'generate' do not go with `dataset`: {error}"
    return None
