"""``aiida-rm launch``: plans, refusals, and one run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from aiida import orm
from click.testing import CliRunner, Result

from aiida_rm.cli import aiida_rm as group
from aiida_rm.cli.cost import estimate
from aiida_rm.cli.plan import make_builder
from aiida_rm.data.export import export
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings
from tests.workflows.conftest import TINY, engine_code

__all__ = ["engine_code"]


def launch(*arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(group, ["launch", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(autouse=True)
def configured(loop: Any) -> None:
    """An archive has computers without the way to reach them."""
    loop.inputs.perturb.code.computer.configure(safe_interval=0, use_login_shell=False)


@pytest.fixture
def code(loop: Any) -> orm.InstalledCode:
    """That of the loop."""
    node: orm.InstalledCode = loop.inputs.perturb.code
    return node


@pytest.fixture(scope="module")
def other_codes(loop: Any) -> dict[str, str]:
    """A code whose computer is not configured, and one of another plugin."""
    engine = {"label": "engine", "filepath_executable": "/bin/true"}
    far = orm.Computer(
        label="far (old #0)",
        hostname="far",
        workdir="/",
        transport_type="core.local",
        scheduler_type="core.direct",
    ).store()
    here = loop.inputs.perturb.code.computer
    plugin = "quantumespresso.pw"
    codes = {
        "FAR": orm.InstalledCode(computer=far, **engine),
        "PW": orm.InstalledCode(computer=here, default_calc_job_plugin=plugin, **engine),
    }
    return {name: code.store().full_label for name, code in codes.items()}


def counted() -> int:
    return orm.QueryBuilder().append(orm.Node).count()


def test_a_loop_begins_with_given_structures(loop: Any, code: Any) -> None:
    """Or refuses them at once."""
    dataset = loop.inputs.dataset
    asked = ("--code", code.pk, "--dataset", dataset.pk, "--starts", dataset.pk, "-n", "--json")
    seeding = "generate.generate.settings.seeding=substitute"
    formulas = "generate.generate.settings.formulas=[C2]"
    told = json.loads(launch("loop", *asked, "--set", seeding, "--set", formulas).stdout)
    assert f"<{dataset.pk}>" in told["inputs"]["generate"]["generate"]["starts"]
    told = launch("loop", *asked, "--set", seeding, status=1).output
    assert "'seeding' is substitute, which needs 'formulas'" in told


def test_the_plan_of_a_loop(loop: Any, code: Any, tmp_path: Path) -> None:
    before = counted()
    file = tmp_path / "settings.yaml"
    settings = {
        "code": code.full_label,
        "dataset": loop.inputs.dataset.pk,
        "protocol": "fast",
        "options": {"max_wallclock_seconds": 100},
        "overrides": {"rounds": 4, "committee_size": 2},
    }
    file.write_text(yaml.safe_dump(settings))
    arguments = [
        "loop",
        "-s",
        file,
        "--set",
        "rounds=3",
        "--walltime",
        7200,
        "--queue",
        "q",
        "--set",
        "train.train.settings.epochs=7",
        "--dry-run",
    ]
    told = json.loads(launch(*arguments, "--json").stdout)
    inputs = told["inputs"]
    assert inputs["rounds"] == 3
    assert inputs["committee_size"] == 2
    assert inputs["train"]["train"]["settings"]["epochs"] == 7
    assert inputs["train"]["train"]["settings"]["cutoff"] == 4.5  # defaults are in the plan
    options = inputs["train"]["train"]["metadata"]["options"]
    assert (options["max_wallclock_seconds"], options["queue_name"]) == (7200, "q")
    assert inputs["dataset"].startswith(f"<{loop.inputs.dataset.pk}>")
    assert [stage["stage"] for stage in told["stages"]] == ["perturb", "train", "generate", "score"]
    assert "3 potentials, 3 rounds" in told["stages"][1]["work"]
    assert told["total"]["core_hours_of_a_training_at_most"] == 2.0
    printed = launch(*arguments).stdout
    assert "settings: {epochs: 7}" in printed  # and the protocol's other knobs are defaults
    assert "cutoff" not in printed
    assert "cutoff: 4.5" in launch(*arguments, "--full").stdout
    assert "Nothing was stored or started" in printed
    assert counted() == before


def test_the_plans_of_the_others(loop: Any, code: Any, tmp_path: Path) -> None:
    perturbed = next(
        node.outputs.frames
        for node in loop.called_descendants
        if node.process_label == "PerturbCalculation"
    )
    potential, scored = loop.outputs.potential, loop.outputs.scored["round_01"]
    first = next(
        node.outputs.potential
        for node in loop.called_descendants
        if node.process_label == "TrainCalculation" and node.outputs.potential.pk != potential.pk
    )
    common = ["--code", code.pk, "--protocol", "fast", "-n", "--json"]
    for kind, nodes, stage in (
        ("train", ["--frames", perturbed.pk], "train"),
        ("generate", ["--potential", potential.uuid], "generate"),
        ("validate", ["--frames", scored.pk, "--references", loop.inputs.dataset.pk], "score"),
    ):
        told = json.loads(launch(kind, *nodes, *common).stdout)
        assert told["process"] == f"rm.{kind}"
        assert [one["stage"] for one in told["stages"]] == [stage]
    copy = tmp_path / "mine.safetensors"
    with potential.open(mode="rb") as handle:
        copy.write_bytes(handle.read())
    told = json.loads(launch("generate", "--potential", copy, *common).stdout)
    assert told["inputs"]["generate"]["potential"] == "(new) mine"
    known = PotentialData(copy, label="known").store()
    told = json.loads(launch("generate", "--potential", copy, *common).stdout)
    assert told["inputs"]["generate"]["potential"] == f"<{known.pk}> known"
    told = json.loads(
        launch("generate", "--potential", first.pk, "--committee", copy, *common).stdout
    )
    assert told["inputs"]["generate"]["committee"] == {"member_01": f"<{known.pk}> known"}
    asked = {"code": code.pk, "potential": first.pk, "committee": {"mine": "known"}}
    assert make_builder("generate", asked).generate.committee["mine"].pk == known.pk
    with pytest.raises(ValueError, match=r"`committee\.mine`: there is no file or node 'none'"):
        make_builder("generate", {**asked, "committee": {"mine": "none"}})
    with pytest.raises(ValueError, match="`committee` must be a list of potentials, or a table"):
        make_builder("generate", {**asked, "committee": "known"})
    text = tmp_path / "diamond.cif"
    text.write_text("data_diamond\n" * 9)
    bad = launch("generate", "--potential", text, *common, status=1).stderr
    assert "`potential`: 'diamond.cif': no safetensors file" in bad
    fresh = ["--set", "train.settings.draw=fresh", "--set", "train.settings.recipe.samples=70"]
    told = json.loads(launch("train", "--frames", loop.inputs.dataset.pk, *fresh, *common).stdout)
    assert "of 70 structures" in told["stages"][0]["work"]
    missing = launch("train", *common, status=1).stderr
    assert "--frames is missing: a file, or the PK" in missing


def test_a_dataset_from_a_file(loop: Any, code: Any, tmp_path: Path) -> None:
    file = tmp_path / "set.extxyz"
    export(loop.outputs.accepted.get_frames().without_labels(), file, "extxyz")
    asked = {"code": code.pk, "dataset": str(file), "protocol": "fast"}
    first = make_builder("loop", asked).dataset
    assert not first.is_stored
    both = make_builder("validate", {"code": code.pk, "frames": str(file), "null": str(file)})
    assert both.score.frames is both.score.null
    first.store()
    assert make_builder("loop", asked).dataset.pk == first.pk
    by_label = make_builder("loop", {**asked, "dataset": "set.extxyz"}).dataset
    assert by_label.pk == first.pk
    FramesData(first.get_frames().select([0]), label="set.extxyz").store()
    with pytest.raises(ValueError, match=r"several nodes are called 'set\.extxyz'"):
        make_builder("loop", {**asked, "dataset": "set.extxyz"})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dataset", "DATASET"], "which code? --code LABEL@COMPUTER; there are "),
        (["--code", "none", "--dataset", "DATASET"], "there is no code 'none'; there are "),
        (["--code", "CODE"], "--dataset is missing"),
        (["--code", "FAR", "--dataset", "DATASET"],
         "is not configured; `verdi computer configure core.local 'far (old #0)'`"),
        (["--code", "PW", "--dataset", "DATASET"],
         "is of the plugin quantumespresso.pw; give one of aiida-rm-engine"),
        (["--code", "CODE", "--dataset", "12345"], "`dataset`: there is no file or node '12345'"),
        (["--code", "CODE", "--dataset", "POTENTIAL"], "must be a FramesData; <"),
        (["--code", "CODE", "--dataset", "DATASET", "--set", "rounds=0"], "must be between 1 and"),
        (["--code", "CODE", "--dataset", "DATASET", "--set", "round=1"], "did you mean 'rounds'"),
        (["--code", "CODE", "--dataset", "DATASET", "--set", "rounds"], "is no override"),
        (["--code", "CODE", "--dataset", "DATASET", "--protocol", "quick"], "is no protocol"),
        (["--code", "CODE", "--dataset", "DATASET", "--set", "train.train.settings.epoch=1"],
         "epoch"),
    ],
)  # fmt: skip
def test_refusals(loop: Any, other_codes: dict[str, str], options: list[str], message: str) -> None:
    nodes = {
        "CODE": loop.inputs.perturb.code.full_label,
        "DATASET": loop.inputs.dataset.pk,
        "POTENTIAL": loop.outputs.potential.pk,
    }
    nodes |= {name: other_codes[name] for name in ("FAR", "PW")}
    before = counted()
    result = launch("loop", *[nodes.get(one, one) for one in options], "--dry-run", status=1)
    assert message in result.stderr
    if message.endswith("there are "):
        assert nodes["CODE"] in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert counted() == before


def test_json_stays_json_where_entries_are_left_out(code: Any, tmp_path: Path) -> None:
    file = tmp_path / "set.xyz"
    file.write_text("1\n\nC 0 0 0\n1\n\nXx 0 0 0\n")
    result = launch("loop", "--code", code.pk, "--dataset", file, "-n", "--json")
    assert json.loads(result.stdout)["process"] == "rm.loop"


def test_a_mixed_dataset_is_told(loop: Any, code: Any, tmp_path: Path) -> None:
    crystal = Frames.build([[6, 6]], [[[0, 0, 0], [0.9, 0.9, 0.9]]], [np.eye(3) * 3.6])
    molecule = Frames.build([[6, 8]], [[[0, 0, 0], [1.1, 0, 0]]])
    mixed = concatenate([crystal, molecule])
    export(mixed, tmp_path / "mixed.extxyz", "extxyz")
    asked = ("--code", code.full_label, "--dry-run")
    told = launch("loop", *asked, "--dataset", tmp_path / "mixed.extxyz")
    assert "mixes molecules and crystals: one potential learns both; crystals" in told.stderr
    assert "mixes" not in launch("loop", *asked, "--dataset", loop.inputs.dataset.pk).stderr
    copies = FramesData(perturb(mixed, PerturbSettings(samples=4))).store()
    told = launch("train", *asked, "--frames", copies.pk)
    assert "mixes molecules and crystals: one potential learns both. For two" in told.stderr


def test_refused_settings_files(loop: Any, tmp_path: Path) -> None:
    for text, message in (
        ("colour: 1", "'colour' in"),
        ("- 1", "must be a table"),
        ("a: [", "cannot be read as YAML"),
    ):
        (tmp_path / "a.yaml").write_text(text)
        assert message in launch("loop", "-s", tmp_path / "a.yaml", status=1).stderr


def test_empty_keys_are_as_absent(loop: Any, code: Any, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    settings = {"calculator": "ase.calculators.emt:EMT"}
    referee = {"referee": "ase", "code": code.pk, "settings": settings, "options": None}
    table = {"code": code.pk, "dataset": loop.inputs.dataset.pk, "overrides": None}
    table |= {"options": None, "referees": {"score": referee}}
    file.write_text(yaml.safe_dump(table))
    asked = ("-s", file, "--set", "rounds=3", "--walltime", 600, "-n")
    told = json.loads(launch("loop", *asked, "--json").stdout)["inputs"]
    assert told["rounds"] == 3
    # The names of referees are no names of tasks.
    assert told["validate"]["referees"]["score"]["settings"] == settings
    assert "referee: ase" in launch("loop", *asked).stdout
    assert "symprec" in told["validate"]["score"]["settings"]
    for text, message in (
        ("overrides: []", "`overrides` in '"),
        ("overrides: {train: 1}", "'train' in 'train.x' is no table"),
    ):
        file.write_text(text)
        told = launch("loop", "-s", file, "--set", "train.x=1", "-n", status=1).stderr
        assert message in told
    file.write_text("overrides: {train:}")
    asked = ("--code", code.pk, "--dataset", loop.inputs.dataset.pk)
    more = ("--set", "train.train.settings.epochs=3", "-n", "--json")
    told = json.loads(launch("loop", "-s", file, *asked, *more).stdout)
    assert told["inputs"]["train"]["train"]["settings"]["epochs"] == 3


def test_a_refused_run_stores_no_file(
    loop: Any, code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    export(loop.outputs.accepted.get_frames(), tmp_path / "new.extxyz", "extxyz")
    asked = ("loop", "--code", code.pk, "--dataset", "new.extxyz", "--run")
    before = counted()
    launch(*asked, "--set", "round=1", "-G", "later", status=1)
    launch(*asked, "--set", "validate.rules={novell: true}", status=1)
    told = launch(*asked, "--known", "", status=1).stderr
    assert "`known` is empty; give it a value, or leave it out" in told
    assert counted() == before
    assert "later" not in {group.label for group in orm.Group.collection.all()}


def test_nothing_is_stored_where_nobody_listens(loop: Any, code: Any) -> None:
    before = counted()
    result = launch("loop", "--code", code.pk, "--dataset", loop.inputs.dataset.pk, status=1)
    assert "no broker to submit to; add --run" in result.stderr
    assert counted() == before


def test_short_runs_tell_no_speed(loop: Any, code: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"code": code.pk, "dataset": loop.inputs.dataset.pk, "protocol": "fast"}
    inputs = make_builder("loop", asked)._inputs(prune=True)
    costs = {cost.stage: cost for cost in estimate("loop", inputs)}
    assert costs["train"].source == "one core, docs/benchmarks.md"
    # 6 epochs of 1000 copies of 8 atoms at 10,000 atoms a second
    assert costs["train"].seconds == pytest.approx(4.8)
    assert costs["perturb"].seconds is None
    monkeypatch.setattr("aiida_rm.cli.cost._SHORT", 0.0)
    costs = {cost.stage: cost for cost in estimate("loop", inputs)}
    assert costs["train"].source == "2 earlier runs in this profile"
    job = next(one for one in loop.called_descendants if one.process_label == "PerturbCalculation")
    seconds = job.outputs.results["wall_seconds"]
    assert 1000 / 6 * seconds * 0.01 < costs["perturb"].seconds < 1000 / 6 * seconds * 100


def test_a_run(engine_code: Any, loop: Any, tmp_path: Path) -> None:
    scored = loop.outputs.scored["round_01"]
    export(scored.get_frames().select([0, 1]).without_labels(), tmp_path / "r.extxyz", "extxyz")
    result = launch(
        "validate", "--code", engine_code.pk, "--frames", scored.pk, "--protocol", "fast",
        "--set", "score.settings.require_converged=false",
        "--set", f"score.settings.processes={TINY['score']['processes']}",
        "--set", "rules={valid: true}",
        "--references", tmp_path / "r.extxyz", "--run", "-L", "mine", "-G", "runs", "--json",
    )  # fmt: skip
    told = json.loads(result.stdout)  # what AiiDA reports meanwhile is elsewhere
    node = orm.load_node(told["pk"])
    assert (node.label, told["exit_status"]) == ("mine", 0)
    assert node in list(orm.load_group("runs").nodes)
    assert (node.inputs.score.references.label, len(node.inputs.score.references)) == (
        "r.extxyz",
        2,
    )
