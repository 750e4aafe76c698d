"""The report of a loop that really ran: what is in it, and that it is safe."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from aiida import orm
from aiida.cmdline.commands.cmd_verdi import verdi
from aiida.common.links import LinkType
from click.testing import CliRunner
from plumpy import ProcessState

from aiida_rm.cli.report import plot, report
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.report.candidates import accepted_rows, best_candidates
from aiida_rm.report.drawings import _energies, charts_of, funnel
from aiida_rm.report.page import _space_group, make_page, write_report
from aiida_rm.report.provenance import BOX, Drawer
from aiida_rm.report.run import Round, Run, read_run

HOSTILE = '</script><script>alert("x")</script><img src=x onerror=alert(1)>'


def payload(page: str) -> Any:
    (found,) = re.findall(r'<script id="payload" type="application/json">(.*?)</script>', page)
    return json.loads(found)


def test_a_committee_makes_no_rounds() -> None:
    top = orm.WorkChainNode()
    top.set_process_type("aiida.workflows:rm.loop")
    top.store()
    for label in ("round_01_train", "round_01_train_member_01", "round_02_generate"):
        stage = orm.WorkChainNode()
        stage.base.links.add_incoming(top, LinkType.CALL_WORK, label)
        stage.store()
    assert [one.name for one in read_run(top).rounds] == ["round 1", "round 2"]


def test_all_of_a_loop_is_told(loop: orm.WorkChainNode) -> None:
    run = read_run(loop)
    assert [one.name for one in run.rounds] == ["round 1", "round 2"]
    assert run.dataset.pk == loop.inputs.dataset.pk
    tasks = [job.process_label for job in run.jobs]
    assert tasks.count("GenerateCalculation") == 4
    assert tasks.count("TrainCalculation") == 2
    candidates = best_candidates(run, 6)
    assert any(one.accepted for one in candidates)
    charts = {chart.name: chart for chart in charts_of(run, candidates)}
    assert {"formulas", "learning_force_error", "forces", "funnel", "yield", "distances"} <= set(
        charts
    )
    generated = sum(len(node) for node in loop.outputs.scored.values())
    for number, one in enumerate(run.rounds, 1):
        points = charts[f"energies_round_{number}"].series
        assert sum(len(series.x) for series in points) <= len(one.found)
        counts = funnel(one)
        assert counts["generated"] == len(one.found)
        assert [*counts.values()][1:4] == sorted([*counts.values()][1:4], reverse=True)
    rounds = loop.outputs.rounds.get_dict()["rounds"]
    assert [len(accepted_rows(one)) for one in run.rounds] == [row["accepted"] for row in rounds]
    page = make_page(run, 6)
    assert f"{generated} structures were generated" in page
    assert loop.uuid in page
    assert len(payload(page)["scenes"]) == len(candidates)
    assert set(payload(page)["charts"]) == set(charts)
    assert "http://" not in page.split("<script>", 1)[0]


def test_the_candidates_are_what_the_nodes_hold(loop: orm.WorkChainNode) -> None:
    for one in best_candidates(read_run(loop), 8):
        frames = orm.load_node(one.pk).get_frames()
        np.testing.assert_array_equal(one.frames.positions, frames[one.row].positions)
        energy = frames.structure["energy_per_atom"][one.row]
        np.testing.assert_equal(one.labels["energy_per_atom"], energy)


def test_the_provenance_reaches_the_first_structure(loop: orm.WorkChainNode) -> None:
    picture = Drawer().draw(loop.outputs.accepted)
    titles = [box.title for box in picture.boxes]
    assert {"StructureData", "Perturb", "Train", "Generate", "Score", "PotentialData"} <= {*titles}
    assert not picture.cut
    assert len({(box.x, box.y) for box in picture.boxes}) == len(picture.boxes)
    train = next(box for box in picture.boxes if box.title == "Train")
    assert any("epochs" in line for line in train.details)


def test_hostile_labels_are_text(loop: orm.WorkChainNode) -> None:
    loop.label = HOSTILE
    loop.description = HOSTILE
    page = make_page(read_run(loop), 2)
    assert HOSTILE not in page
    assert "&lt;/script&gt;&lt;script&gt;alert(" in page
    assert page.count("<script>") == 2


def test_hostile_structures_are_text(loop: orm.WorkChainNode) -> None:
    from ase.build import bulk

    frames = from_ase([bulk("Cu"), bulk("Au")])
    count = np.ones(2)
    labels = {"match": [HOSTILE] * 2, "name": [HOSTILE] * 2, "energy_per_atom": count}
    node = FramesData(frames.with_labels(structure=labels)).store()
    page = make_page(Run(loop, node, (Round(HOSTILE, found=node),), ()), 2)
    assert HOSTILE not in page
    assert "onerror=alert(1)>" not in page
    assert page.count("</script>") == 3


@pytest.mark.parametrize("stage", ["train", "generate", "validate"])
def test_each_stage_has_a_report(loop: orm.WorkChainNode, stage: str, tmp_path: Path) -> None:
    links = loop.base.links.get_outgoing().all()
    node = next(link.node for link in links if link.link_label == f"round_01_{stage}")
    file = write_report(node, tmp_path / "new" / "r.html", most=2)
    text = file.read_text("utf-8")
    assert node.uuid in text
    assert [path.name for path in file.parent.iterdir()] == ["r.html"]
    assert ("learning_loss" in payload(text)["charts"]) is (stage == "train")
    assert bool(payload(text)["scenes"]) is (stage != "train")


def test_a_report_by_what_was_made(loop: orm.WorkChainNode) -> None:
    assert read_run(loop.outputs.potential).node.uuid == loop.uuid


def test_nodes_of_others_are_refused(loop: orm.WorkChainNode) -> None:
    with pytest.raises(ValueError, match="Dict, was made by no process"):
        read_run(orm.Dict({}).store())
    child = next(node for node in loop.called if node.process_label == "describe_round")
    with pytest.raises(ValueError, match="describe_round, which aiida-rm knows nothing of"):
        read_run(child)


def test_the_commands(
    loop: orm.WorkChainNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    done = runner.invoke(report, [str(loop.pk), "--best", "2"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / f"report_{loop.pk}.html").is_file()
    again = runner.invoke(report, [str(loop.pk)])
    assert again.exit_code == 1
    assert "is there already" in again.output
    listed = runner.invoke(plot, [str(loop.pk)])
    assert "funnel" in listed.output
    # A logger leaves a trace where `head` has seen enough.
    assert "funnel" not in caplog.text
    drawn = runner.invoke(plot, [str(loop.pk), "funnel", "-o", "f.svg"])
    assert drawn.exit_code == 0, drawn.output
    assert (tmp_path / "f.svg").read_text().startswith("<?xml")
    wrong = runner.invoke(plot, [str(loop.pk), "funel"])
    assert wrong.exit_code == 1
    assert "there is no chart 'funel'" in wrong.output
    assert runner.invoke(report, [str(loop.pk), "-o", "new/folder/r.html"]).exit_code == 0
    assert (tmp_path / "new" / "folder" / "r.html").is_file()


@pytest.fixture
def bare() -> orm.WorkChainNode:
    """A loop that has done nothing yet."""
    node = orm.WorkChainNode()
    node.set_process_type("aiida.workflows:rm.loop")
    node.set_process_state(ProcessState.RUNNING)
    node.set_process_label("LoopWorkChain")
    return node.store()


def scored() -> FramesData:
    from ase.build import bulk

    labels = {
        "energy_per_atom": [1.0, 2.0, 3.0],
        "spacegroup": [225, 0, 12],
        "converged": [True] * 3,
        "valid": [True, False, True],
        "unique": [True, True, False],
    }
    frames = from_ase([bulk(name) for name in ("Cu", "Ag", "Au")])
    arrays = {name: np.array(values) for name, values in labels.items()}
    return FramesData(frames.with_labels(structure=arrays)).store()


def test_space_groups_have_their_symbols(bare: orm.WorkChainNode) -> None:
    page = make_page(Run(bare, None, (Round("", found=scored()),), ()), 3)
    assert "<td>Fm-3m (225)</td>" in page
    assert _space_group(12) == "C2/m (12)"
    assert _space_group(0) == ""
    assert _space_group(HOSTILE) == HOSTILE
    assert _space_group(9999) == "9999"


def test_a_column_without_a_value_is_left_out(bare: orm.WorkChainNode) -> None:
    counts = {"dataset": 1, "accepted": 0, "median_uncertainty": None}
    rows = [{"round": 1, **counts, "yield": None}, {"round": 2, **counts, "yield": 0.5}]
    rounds = tuple(Round(f"round {row['round']}", row=row) for row in rows)
    page = make_page(Run(bare, None, rounds, ()), 1)
    assert re.findall(r'<th scope="col">(.*?)</th>', page)[:4] == [
        "round",
        "dataset",
        "accepted",
        "yield",
    ]


def test_how_far_it_came_has_one_colour_in_all_rounds() -> None:
    chart = _energies(Round("round 1", found=scored()), [])
    assert chart is not None
    colours = {series.name: series.colour for series in chart.series}
    assert colours == {"not valid": 1, "repeat": 4, "unique": 0}
    assert [*colours][-1] == "unique"


def test_lines_of_the_provenance_pass_beside_boxes() -> None:
    from ase.build import bulk

    def frames(name: str, maker: orm.CalculationNode | None = None) -> FramesData:
        node = FramesData(from_ase([bulk(name)]))
        if maker is not None:
            node.base.links.add_incoming(maker, LinkType.CREATE, "frames")
        return node.store()

    def process(*inputs: FramesData) -> orm.CalculationNode:
        node = orm.CalculationNode()
        node.set_process_state(ProcessState.FINISHED)
        for number, one in enumerate(inputs):
            node.base.links.add_incoming(one, LinkType.INPUT_CALC, f"in_{number}")
        return node.store()

    first, known = frames("Cu"), frames("Ag")
    middle = frames("Au", process(first))
    last = frames("Al", process(middle, first, known))
    picture = Drawer().draw(last)
    places = {box.pk: box for box in picture.boxes}
    # What came from nowhere stands beside what it went with.
    assert places[known.pk].y == places[middle.pk].y
    # The one line that passes boxes keeps to their right, and within the picture.
    (around,) = [line for line in picture.lines if "V" in line]
    right = float(around.split("C")[1].split(",")[0])
    assert right > max(box.x for box in picture.boxes) + BOX[0]
    assert right <= picture.width


def test_the_commands_that_it_tells_exist(bare: orm.WorkChainNode) -> None:
    page = make_page(read_run(bare), 1)
    told = re.findall(rf"verdi .*?{bare.uuid}", page)
    assert {line.split()[1] for line in told} == {"process", "node", "archive"}
    for line in told:
        words = line.split()[1:]
        command: Any = verdi
        while isinstance(command, click.Group):
            command = command.get_command(click.Context(command), words.pop(0))
        # An option that verdi does not know ends here.
        command.make_context(command.name, words)
