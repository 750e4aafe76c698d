"""Every protocol of every work chain is complete, valid, and refuses what is misspelt."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.selection import check_rules
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import SETTINGS, parse_settings
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.protocols import kinds_by, kinds_of, merge
from aiida_rm.workflows.train import TrainWorkChain
from aiida_rm.workflows.validate import ValidateWorkChain
from tests.conftest import POTENTIAL_HEADER
from tests.jobs import generated, perturbed

CHAINS = (TrainWorkChain, GenerateWorkChain, ValidateWorkChain, LoopWorkChain)
NAMES = ("fast", "balanced", "stringent")


def settings_in(inputs: dict[str, Any], path: tuple[str, ...] = ()) -> Any:
    """Every table of settings and the task it is for, which is the name of its namespace."""
    for name, value in inputs.items():
        if name == "settings":
            yield path[-1], value
        elif isinstance(value, dict):
            yield from settings_in(value, (*path, name))


@pytest.mark.parametrize("chain", CHAINS)
def test_each_says_what_it_is_for(chain: Any) -> None:
    protocols = chain.get_available_protocols()
    assert tuple(protocols) == NAMES
    assert all(protocols.values())
    assert chain.get_default_protocol() == "balanced"


@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "kinds", [kinds_by(n, molecules=m) for n in (1, 100) for m in (False, True)]
)
def test_all_settings_are_valid(chain: Any, name: str, kinds: tuple[str, ...]) -> None:
    inputs = chain.get_protocol_inputs(name, kinds=kinds)
    found = dict(settings_in(inputs))
    assert found
    for task, values in found.items():
        settings = parse_settings(SETTINGS[task], values)
        if task == "generate":
            assert settings.periodic is not ("molecules" in kinds)
    for place in (inputs, inputs.get("validate", {})):
        check_rules(place.get("rules", {}))


def test_fast_is_faster() -> None:
    sizes = [
        parse_settings(
            SETTINGS[task], LoopWorkChain.get_protocol_inputs(name)[task][task]["settings"]
        )
        for task in ("train", "generate")
        for name in NAMES
    ]
    epochs = [settings.epochs for settings in sizes[:3]]
    counts = [settings.n_structures for settings in sizes[3:]]
    assert epochs == sorted(set(epochs))
    assert counts == sorted(set(counts))


def test_unknown_protocol() -> None:
    with pytest.raises(ValueError, match="'quick' is no protocol of TrainWorkChain; there are"):
        TrainWorkChain.get_protocol_inputs("quick")


@pytest.mark.parametrize(
    ("chain", "overrides", "says"),
    [
        (
            LoopWorkChain,
            {"round": 1},
            "'round' is no input of LoopWorkChain; did you mean 'rounds'",
        ),
        (LoopWorkChain, {"train": {"trian": {}}}, "'trian' is no input of LoopWorkChain.train"),
        (TrainWorkChain, {"train": {"metadata": {"options": {"queue": "x"}}}}, "'queue' is no"),
        (LoopWorkChain, {"train": {"train": {"frames": None}}}, "'frames' is no input"),
        (LoopWorkChain, {"epochs": 3}, r"did you mean 'train\.train\.settings\.epochs'\?"),
        (LoopWorkChain, {"generate": {"settings": {}}}, r"mean 'generate\.generate\.settings'\?"),
        (LoopWorkChain, {"samples": 9}, r"did you mean 'perturb\.settings\.samples'\?"),
        (TrainWorkChain, {"train": {"epochs": 3}}, r"did you mean 'train\.settings\.epochs'\?"),
        (TrainWorkChain, {"train": {"train": {"settings": {}}}}, r"did you mean 'train\.settings'"),
    ],
)
def test_misspelt_overrides(chain: Any, overrides: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        chain.get_protocol_inputs("fast", overrides)


def test_merge_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": 2}
    assert merge(base, {"a": {"c": [3]}, "e": 4}) == {"a": {"b": 1, "c": [3]}, "d": 2, "e": 4}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": 2}
    assert merge(base, {"a": {"b": None}, "d": None, "f": None}) == {"a": {"c": base["a"]["c"]}}
    assert merge({"s": {"x": 1}}, {"s": orm.Dict({"y": 2})}) == {"s": {"x": 1, "y": 2}}


def refused(chain: Any, builder: Any) -> str:
    """What a submission would say against these inputs, or nothing."""
    ports = chain.spec().inputs
    error = ports.validate(ports.pre_process(builder._inputs(prune=True)))
    return error.message if error is not None else ""


@pytest.fixture
def code(aiida_code_installed: Any) -> orm.InstalledCode:
    return aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")


def test_loop_builder(code: Any, diamond_frames: Frames) -> None:
    dataset = FramesData(diamond_frames)
    builder = LoopWorkChain.get_builder_from_protocol(
        code,
        dataset,
        protocol="fast",
        overrides={"rounds": 3, "train": {"train": {"settings": {"seed": 5}}}},
        options={"max_wallclock_seconds": 600, "queue_name": "gpu"},
        known=dataset,
    )
    assert builder.rounds.value == 3
    assert builder.dataset is dataset
    assert builder.train.train.settings["seed"] == 5
    assert builder.train.train.settings["epochs"] == 6
    jobs = (
        builder.perturb,
        builder.train.train,
        builder.generate.generate,
        builder.validate.score,
    )
    for job in jobs:
        assert job.code.uuid == code.uuid
        assert job.metadata.options.max_wallclock_seconds == 600
        assert job.metadata.options.queue_name == "gpu"
    assert refused(LoopWorkChain, builder) == ""


def test_other_builders(code: Any, diamond_frames: Frames, potential_data: Any) -> None:
    frames = FramesData(perturbed(diamond_frames))
    train = TrainWorkChain.get_builder_from_protocol(code, frames, potential=potential_data)
    assert train.train.frames is frames
    assert train.train.potential is potential_data
    assert train.max_iterations.value == 5
    generate = GenerateWorkChain.get_builder_from_protocol(code, potential_data, "stringent")
    assert generate.generate.settings["n_structures"] == 1000
    judged, named = FramesData(generated(diamond_frames)), FramesData(diamond_frames)
    validate = ValidateWorkChain.get_builder_from_protocol(code, judged, known=named, null=judged)
    assert validate.score.known is named
    assert validate.score.null is judged
    assert "references" not in validate.score
    assert validate.rules.get_dict() == {"valid": True, "unique": True}
    for chain, builder in (
        (TrainWorkChain, train),
        (GenerateWorkChain, generate),
        (ValidateWorkChain, validate),
    ):
        assert refused(chain, builder) == ""


def test_bad_settings_are_refused_by_the_builder(code: Any, diamond_frames: Frames) -> None:
    overrides = {"train": {"train": {"settings": {"epoch": 1}}}}
    with pytest.raises(ValueError, match="did you mean 'epochs'"):
        LoopWorkChain.get_builder_from_protocol(
            code, FramesData(diamond_frames), overrides=overrides
        )
    with pytest.raises(ValueError, match=r"'wallclock' is no input of metadata\.options"):
        LoopWorkChain.get_builder_from_protocol(
            code, FramesData(diamond_frames), options={"wallclock": 1}
        )
    with pytest.raises(ValueError, match="rounds"):
        LoopWorkChain.get_builder_from_protocol(
            code, FramesData(diamond_frames), overrides={"rounds": 0}
        )


def test_molecules_make_molecules(
    code: Any, molecule_frames: Frames, write_safetensors: Any, tmp_path: Path
) -> None:
    loop = LoopWorkChain.get_builder_from_protocol(code, FramesData(molecule_frames))
    assert loop.generate.generate.settings["periodic"] is False
    assert loop.validate.rules["sound"] is True
    assert refused(LoopWorkChain, loop) == ""
    header = {**POTENTIAL_HEADER, "elemental_volumes": {}}
    potential = PotentialData(write_safetensors(tmp_path / "molecular.safetensors", header))
    generate = GenerateWorkChain.get_builder_from_protocol(code, potential)
    assert generate.generate.settings["periodic"] is False


def test_the_kind_that_is_asked_for_has_its_stages(
    code: Any, potential_data: Any, write_safetensors: Any, tmp_path: Path
) -> None:
    build = GenerateWorkChain.get_builder_from_protocol
    asked = {"generate": {"settings": {"periodic": False, "formulas": ["C2"]}}}
    builder = build(code, potential_data, overrides=asked)
    assert builder.generate.settings["stages"][0]["cell"] == "fixed"
    assert refused(GenerateWorkChain, builder) == ""
    header = {**POTENTIAL_HEADER, "elemental_volumes": {}}
    molecules = PotentialData(write_safetensors(tmp_path / "m.safetensors", header, 3))
    asked = {"generate": {"settings": {"periodic": True}}}
    assert "knows no volumes" in refused(GenerateWorkChain, build(code, molecules, overrides=asked))


def test_committees(code: Any, potential_data: Any, write_safetensors: Any, tmp_path: Path) -> None:
    members = [
        PotentialData(write_safetensors(tmp_path / f"{seed}.safetensors", POTENTIAL_HEADER, seed))
        for seed in (1, 2)
    ]
    build = GenerateWorkChain.get_builder_from_protocol
    header = {**POTENTIAL_HEADER, "elemental_volumes": {}}
    molecules = PotentialData(write_safetensors(tmp_path / "m.safetensors", header, 3))
    header |= {"n_structures": 100, "latent_percentiles": [0.0, 1.0], "environments": {"C": 9}}
    remembering = PotentialData(write_safetensors(tmp_path / "r.safetensors", header, 4))
    for potential, judges, moves, weight in (
        (molecules, (), ["jitter", "join"], None),
        (molecules, members, ["jitter", "relocate", "join"], None),
        (remembering, (), ["jitter", "relocate", "join"], 0.02),
        (remembering, members, ["jitter", "relocate", "join"], 0.02),
    ):
        builder = build(code, potential, committee=judges)
        stage = builder.generate.settings["stages"][0]
        assert (stage["moves"], stage.get("latent_weight")) == (moves, weight)
        assert refused(GenerateWorkChain, builder) == ""
    thorough = build(code, remembering, "stringent").generate.settings
    assert (thorough["stages"][0]["cycles"], thorough["n_structures"]) == (80, 1000)
    builder.generate.potential = molecules
    assert "'stages[0].latent_weight' asks how far" in refused(GenerateWorkChain, builder)
    header |= {"elements": ["C", "H"]}
    new = PotentialData(write_safetensors(tmp_path / "n.safetensors", header, 5))
    builder.generate.potential = new
    builder.generate.committee = {}
    builder.generate.settings = {**builder.generate.settings.get_dict(), "formulas": ["CH4"]}
    assert "met no H; set it to 0" in refused(GenerateWorkChain, builder)
    builder = build(code, potential_data, committee=members)
    assert dict(builder.generate.committee) == {"member_01": members[0], "member_02": members[1]}
    assert refused(GenerateWorkChain, builder) == ""
    builder = build(code, potential_data, committee={"other": members[1]})
    assert dict(builder.generate.committee) == {"other": members[1]}
    override = {"generate": {"committee": {"mine": members[0]}}}
    builder = build(code, potential_data, overrides=override)
    assert dict(builder.generate.committee) == {"mine": members[0]}
    assert refused(GenerateWorkChain, builder) == ""
    assert "same as `potential`" in refused(
        GenerateWorkChain, build(code, potential_data, committee=[potential_data])
    )
    with pytest.raises(
        TypeError, match=r"`committee\.member_01` must be a stored or new Potential"
    ):
        build(code, potential_data, committee=["a.safetensors"])


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        ("random", {}),
        ("composition", {"formulas": ["C6"]}),
        ("molecule", {"formulas": ["C6"], "periodic": False, "stages": [{"cell": "fixed"}]}),
        ("seeded", {"seeding": "repair"}),
    ],
)
def test_every_mode(
    mode: str, settings: dict[str, Any], code: Any, potential_data: Any, diamond_frames: Frames
) -> None:
    starts = FramesData(diamond_frames) if mode == "seeded" else None
    builder = GenerateWorkChain.get_builder_from_protocol(
        code,
        potential_data,
        overrides={"generate": {"settings": settings}},
        mode=mode,
        starts=starts,
    )
    assert builder.generate.settings["mode"] == mode
    assert refused(GenerateWorkChain, builder) == ""
    if mode == "seeded":
        del builder.generate.starts
    else:
        builder.generate.starts = FramesData(diamond_frames)
    assert "'mode' is" in refused(GenerateWorkChain, builder)


def test_the_loop_looks_at_the_starts(
    code: Any, diamond_frames: Frames, molecule_frames: Frames
) -> None:
    builder = LoopWorkChain.get_builder_from_protocol(code, FramesData(diamond_frames))
    builder.generate.generate.starts = FramesData(molecule_frames)
    assert "structure 0 of those given is not a crystal" in refused(LoopWorkChain, builder)
    builder.generate.generate.starts = FramesData(diamond_frames)
    assert refused(LoopWorkChain, builder) == ""


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"formulas": ["SiC"]}, "never saw Si"), ({"periodic": True}, "trained on molecules")],
)
def test_the_loop_looks_ahead(
    code: Any,
    diamond_frames: Frames,
    molecule_frames: Frames,
    settings: dict[str, Any],
    says: str,
) -> None:
    frames = molecule_frames if "periodic" in settings else diamond_frames
    builder = LoopWorkChain.get_builder_from_protocol(code, FramesData(diamond_frames))
    builder.dataset = FramesData(frames)
    builder.generate.generate.settings = orm.Dict(settings)
    assert says in refused(LoopWorkChain, builder)


def test_the_loop_refuses_overlaps_and_nameless_structures(
    code: Any, diamond_frames: Frames
) -> None:
    dataset = FramesData(diamond_frames)
    builder = LoopWorkChain.get_builder_from_protocol(code, dataset)
    builder.known = FramesData(diamond_frames.without_labels())
    told = refused(LoopWorkChain, builder)
    assert "`known` lacks the label" in told
    assert "in a file, `name=...`" in told
    crowded = Frames.build([[6, 6]], [[[0, 0, 0], [0.1, 0, 0]]], cells=diamond_frames.cells)
    builder.known = dataset
    builder.dataset = FramesData(crowded)
    assert "0.100 A apart" in refused(LoopWorkChain, builder)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["a"], "`overrides` must be a table, is a list"),
        ({"train": 3}, "'train' of LoopWorkChain must be a table of inputs, is 3"),
        ({"rounds": 0}, "`rounds`.* must be between 1 and 99"),
        ({"rounds": "two"}, "`rounds`: must be of type Int, is 'two'"),
        (
            {"train": {"train": {"settings": 5}}},
            "`train.train.settings`: must be of type Dict, is 5",
        ),
        ({"generate": {"generate": {"settings": {"sead": 1}}}}, "`generate.generate.settings`"),
    ],
)
def test_overrides_of_a_wrong_kind_are_named(
    code: Any, diamond_frames: Frames, overrides: Any, says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        LoopWorkChain.get_builder_from_protocol(
            code, FramesData(diamond_frames), overrides=overrides
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ([1], "`options` must be a table"),
        ({"max_walclock_seconds": 60}, "did you mean 'max_wallclock_seconds'"),
        (
            {"max_wallclock_seconds": "1h"},
            "options.max_wallclock_seconds`: must be of type int, is '1h'",
        ),
        ({"max_wallclock_seconds": -1}, "options.max_wallclock_seconds`.*at least 1"),
    ],
)
def test_options_of_a_wrong_kind_are_named(
    code: Any, diamond_frames: Frames, options: Any, says: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=says):
        LoopWorkChain.get_builder_from_protocol(code, FramesData(diamond_frames), options=options)


def test_nodes_of_a_wrong_kind_are_named(
    code: Any, diamond_frames: Frames, potential_file: Path
) -> None:
    dataset = FramesData(diamond_frames)
    with pytest.raises(TypeError, match=r"`dataset` must be .*FramesData node, is a NoneType; Fr"):
        LoopWorkChain.get_builder_from_protocol(code, None)
    with pytest.raises(TypeError, match=r"`potential` must be .*PotentialData node"):
        GenerateWorkChain.get_builder_from_protocol(code, dataset)
    with pytest.raises(TypeError, match="`committee` must be a list, is a PotentialData"):
        GenerateWorkChain.get_builder_from_protocol(
            code, PotentialData(potential_file), committee=PotentialData(potential_file)
        )
    with pytest.raises(TypeError, match=r"`code` must be .*orm\.load_code"):
        LoopWorkChain.get_builder_from_protocol("engine@localhost", dataset)


def test_the_loop_looks_at_the_potential_to_begin_with(
    code: Any, diamond_frames: Frames, potential_data: Any
) -> None:
    def submit(dataset: Any, settings: dict[str, Any]) -> None:
        builder = LoopWorkChain.get_builder_from_protocol(
            code,
            dataset,
            overrides={"train": {"train": {"potential": potential_data, "settings": settings}}},
        )
        instantiate_process(get_manager().get_runner(), builder)

    with pytest.raises(ValueError, match="'channels' of 8, but the settings say 3"):
        submit(FramesData(diamond_frames), {"channels": 3})


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"sane": True}, "'sane' is no rule for these structures"),
        ({"clean": True}, "clean says nothing of crystals, only of molecules"),
        ({"sort": "-check_bond_angles"}, "check_bond_angles says nothing"),
        ({"valid": "yes"}, "'valid' must be true or false"),
        ({"sort": "enthalpy"}, "'sort: enthalpy' is no rule"),
        ({"max_match": 1.0}, "'max_match' compares numbers"),
    ],
)
def test_rules_are_checked_before_anything_runs(
    code: Any, diamond_frames: Frames, rules: dict[str, Any], says: str
) -> None:
    loop = LoopWorkChain.get_builder_from_protocol(code, FramesData(diamond_frames))
    frames = FramesData(generated(diamond_frames))
    validate = ValidateWorkChain.get_builder_from_protocol(code, frames)
    loop.validate.rules = orm.Dict(rules)
    validate.rules = orm.Dict(rules)
    assert says in refused(LoopWorkChain, loop)
    assert says in refused(ValidateWorkChain, validate)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"stop": {"min_acepted": 1}}, "^`stop`: 'min_acepted'.*did you mean 'min_accepted'"),
        (
            {"train": {"train": {"monitors": {"silnt": {"kwargs": {}}}}}},
            "`train.train.monitors.silnt` has no `entry_point`; did you mean 'silent'",
        ),
        ({"validate": {"rules": {"novell": True}}}, "'novell' is no rule.*did you mean 'novel'"),
        ({"stop": {"recovered": 0.5}}, "'recovered' is a share of the known structures; give"),
        ({"first_round": 0}, "`first_round` is 0, must be between 1 and 99"),
        ({"first_round": 99}, "lead to round 100; 99 is the last one"),
        ({"committee_size": -1}, "`committee_size` is -1, must be between 0 and"),
        (
            {"validate": {"rules": {"max_uncertainty": 1.0}}},
            "'max_uncertainty' needs structures that",
        ),
        ({"validate": {"adopt": "pw"}}, "`adopt` is 'pw', but the `referees` are: none"),
        ({"validate": {"referees": {"xtb": {}}}}, "`referees.xtb` lacks a `code`"),
    ],
)
def test_the_loop_looks_at_its_end_and_its_judges(
    code: Any, diamond_frames: Frames, change: dict[str, Any], says: str
) -> None:
    dataset = FramesData(diamond_frames)
    try:
        builder = LoopWorkChain.get_builder_from_protocol(code, dataset, overrides=change)
        found = refused(LoopWorkChain, builder)
    except ValueError as error:
        found = str(error)
    assert re.search(says, found)


def test_rules_on_uncertainty_need_a_committee(
    code: Any, diamond_frames: Frames, potential_data: Any
) -> None:
    change = {"committee_size": 1, "validate": {"rules": {"max_uncertainty": 1.0}}}
    builder = LoopWorkChain.get_builder_from_protocol(
        code, FramesData(diamond_frames), overrides=change
    )
    assert refused(LoopWorkChain, builder) == ""
    builder.committee = {"member_02": potential_data}
    assert "`committee.member_02` is no member" in refused(LoopWorkChain, builder)
    builder.committee = {"member_01": potential_data}
    other = {**builder.train.train.settings.get_dict(), "channels": 3}
    builder.train.train.settings = orm.Dict(other)
    found = refused(LoopWorkChain, builder)
    assert "`committee.member_01`: `potential` has 'channels' of" in found


@pytest.mark.parametrize(
    ("chemistry", "rules", "says"),
    [
        ("auto", {"sound": True, "stable_molecule": True}, ""),
        ("posebusters", {"clean": True}, ""),
        ("perceive", {"clean": True}, "set it to 'posebusters'"),
        ("off", {"sound": True}, "sound says nothing with the setting 'chemistry' of 'off'"),
        ("off", {"min_stable_atoms": 0.5}, ""),
    ],
)
def test_rules_for_molecules_need_chemistry(
    code: Any, molecule_frames: Frames, chemistry: str, rules: dict[str, Any], says: str
) -> None:
    validate = ValidateWorkChain.get_builder_from_protocol(
        code,
        FramesData(molecule_frames),
        overrides={"score": {"settings": {"chemistry": chemistry}}},
    )
    assert validate.rules["sound"] is True
    validate.rules = orm.Dict(rules)
    found = refused(ValidateWorkChain, validate)
    assert says in found
    assert bool(says) == bool(found)


@pytest.mark.parametrize(("smact", "refuses"), [("auto", False), ("on", False), ("off", True)])
def test_a_rule_on_compositions_needs_smact(
    code: Any, diamond_frames: Frames, smact: str, refuses: bool
) -> None:
    validate = ValidateWorkChain.get_builder_from_protocol(
        code, FramesData(diamond_frames), overrides={"score": {"settings": {"smact": smact}}}
    )
    validate.rules = orm.Dict({"composition_valid": True, "structure_strict": True})
    says = "composition_valid says nothing with the setting 'smact' of 'off'; set it to 'on'"
    assert (says in refused(ValidateWorkChain, validate)) == refuses


def test_rules_may_ask_for_labels_of_the_structures(code: Any, diamond_frames: Frames) -> None:
    validate = ValidateWorkChain.get_builder_from_protocol(code, FramesData(diamond_frames))
    validate.rules = orm.Dict({"name": "diamond", "max_n_atoms": 8, "sort": "-volume_per_atom"})
    assert refused(ValidateWorkChain, validate) == ""


def test_the_dataset_decides_what_the_protocol_is(
    code: Any, diamond_frames: Frames, molecule_frames: Frames
) -> None:
    one, many = FramesData(diamond_frames), FramesData(diamond_frames.select([0] * 100))
    assert kinds_of(one) == ()
    assert kinds_of(many) == ("many_crystals",)
    molecules = FramesData(molecule_frames.select([0] * 100))
    assert kinds_of(FramesData(molecule_frames)) == ("molecules",)
    assert kinds_of(molecules) == ("molecules", "many_molecules")
    # Perturbed copies of one structure are not many structures.
    copies = FramesData(perturbed(diamond_frames, 200))
    assert kinds_of(copies) == ()
    small, large = (LoopWorkChain.get_builder_from_protocol(code, d) for d in (one, many))
    assert "channels" not in small.train.train.settings.get_dict()
    assert large.train.train.settings["channels"] == 16
    passing = LoopWorkChain.get_builder_from_protocol(code, molecules)
    assert passing.committee_size == 3
    # What a protocol says of a kind wins: this one takes minutes.
    quick = LoopWorkChain.get_builder_from_protocol(code, molecules, protocol="fast")
    assert quick.committee_size == 0
    forgetful = {"train": {"train": {"settings": {"environments": 0}}}}
    lone = {**forgetful, "committee_size": 0}
    outvoted = LoopWorkChain.get_builder_from_protocol(code, molecules, overrides=forgetful)
    alone = LoopWorkChain.get_builder_from_protocol(code, molecules, overrides=lone)
    # Moves that go far need a judge: what the potential remembers, or a committee.
    for chosen, moves, weight in (
        (passing, ["jitter", "relocate", "join"], 0.02),
        (quick, ["jitter", "relocate", "join"], 0.02),
        (outvoted, ["jitter", "relocate", "join"], None),
        (alone, ["jitter", "join"], None),
    ):
        stage = chosen.generate.generate.settings["stages"][0]
        assert stage["moves"] == moves
        assert stage.get("latent_weight") == weight
        assert refused(LoopWorkChain, chosen) == ""
    assert "stages" not in large.generate.generate.settings.get_dict()
    thorough = LoopWorkChain.get_builder_from_protocol(code, many, protocol="stringent")
    kinds = [stage["kind"] for stage in thorough.generate.generate.settings["stages"]]
    assert kinds == ["relax", "hop", "relax"]
    assert refused(LoopWorkChain, thorough) == ""
    assert passing.train.train.settings["architecture"] == "equivariant"
    assert refused(LoopWorkChain, passing) == ""
    # What nothing will be remembered of cannot be asked for.
    for dataset, problem in ((one, "'max_latent_percentile' needs a potential that"), (many, "")):
        builder = LoopWorkChain.get_builder_from_protocol(
            code, dataset, overrides={"validate": {"rules": {"max_latent_percentile": 90}}}
        )
        assert problem in refused(LoopWorkChain, builder)
        assert bool(refused(LoopWorkChain, builder)) is bool(problem)
    own = {"train": {"train": {"settings": {"channels": 4}}}}
    chosen = LoopWorkChain.get_builder_from_protocol(code, many, overrides=own)
    assert chosen.train.train.settings["channels"] == 4
