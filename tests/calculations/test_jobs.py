"""The jobs: what they send, what they refuse, and every kind of code."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.common.folders import SubmitTestFolder
from aiida.engine import run_get_node
from aiida.plugins import CalculationFactory, ParserFactory

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import SETTINGS, PerturbSettings, TrainSettings
from aiida_rm.engine.training.digest import training_digest
from tests.conftest import POTENTIAL_HEADER, STATE_HEADER
from tests.jobs import generated, perturbed

TASKS = ("perturb", "train", "generate", "score", "relax")

EMT = "ase.calculators.emt:EMT"


@pytest.fixture
def inputs(diamond_frames: Frames, potential_data: Any, installed: Any) -> Any:
    """``inputs(task)``: the least that a job needs."""

    def make(task: str, **more: Any) -> dict[str, Any]:
        nodes = {
            "perturb": {"frames": FramesData(diamond_frames)},
            "train": {"frames": FramesData(perturbed(diamond_frames))},
            "generate": {"potential": potential_data},
            "score": {"frames": FramesData(generated(diamond_frames))},
            "relax": {"frames": FramesData(diamond_frames), "settings": {"calculator": EMT}},
        }[task]
        return {"code": installed, **nodes, **more}

    return make


@pytest.mark.parametrize("task", TASKS)
def test_what_is_sent(task: str, inputs: Any, prepare: Any) -> None:
    info, content = prepare(task, inputs(task))
    assert content["schema"] == 1
    assert content["task"] == task
    # every knob is written, so that the engine's own defaults never matter
    assert set(content["settings"]) == {f.name for f in dataclasses.fields(SETTINGS[task])}
    assert content["run"] == {"walltime_seconds": None}
    code = info.codes_info[0]
    assert code.cmdline_params == [task, "settings.json"]
    assert (code.stdout_name, code.stderr_name) == ("aiida_rm.out", "aiida_rm.err")
    assert code.withmpi is False
    assert set(info.retrieve_list) == {
        "results.json",
        "metrics.jsonl",
        "aiida_rm.out",
        "aiida_rm.err",
    }
    states = {"training_state.safetensors", "previous_training_state.safetensors"}
    large = {
        "train": {"potential.safetensors", "output_frames", *states},
        "generate": {"output_frames", "finished_frames"},
    }
    assert set(info.retrieve_temporary_list) == large.get(task, {"output_frames"})


def test_frames_go_by_reference(inputs: Any, prepare: Any, diamond_frames: Frames) -> None:
    frames = FramesData(diamond_frames)
    info, _ = prepare("perturb", {**inputs("perturb"), "frames": frames})
    assert info.local_copy_list == [(frames.uuid, ".", "input_frames")]


def test_train_sends_potential_and_state(
    inputs: Any, prepare: Any, potential_data: Any, write_safetensors: Any, tmp_path: Path
) -> None:
    given = inputs("train", potential=potential_data)
    digest = training_digest(given["frames"].get_frames(), TrainSettings())
    path = write_safetensors(tmp_path / "mine.safetensors", {**STATE_HEADER, "digest": digest})
    training_state_data = TrainingStateData(path)
    info, _ = prepare("train", {**given, "state": training_state_data})
    assert {target for uuid, _, target in info.local_copy_list if uuid == potential_data.uuid} == {
        "input_potential.safetensors"
    }
    assert (
        training_state_data.uuid,
        training_state_data.filename,
        "input_state.safetensors",
    ) in info.local_copy_list


def test_score_sends_what_it_compares_with(
    inputs: Any, prepare: Any, diamond_frames: Frames
) -> None:
    more = {name: FramesData(diamond_frames) for name in ("references", "known", "null")}
    info, _ = prepare("score", inputs("score", **more))
    folders = {target.split("/")[0] for _, _, target in info.local_copy_list}
    assert folders == {"input_frames", "reference_frames", "known_frames", "null_frames"}


def test_the_engine_hears_of_the_walltime(inputs: Any, prepare: Any) -> None:
    metadata = {"options": {"max_wallclock_seconds": 3600}}
    _, content = prepare("train", inputs("train", metadata=metadata))
    assert content["run"]["walltime_seconds"] == pytest.approx(3240)


def test_given_settings_arrive(inputs: Any, prepare: Any) -> None:
    _, content = prepare("perturb", inputs("perturb", settings={"seed": 7, "strain": 0}))
    assert content["settings"]["seed"] == 7
    assert content["settings"]["strain"] == 0


def test_the_walltime_is_not_part_of_the_hash(inputs: Any, instantiate: Any) -> None:
    """What was computed under one walltime serves under another."""
    given = inputs("train")
    hashes = {
        instantiate(
            "train", {**given, "metadata": {"options": {"max_wallclock_seconds": limit}}}
        ).node.base.caching.compute_hash()
        for limit in (60, 3600)
    }
    assert len(hashes) == 1
    other = instantiate("train", {**given, "settings": {"seed": 1}})
    assert other.node.base.caching.compute_hash() not in hashes
    for task in TASKS:
        assert CalculationFactory(f"rm.{task}").CACHE_VERSION is not None
        assert ParserFactory(f"rm.{task}").CACHE_VERSION is not None


@pytest.mark.parametrize(
    ("task", "settings", "says"),
    [
        ("perturb", {"sead": 1}, "'sead' is no setting of this task, did you mean 'seed'"),
        ("train", {"seed": -1}, "'seed' is -1, must be at least 0"),
        ("train", {"learning_rate": "1e-2"}, "'learning_rate' must be of type float"),
        ("generate", {"formulas": ["Xx2"]}, "'Xx' in the formula"),
        ("generate", {"stages": [{"kind": "boil"}]}, "must be one of relax, jitter"),
        ("score", {"symprec": 2}, "'symprec' is 2.0, must be at most 1 angstrom"),
        ("relax", {}, "'calculator' is '', not 'package.module:Class', such as"),
        ("relax", {"calculator": "emt.EMT"}, r"'calculator' is 'emt\.EMT', not 'package"),
        ("relax", {"calculator": EMT, "arguments": [1]}, "'arguments' must be of type dict"),
        ("relax", {"calculator": "tblite.ase:TBLite", "min_atoms": 8}, "off by up to 1 eV"),
    ],
)
def test_bad_settings_are_refused(
    task: str, settings: dict[str, Any], says: str, inputs: Any, instantiate: Any
) -> None:
    with pytest.raises(ValueError, match=says):
        instantiate(task, inputs(task, settings=settings))


@pytest.mark.parametrize(
    ("task", "port"),
    [
        ("perturb", "frames"),
        ("train", "frames"),
        ("train", "potential"),
        ("train", "state"),
        ("generate", "potential"),
        ("score", "known"),
        ("score", "null"),
    ],
)
def test_wrong_node_types_are_refused(task: str, port: str, inputs: Any, instantiate: Any) -> None:
    with pytest.raises(ValueError, match=port):
        instantiate(task, {**inputs(task), port: orm.StructureData(cell=np.eye(3).tolist())})


@pytest.mark.parametrize("task", TASKS)
def test_missing_inputs_are_refused(task: str, inputs: Any, instantiate: Any) -> None:
    given = inputs(task)
    for name in given:
        with pytest.raises(ValueError, match=name):
            instantiate(task, {key: value for key, value in given.items() if key != name})


def test_a_state_of_another_training_is_refused(
    inputs: Any, instantiate: Any, training_state_data: Any
) -> None:
    with pytest.raises(ValueError, match=r"belongs to another training.*leave `state` out"):
        instantiate("train", inputs("train", state=training_state_data))


def test_overlapping_atoms_are_refused(inputs: Any, instantiate: Any) -> None:
    frames = Frames.build(
        [[6, 6], [6, 6]],
        [[[0, 0, 0], [1.5, 0, 0]], [[0, 0, 0], [0.1, 0, 0]]],
        cells=np.eye(3)[None].repeat(2, 0) * 5,
    )
    with pytest.raises(ValueError, match=r"structure 1 \(C2\) has two atoms 0\.100 A apart"):
        instantiate("perturb", inputs("perturb", frames=FramesData(frames)))


def test_partly_periodic_structures_are_refused(inputs: Any, instantiate: Any) -> None:
    slab = Frames.build([[6]], [[[0, 0, 0]]], cells=[np.eye(3) * 3], pbc=[[True, True, False]])
    with pytest.raises(ValueError, match=r"structure 0 is periodic in only some directions; put"):
        instantiate("perturb", inputs("perturb", frames=FramesData(slab)))


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("limit", [0, -5])
def test_a_walltime_must_be_a_time(task: str, limit: int, inputs: Any, instantiate: Any) -> None:
    metadata = {"options": {"max_wallclock_seconds": limit}}
    with pytest.raises(ValueError, match="must be at least 1; leave it out for no limit"):
        instantiate(task, inputs(task, metadata=metadata))


@pytest.mark.parametrize("task", TASKS)
def test_misspelt_options_are_refused(task: str, inputs: Any, instantiate: Any) -> None:
    metadata = {"options": {"max_walclock_seconds": 60}}
    with pytest.raises(ValueError, match="max_walclock_seconds"):
        instantiate(task, inputs(task, metadata=metadata))


def test_train_wants_targets(
    inputs: Any, instantiate: Any, diamond_frames: Frames, molecule_frames: Frames
) -> None:
    with pytest.raises(ValueError, match=r"labels force and stress; run rm\.perturb first"):
        instantiate("train", inputs("train", frames=FramesData(diamond_frames)))
    copies = perturbed(molecule_frames)
    known = copies.structure
    energy = {"energy_weight": 0.1}
    for labels, settings, says in (
        ({"energy": None}, energy, r"lack the label energy; run rm\.perturb first"),
        ({"stress": None}, {}, r"lack the label stress; run rm\.perturb first"),
        ({"core_scale": np.linspace(0, 1, len(copies))}, {}, "'core_scale' is missing or differs"),
        ({"energy": np.full(len(copies), np.nan)}, {}, "'energy' is not a finite number"),
        ({}, {"element_channels": 1}, "cannot tell 3 elements apart; give at least 2"),
        ({}, {"force_weight": 0}, "are molecules, which have no stress.*nothing to learn"),
    ):
        left = {name: values for name, values in {**known, **labels}.items() if values is not None}
        frames = FramesData(dataclasses.replace(copies, structure=left))
        with pytest.raises(ValueError, match=says):
            instantiate("train", inputs("train", frames=frames, settings=settings))
    instantiate("train", inputs("train", frames=FramesData(copies), settings=energy))


def test_fresh_copies_want_stable_structures(
    inputs: Any, instantiate: Any, prepare: Any, diamond_frames: Frames
) -> None:
    fresh = {"draw": "fresh", "recipe": {"samples": 20}}
    _, content = prepare(
        "train", inputs("train", frames=FramesData(diamond_frames), settings=fresh)
    )
    assert content["settings"]["recipe"]["samples"] == 20
    assert content["settings"]["recipe"]["min_atoms"] == 8
    with pytest.raises(ValueError, match="`frames` carry targets, but the setting 'draw'"):
        instantiate("train", inputs("train", settings=fresh))
    overlapping = Frames.build([[6, 6]], [[[0, 0, 0], [0.1, 0, 0]]], [np.eye(3) * 5])
    with pytest.raises(ValueError, match=r"`frames`: structure 0 \(C2\) has two atoms"):
        instantiate("train", inputs("train", frames=FramesData(overlapping), settings=fresh))
    with pytest.raises(ValueError, match=r"'recipe\.sampled' is no setting"):
        instantiate("train", inputs("train", settings={"recipe": {"sampled": 1}}))


def test_workers_and_an_idle_recipe_do_not_part_a_state_from_its_training(
    diamond_frames: Frames,
) -> None:
    frames = perturbed(diamond_frames)
    digest = training_digest(frames, TrainSettings())
    recipe = PerturbSettings(samples=7)
    assert training_digest(frames, TrainSettings(workers=3, threads=2)) == digest
    assert training_digest(frames, TrainSettings(recipe=recipe)) == digest
    assert training_digest(frames, TrainSettings(environments=0)) == digest
    assert training_digest(frames, TrainSettings(batch_edges=7)) != digest
    fresh = {
        training_digest(diamond_frames, TrainSettings(draw="fresh", recipe=r))
        for r in (recipe, PerturbSettings())
    }
    assert len(fresh) == 2


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("train", {}, False),
        ("train", {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 2}}, True),
        ("train", {"resources": {"num_machines": 2, "num_mpiprocs_per_machine": 1}}, True),
        (
            "train",
            {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 2}, "withmpi": False},
            None,
        ),
        ("generate", {"resources": {"num_machines": 1, "num_mpiprocs_per_machine": 2}}, False),
    ],
)
def test_trainings_alone_run_on_several_processes(
    task: str, options: dict[str, Any], expected: bool | None, inputs: Any, prepare: Any
) -> None:
    info, content = prepare(task, inputs(task, metadata={"options": options}))
    assert info.codes_info[0].withmpi is expected
    several = task == "train" and "resources" in options
    assert content["run"].get("processes") == (2 if several else None)


@pytest.mark.parametrize(
    ("resources", "withmpi", "own"),
    [
        ({"num_machines": 1, "num_mpiprocs_per_machine": 3}, False, ["--processes", "3"]),
        ({"num_machines": 1, "num_mpiprocs_per_machine": 3}, True, []),
        ({"num_machines": 1, "num_mpiprocs_per_machine": 3}, None, []),
        ({"num_machines": 1, "num_mpiprocs_per_machine": 1}, False, []),
        # The engine cannot start anything on another machine; the code may.
        ({"num_machines": 2, "num_mpiprocs_per_machine": 2}, False, []),
    ],
)
@pytest.mark.parametrize("by_code", [False, True])
def test_without_mpi_the_engine_starts_the_processes(
    resources: dict[str, int],
    withmpi: bool | None,
    own: list[str],
    by_code: bool,
    inputs: Any,
    prepare: Any,
    installed: Any,
) -> None:
    options = {"resources": resources}
    given = inputs("train", metadata={"options": options})
    if by_code:
        given["code"] = orm.InstalledCode(
            computer=installed.computer, filepath_executable="/opt/engine", with_mpi=withmpi
        ).store()
    elif withmpi is not None:
        options["withmpi"] = withmpi
    info, content = prepare("train", given)
    assert info.codes_info[0].cmdline_params == ["train", "settings.json", *own]
    total = resources["num_machines"] * resources["num_mpiprocs_per_machine"]
    assert content["run"].get("processes") == (total if total > 1 else None)


def test_warm_start_must_have_the_shape_of_the_settings(
    inputs: Any, instantiate: Any, potential_data: Any
) -> None:
    given = inputs("train", potential=potential_data)
    instantiate("train", given)
    with pytest.raises(ValueError, match="`potential` has 'channels' of 8, but the settings say 3"):
        instantiate("train", {**given, "settings": {"channels": 3}})
    copies = given["frames"].get_frames()
    other = copies.with_labels(structure={"core_scale": np.full(len(copies), 0.7)})
    with pytest.raises(ValueError, match=r"'core_scale' of 0\.5, but the struct.*with 0\.7"):
        instantiate("train", {**given, "frames": FramesData(other)})


def test_generate_refuses_elements_never_seen(inputs: Any, instantiate: Any) -> None:
    settings = {"formulas": ["C4", "NaCl"]}
    with pytest.raises(ValueError, match="never saw Cl, Na; it was trained on C"):
        instantiate("generate", inputs("generate", settings=settings))
    instantiate("generate", inputs("generate", settings={"formulas": ["C4"]}))


def test_generate_refuses_crystals_from_molecules(
    inputs: Any, instantiate: Any, write_safetensors: Any, tmp_path: Path
) -> None:
    header = {**POTENTIAL_HEADER, "elemental_volumes": {}}
    potential = PotentialData(write_safetensors(tmp_path / "molecular.safetensors", header))
    with pytest.raises(ValueError, match="trained on molecules"):
        instantiate("generate", inputs("generate", potential=potential))
    settings = {"periodic": False, "stages": [{"cell": "fixed"}]}
    instantiate("generate", inputs("generate", potential=potential, settings=settings))


def test_structures_to_make_the_starts_of(
    inputs: Any, instantiate: Any, prepare: Any, diamond_frames: Frames, molecule_frames: Frames
) -> None:
    starts = FramesData(diamond_frames)
    info, _ = prepare("generate", inputs("generate", starts=starts, settings={"mode": "seeded"}))
    sent = {Path(target).parts[0] for _, _, target in info.local_copy_list}
    assert sent == {"input_frames", "input_potential.safetensors"}
    for settings, given, says in (
        ({"mode": "random"}, starts, "'mode' is random"),
        ({"mode": "seeded"}, None, "no structures to begin with"),
        ({"symmetry": 0.5}, starts, "'symmetry' is for random cells"),
        ({}, FramesData(molecule_frames), "is not a crystal"),
    ):
        more = {} if given is None else {"starts": given}
        with pytest.raises(ValueError, match=says):
            instantiate("generate", inputs("generate", settings=settings, **more))


@pytest.fixture
def member(write_safetensors: Any, tmp_path: Path) -> Any:
    """``member(seed)``: a potential of its own."""

    def make(seed: int, **header: Any) -> PotentialData:
        path = tmp_path / f"member_{seed}.safetensors"
        return PotentialData(write_safetensors(path, {**POTENTIAL_HEADER, **header}, seed))

    return make


def test_a_committee_is_sent_by_name(inputs: Any, prepare: Any, member: Any) -> None:
    committee = {"first": member(1), "other_kind": member(2, architecture="equivariant")}
    info, _ = prepare("generate", inputs("generate", committee=committee))
    sent = {uuid: target for uuid, _, target in info.local_copy_list}
    assert sent[committee["first"].uuid] == "input_committee/first.safetensors"
    assert sent[committee["other_kind"].uuid] == "input_committee/other_kind.safetensors"
    info, _ = prepare("generate", inputs("generate"))
    assert not any("committee" in target for _, _, target in info.local_copy_list)


def test_committees_that_cannot_judge_are_refused(
    inputs: Any, instantiate: Any, member: Any, potential_data: Any
) -> None:
    for committee, says in (
        ({"silicon": member(1, elements=["Si"])}, "'silicon' of the committee never saw C, which"),
        ({"same": potential_data}, "`committee.same` is the same as `potential`"),
        ({"potential": potential_data}, "`committee.potential` is the same as `potential`"),
        ({"a": member(1), "b": member(1)}, "`committee.b` is the same as `committee.a`"),
        ({"a": orm.Int(1)}, "committee"),
    ):
        with pytest.raises(ValueError, match=says):
            instantiate("generate", inputs("generate", committee=committee))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"formulas": ["C4"], "min_distance": 4.0}, "C4 does not fit into"),
        ({"formulas": ["C"], "symmetry": 1.0, "space_groups": [227]}, "227 can be had by C "),
        ({"without": ["C"]}, "leave none of the elements"),
        ({"composition": "training_formulas"}, "does not know the formulas"),
        ({"mode": "molecule", "formulas": ["C4"]}, "'periodic' is true"),
    ],
)
def test_generate_refuses_the_impossible(
    settings: dict[str, Any], says: str, inputs: Any, instantiate: Any
) -> None:
    if "symmetry" in settings:
        pytest.importorskip("pyxtal")
    with pytest.raises(ValueError, match=says):
        instantiate("generate", inputs("generate", settings=settings))


def test_slabs_keep_their_cell(inputs: Any, instantiate: Any) -> None:
    slab = Frames.build([[6]], [[[0, 0, 0]]], cells=[np.eye(3) * 3], pbc=[[True, True, False]])
    given = inputs("relax", frames=FramesData(slab))
    instantiate("relax", given)
    with pytest.raises(ValueError, match="its cell cannot be relaxed; set 'cell' to fixed"):
        instantiate("relax", {**given, "settings": {"calculator": EMT, "cell": "free"}})


def test_known_structures_need_names(inputs: Any, instantiate: Any, diamond_frames: Frames) -> None:
    known = FramesData(diamond_frames.without_labels())
    with pytest.raises(ValueError, match="`known` lacks the label `name`"):
        instantiate("score", inputs("score", known=known))


def test_coverage_needs_references(diamond_frames: Frames, molecule_frames: Frames) -> None:
    def found(frames: Frames, **more: Any) -> str | None:
        given = {"frames": FramesData(frames), "settings": orm.Dict({"coverage": "on"}), **more}
        process: Any = CalculationFactory("rm.score")
        told: str | None = process.validate_together(given)
        return told

    assert "'coverage' is on; give `references`" in str(found(diamond_frames))
    assert found(diamond_frames, references=FramesData(diamond_frames)) is None
    assert found(molecule_frames) is None


def test_a_null_needs_known_structures(
    inputs: Any, instantiate: Any, diamond_frames: Frames
) -> None:
    with pytest.raises(ValueError, match="`known` structures; give these, too"):
        instantiate("score", inputs("score", null=FramesData(diamond_frames)))


def dry_run(task: str, inputs: dict[str, Any]) -> tuple[Path, str]:
    """The folder that would be sent, and the submission script."""
    metadata = {**inputs.get("metadata", {}), "dry_run": True, "store_provenance": False}
    _, node = run_get_node(CalculationFactory(f"rm.{task}"), **{**inputs, "metadata": metadata})
    folder = Path(node.dry_run_info["folder"])
    script = (folder / node.dry_run_info["script_filename"]).read_text()
    return folder, " ".join(script.split())


@pytest.fixture
def submit_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SubmitTestFolder, "__init__", _at(tmp_path / "submit_test"))


def _at(base: Path) -> Any:
    original = SubmitTestFolder.__init__

    def init(self: SubmitTestFolder, basepath: str = str(base)) -> None:
        original(self, basepath)

    return init


def test_installed_code(inputs: Any, submit_folder: None) -> None:
    folder, script = dry_run("perturb", inputs("perturb"))
    assert (
        "'/opt/bin/aiida-rm-engine' 'perturb' 'settings.json' > 'aiida_rm.out' 2> 'aiida_rm.err'"
        in script
    )
    assert np.load(folder / "input_frames" / "positions.npy").shape == (2, 3)
    assert (folder / "settings.json").is_file()


def test_mpirun_starts_a_training_on_two_processes(inputs: Any, submit_folder: None) -> None:
    resources = {"num_machines": 1, "num_mpiprocs_per_machine": 2}
    metadata = {"options": {"resources": resources}}
    _, script = dry_run("train", inputs("train", metadata=metadata))
    assert "'mpirun' '-np' '2' '/opt/bin/aiida-rm-engine' 'train' 'settings.json'" in script


def test_portable_code(
    inputs: Any, submit_folder: None, tmp_path: Path, aiida_localhost: Any
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "engine.sh").write_text("#!/bin/sh\nexec aiida-rm-engine $@\n")
    code = orm.PortableCode(
        label="portable", filepath_executable="engine.sh", filepath_files=source
    )
    given = {**inputs("train"), "code": code.store(), "metadata": {"computer": aiida_localhost}}
    folder, script = dry_run("train", given)
    assert "'./engine.sh' 'train' 'settings.json'" in script
    assert (folder / "engine.sh").is_file()
    assert (folder / "input_frames" / "atom_force.npy").is_file()


def test_containerized_code(inputs: Any, submit_folder: None, aiida_localhost: Any) -> None:
    code = orm.ContainerizedCode(
        label="container",
        computer=aiida_localhost,
        engine_command="apptainer exec --nv {image_name}",
        image_name="aiida-rm.sif",
        filepath_executable="aiida-rm-engine",
    )
    given = {**inputs("generate"), "code": code.store()}
    folder, script = dry_run("generate", given)
    assert (
        "'apptainer' 'exec' '--nv' 'aiida-rm.sif' 'aiida-rm-engine' 'generate' 'settings.json' "
        "> 'aiida_rm.out' 2> 'aiida_rm.err'" in script
    )
    assert (folder / "input_potential.safetensors").is_file()


def test_exit_codes_say_what_to_do() -> None:
    for task in TASKS:
        codes = CalculationFactory(f"rm.{task}").exit_codes
        for label in ("ERROR_ENGINE_NOT_FOUND", "ERROR_DISK_FULL", "ERROR_OUT_OF_MEMORY"):
            assert getattr(codes, label).invalidates_cache
        for label in ("ERROR_BAD_SETTINGS", "ERROR_BAD_FRAMES", "ERROR_DIVERGED"):
            assert not getattr(codes, label).invalidates_cache
        assert codes.ERROR_WALLTIME.invalidates_cache is (task != "train")
