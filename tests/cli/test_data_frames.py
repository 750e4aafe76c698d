"""``verdi data rm.frames``, as a user types it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
from aiida import orm
from ase.db import connect
from click.testing import CliRunner, Result

from aiida_rm.cli.data.frames import frames
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import CHECKS
from aiida_rm.engine.readers import read_dataset


def run(*arguments: Any, status: int = 0) -> Result:
    """What the program prints; no trace, whatever happens."""
    result = CliRunner().invoke(frames, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert result.exit_code == status, result.output
    return result


def table(*arguments: Any) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


@pytest.fixture(scope="module")
def scored(loop: Any) -> FramesData:
    """What the first round generated, with verdicts."""
    node: FramesData = loop.outputs.scored["round_01"]
    return node


@pytest.fixture
def water(loop: Any, molecule_frames: Frames) -> FramesData:
    """Water and carbon monoxide."""
    return FramesData(molecule_frames, label="small_ones").store()


def test_list(scored: FramesData, water: FramesData, loop: Any) -> None:
    pks = {row["pk"] for row in table("list")}
    assert {scored.pk, water.pk} <= pks
    assert {row["pk"] for row in table("list", "-e", "H")} == {water.pk}
    assert {row["pk"] for row in table("list", "-e", "C,O", "--only")} == set()
    assert {row["pk"] for row in table("list", "-e", "O,C,H", "--only")} == {water.pk}
    assert {row["pk"] for row in table("list", "-f", "OC")} == {water.pk}
    assert water.pk not in {row["pk"] for row in table("list", "--kind", "crystal")}
    assert scored.pk in {row["pk"] for row in table("list", "-w", "energy_per_atom")}
    assert {row["pk"] for row in table("list", "-w", "match_rmsd")} == {
        node.pk for node in loop.outputs.scored.values()
    } | {row["pk"] for row in table("list", "-w", "match")}
    assert {row["pk"] for row in table("list", "--min-atoms", 3, "-e", "O")} == {water.pk}
    assert table("list", "--min-atoms", 5) == []
    large = table("list", "--min-structures", 6)
    assert {row["attributes"]["n_structures"] for row in large} == {6}
    assert {row["pk"] for row in table("list", "-L", "small_*")} == {water.pk}
    assert table("list", "-L", "small%") == []  # only the star stands for anything
    assert table("list", "--past-days", 0) == []
    assert [row["pk"] for row in table("list", "--last", 1)] == [water.pk]
    by = {row["pk"]: row["creator"] for row in table("list")}
    assert by[scored.pk] == f"ScoreCalculation <{scored.creator.pk}>"
    assert by[water.pk] == ""
    printed = run("list", "-e", "H").stdout.splitlines()
    assert printed[0].split()[:3] == ["PK", "Label", "Created"]
    assert str(water.pk) in printed[2]
    assert "H2O:1" in printed[2]
    group = orm.Group("some").store()
    group.add_nodes([water])
    assert [row["pk"] for row in table("list", "-G", "some")] == [water.pk]


def test_an_empty_list_says_what_to_do(scored: FramesData) -> None:
    result = run("list", "-e", "Og")
    assert result.stdout == ""
    assert "import one with `verdi data rm.frames import FILE`" in result.stderr
    assert "'Xx' is not an element" in run("list", "-e", "Xx", status=1).stderr
    assert "--only needs --elements" in run("list", "--only", status=1).stderr
    assert "is not a formula" in run("list", "-f", "C(", status=1).stderr


def test_show(scored: FramesData) -> None:
    told = table("show", scored.pk)
    assert told["n_structures"] == 4
    energies = scored.get_frames().structure["energy_per_atom"]
    found = [row["energy_per_atom"] for row in told["rows"]]
    assert found == [value if np.isfinite(value) else None for value in energies.tolist()]
    assert "array|numbers" not in told
    rows = table(
        "show",
        scored.pk,
        "-i",
        "1-3,0",
        "--sort",
        "-volume_per_atom",
        "-n",
        2,
        "-c",
        "volume_per_atom",
    )["rows"]
    volumes = scored.get_frames().volumes / 2
    assert [row["index"] for row in rows] == np.argsort(-volumes)[:2].tolist()
    assert set(rows[0]) == {"index", "volume_per_atom"}
    printed = run("show", scored.pk, "-n", 1).stdout
    assert "ScoreCalculation" in printed
    assert "1 of 4 structures; for more: --limit 4" in printed
    assert f"check_... ({len(CHECKS)})" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-i", "4"], "structure 4 does not exist; there are 0-3"),
        (["-i", "2-1"], "the range '2-1' is empty"),
        (["-i", "a"], "'a' is no index"),
        (["-r", "valid"], "'valid' is no rule"),
        (["-r", "valid=1"], "'valid' must be true or false"),
        (["-r", "colour=red"], "'colour' is no rule for these structures; known are"),
        (["-r", "max_n_atoms=1e-3"], "none of 4 structures meets the rules (max_n_atoms=0.001: 0)"),
        (["-r", "n_atoms=2", "-r", "n_atoms=3"], "given twice"),
        (["-c", "colour"], "there is no label 'colour'"),
    ],
)
def test_show_refuses(scored: FramesData, options: list[str], message: str) -> None:
    result = run("show", scored.pk, *options, status=1)
    assert message in result.stderr
    assert result.stderr.startswith("Critical: ")
    assert len(result.stderr.splitlines()) == 1


def test_debug_shows_the_trace(scored: FramesData) -> None:
    result = CliRunner().invoke(frames, ["show", str(scored.pk), "-i", "9", "--debug"])
    assert isinstance(result.exception, ValueError)


def test_a_node_of_another_kind(loop: Any) -> None:
    told = run("show", loop.pk, status=2).stderr
    assert f"<{loop.pk}> is no set of structures, but LoopWorkChain; " in told


@pytest.mark.parametrize("name", ["a.extxyz", "a.xyz", "a.cif", "a.db", "a.traj"])
def test_export_and_read_back(scored: FramesData, tmp_path: Path, name: str) -> None:
    file = tmp_path / "new" / name
    run("export", scored.pk, "-o", file)
    assert [path.name for path in file.parent.iterdir()] == [name]
    found = read_dataset(file).frames
    given = scored.get_frames()
    assert np.array_equal(found.numbers, given.numbers)
    if name == "a.xyz":
        assert not found.pbc.any()
        assert np.allclose(found.positions, given.positions, atol=1e-6)
    else:
        assert np.allclose(found.volumes, given.volumes, rtol=1e-5)
    assert "exists; name another file" in run("export", scored.pk, "-o", file, status=1).stderr
    run("export", scored.pk, "-o", file, "-n", 1, "--overwrite")
    assert len(read_dataset(file).frames) == 1


def test_labels_go_along(scored: FramesData, diamond_frames: Frames, tmp_path: Path) -> None:
    energies = scored.get_frames().structure["energy_per_atom"]
    run("export", scored.pk, "-o", tmp_path / "a.extxyz")
    atoms = ase.io.read(tmp_path / "a.extxyz", ":")
    assert np.allclose([one.info["energy_per_atom"] for one in atoms], energies, equal_nan=True)
    assert "coordination" in atoms[0].arrays
    named = FramesData(diamond_frames.with_labels(structure={"id": ["1"], "match": [""]})).store()
    run("export", named.pk, "-o", tmp_path / "a.db")
    row = next(connect(tmp_path / "a.db").select())
    assert row.key_value_pairs == {"name": "diamond"}  # no empty text, and none like a number
    named = FramesData(diamond_frames.with_labels(structure={"id": ["mp-1"]})).store()
    run("export", named.pk, "-o", tmp_path / "b.db")
    assert read_dataset(tmp_path / "b.db").frames.structure["id"].tolist() == ["mp-1"]


def test_export_a_file_each(scored: FramesData, tmp_path: Path) -> None:
    run("export", scored.pk, "-o", tmp_path, "--split", "-F", "poscar", "-i", "1,3")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00001_C2.vasp", "00003_C2.vasp"]
    run("export", scored.pk, "-o", tmp_path / "POSCAR", "-i", 2)
    found = read_dataset(tmp_path / "POSCAR").frames
    assert np.allclose(found.volumes, scored.get_frames().volumes[2], rtol=1e-6)
    before = (tmp_path / "00003_C2.vasp").read_text()
    again = ["-o", tmp_path, "--split", "-F", "poscar", "-i", "2,3"]
    refused = run("export", scored.pk, *again, status=1).stderr
    assert "00003_C2.vasp' exists; name another folder, or add --overwrite" in refused
    assert not (tmp_path / "00002_C2.vasp").exists()
    run("export", scored.pk, *again, "--force")
    assert (tmp_path / "00003_C2.vasp").read_text() == before
    assert "wrote 1 file to" in run("export", scored.pk, *again[:-1], 2, "-f").output
    for options, message in (
        (["-o", tmp_path / "CONTCAR"], "holds one structure a file, not 4"),
        (["-o", tmp_path], "is a folder; add --split"),
        (["-o", tmp_path / "a.abc"], "tells no format; end it in one of .extxyz"),
        (["--split"], "--split needs a folder"),
        (["-F", "traj"], "is no text; name a file"),
    ):
        if options[-1] == tmp_path:
            options += ["--overwrite"]
        assert message in run("export", scored.pk, *options, status=1).stderr
    assert run("export", scored.pk, "-F", "xyz", "-i", 0).stdout.startswith("2\n")


@pytest.fixture
def broken(scored: FramesData, tmp_path: Path) -> Path:
    """Four structures, twice, and one without its last atoms."""
    file = tmp_path / "set.extxyz"
    run("export", scored.pk, "-o", file)
    file.write_text(file.read_text() * 2 + "3\n\nC 0 0 0\n")
    return file


def test_import(broken: Path, loop: Any) -> None:
    result = run("import", broken, "--dry-run")
    lines = result.output.splitlines()
    assert "left out: 'set.extxyz', entry 8 (line 33): it ends before its last atom" in lines[0]
    assert "'set.extxyz', entry 4 (line 17) repeats 'set.extxyz', entry 0 (line 1)" in lines[1]
    assert "8 structures, 1 entry left out, 4 duplicates; nothing was stored" in lines[-1]
    report = table("import", broken, "--duplicates", "remove", "-L", "mine", "-G", "ours")[0]
    node = orm.load_node(report["pk"])
    assert (len(node), node.label) == (4, "mine")
    assert node in list(orm.load_group("ours").nodes)
    assert node.base.extras.get("rm_source")["n_left_out"] == 1
    again = table("import", broken, "--duplicates", "remove")[0]
    assert again["pk"] is None
    assert f"are here already, as <{node.pk}>" in again["told"]
    assert table("import", broken, "--duplicates", "remove", "--again")[0]["pk"] > node.pk
    assert table("import", broken, "--duplicates", "ignore", "--dry-run")[0]["n_duplicates"] == 0
    assert "entry 8 (line 33)" in run("import", broken, "--strict", status=1).stderr


def test_a_bad_source_leaves_the_others(broken: Path, tmp_path: Path, loop: Any) -> None:
    bad = tmp_path / "bad.extxyz"
    bad.write_text("no structure")
    more = ("--again", "--duplicates", "ignore")
    result = run("import", broken, bad, *more, status=1)
    assert "8 structures, 1 entry left out in <" in result.output
    assert "bad.extxyz: " in result.stderr
    reports = json.loads(run("import", bad, broken, "--json", *more, status=1).stdout)
    assert [(report["ok"], report["pk"] is None) for report in reports] == [
        (False, True),
        (True, False),
    ]


def test_a_new_group_is_made_when_something_joins_it(broken: Path, tmp_path: Path) -> None:
    def labels() -> set[str]:
        return {group.label for group in orm.Group.collection.all()}

    more = ("-G", "later", "--duplicates", "ignore")
    run("import", broken, *more, "--dry-run")
    run("import", tmp_path / "none", *more, status=2)
    assert "later" not in labels()
    assert run("import", broken, "-G", "", status=2)
    for _ in range(2):
        run("import", broken, broken, *more, "--again")
    assert len(orm.load_group("later").nodes) == 4


def test_import_tells_of_atoms_that_overlap(tmp_path: Path, loop: Any) -> None:
    file = tmp_path / "near.xyz"
    file.write_text("2\n\nC 0 0 0\nC 0 0 1.3\n2\n\nC 0 0 0\nC 0 0 0.1\n")
    result = run("import", file, "--dry-run").output
    assert "'near.xyz', entry 1 (line 5) has two atoms 0.100 A apart; loops refuse it" in result
    assert "2 structures, 1 with atoms that overlap; nothing was stored" in result
    assert table("import", file, "--dry-run")[0]["n_overlapping"] == 1


def test_import_what_matches(diamond_frames: Frames, tmp_path: Path, loop: Any) -> None:
    from ase.build import bulk

    atoms = bulk("C", "diamond", a=3.567)
    ase.io.write(tmp_path / "a.extxyz", [atoms, atoms.repeat((1, 1, 2))])
    assert table("import", tmp_path / "a.extxyz", "--dry-run")[0]["n_duplicates"] == 0
    report = table("import", tmp_path / "a.extxyz", "--dry-run", "--match")[0]
    assert len(report["duplicates"]) == 1
    assert "matches" in report["duplicates"][0]


def test_import_folders_and_zips(broken: Path, tmp_path: Path, loop: Any) -> None:
    archive = shutil.make_archive(str(tmp_path.parent / "sets"), "zip", tmp_path)
    reports = table("import", tmp_path, archive, "--duplicates", "remove", "--again")
    assert [report["n_structures"] for report in reports] == [4, 4]
    assert "nothing to import" in run("import", status=1).stderr
    assert "does not exist" in run("import", tmp_path / "none", status=2).stderr
    (tmp_path / "set.extxyz").write_text("no structure")
    assert "holds no structures that can be used" in run("import", tmp_path, status=1).stderr


def test_import_a_group(diamond_frames: Frames, loop: Any) -> None:
    structures = [FramesData(diamond_frames).get_structure(0).store() for _ in range(2)]
    group = orm.Group("crystals").store()
    group.add_nodes([*structures, orm.Dict({}).store()])
    report = table("import", "--from-group", "crystals")[0]
    node = orm.load_node(report["pk"])
    assert len(node) == 2
    assert set(node.creator.inputs) == {"structure_00000", "structure_00001"}
    assert report["n_left_out"] == 1
    assert (
        f"<{structures[1].pk}> repeats StructureData <{structures[0].pk}>"
        in (report["duplicates"][0])
    )
    report = table("import", "--from-group", "crystals", "--duplicates", "remove")[0]
    assert len(orm.load_node(report["pk"])) == 1
    empty = orm.Group("empty").store()
    message = run("import", "--from-group", empty.pk, status=1).stderr
    assert "holds no StructureData" in message


def test_import_an_archive(loop_archive: Any, aiida_profile: Any) -> None:
    aiida_profile.reset_storage()
    report = table("import", loop_archive.archive)[0]
    assert "the whole archive was imported" in report["told"]
    assert "it holds the sets <" in report["told"]
    assert orm.load_node(loop_archive.loop).is_finished_ok
    message = run("import", loop_archive.archive, "--dry-run", status=1).stderr
    assert "verdi archive info" in message
