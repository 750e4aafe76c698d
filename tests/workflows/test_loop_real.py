"""A real loop through AiiDA: one diamond, two rounds, two jobs a search."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.manage.caching import enable_caching

from aiida_rm.calculations.functions import extract_structure, frames_from_structures
from aiida_rm.data.converters import to_structure
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.continuing import rest_of
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.referees import with_referees
from tests.workflows.conftest import TINY


def build(code: Any, dataset: Any, known: Any, rounds: int) -> Any:
    overrides = {
        "rounds": rounds,
        "perturb": {"settings": TINY["perturb"]},
        "train": {"train": {"settings": TINY["train"]}},
        "generate": {"n_jobs": 2, "generate": {"settings": TINY["generate"]}},
        "validate": {
            "score": {"settings": TINY["score"]},
            "rules": {"valid": True, "unique": True, "limit": 2},
        },
    }
    return LoopWorkChain.get_builder_from_protocol(
        code, dataset, protocol="fast", overrides=overrides, known=known
    )


def ancestors(node: orm.Node) -> set[str]:
    """UUIDs of everything that led to a node."""
    query = orm.QueryBuilder()
    query.append(orm.Node, filters={"uuid": node.uuid}, tag="end")
    query.append(orm.Node, with_descendants="end", project="uuid")
    return set(query.all(flat=True))


def test_a_committee_says_where_it_disagrees(engine_code: Any, diamond_frames: Frames) -> None:
    dataset = FramesData(diamond_frames)
    builder = build(engine_code, dataset, dataset, rounds=2)
    builder.committee_size = 2
    builder.warm_start = True
    rules = {"valid": True, "min_uncertainty": 1e-9, "sort": "uncertainty", "limit": 1}
    builder.validate.rules = rules
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert sorted(results["committee"]) == ["member_01", "member_02"]
    stages = {link.link_label: link.node for link in node.base.links.get_outgoing().all()}
    settings = [
        stages[f"round_{number:02d}_train{member}"].inputs.train.settings.get_dict()
        for number in (1, 2)
        for member in ("", "_member_01", "_member_02")
    ]
    assert len({one.get("seed", 0) for one in settings}) == 6
    second = stages["round_02_train_member_02"]
    first = stages["round_01_train_member_02"].outputs.potential
    assert second.inputs.train.potential.uuid == first.uuid
    for number, frames in results["scored"].items():
        members = stages[f"{number}_generate"].inputs.generate.committee
        assert sorted(members) == ["member_01", "member_02"]
        assert (frames.get_frames().structure["uncertainty"] > 0).all()
    assert all(row["median_uncertainty"] > 0 for row in results["rounds"]["rounds"])
    left = rest_of(node)
    assert left.committee["member_01"].uuid == results["committee"]["member_01"].uuid


def jobs_of(node: orm.WorkChainNode) -> list[orm.CalcJobNode]:
    return [child for child in node.called_descendants if isinstance(child, orm.CalcJobNode)]


def test_from_one_diamond_to_new_structures(engine_code: Any, diamond_frames: Frames) -> None:
    diamond = to_structure(diamond_frames, 0).store()
    diamond.label = "diamond"
    dataset = frames_from_structures(diamond=diamond)
    results, node = run_get_node(build(engine_code, dataset, dataset, rounds=2))
    assert node.is_finished_ok, node.exit_message
    jobs = jobs_of(node)
    assert [job.process_label for job in jobs].count("GenerateCalculation") == 4
    assert all(job.is_finished_ok for job in jobs)

    # every round is in the outputs, and the accepted are in the dataset
    assert sorted(results["scored"]) == ["round_01", "round_02"]
    assert all(len(scored) == 4 for scored in results["scored"].values())
    accepted, final = results["accepted"], results["dataset"]
    assert 1 <= len(accepted) <= 4
    assert len(final) == 1 + len(accepted)
    table = results["rounds"].get_dict()
    assert [row["generated"] for row in table["rounds"]] == [4, 4]
    assert table["total"]["accepted"] == len(accepted)
    assert results["potential"].elements == ["C"]

    # the rounds differ, and the second training began with the first potential
    trains = [job for job in jobs if job.process_label == "TrainCalculation"]
    trains.sort(key=lambda job: job.pk)
    first, second = (job.inputs.settings.get_dict().get("seed", 0) for job in trains)
    assert first != second
    assert "potential" not in trains[0].inputs
    assert trains[1].inputs.potential.uuid == trains[0].outputs.potential.uuid

    # provenance: from one accepted structure back to the diamond
    structure = extract_structure(accepted, orm.Int(len(accepted) - 1))
    walk = ancestors(structure)
    assert diamond.uuid in walk
    assert trains[0].outputs.potential.uuid in walk

    # nothing is computed twice
    with enable_caching():
        again, replay = run_get_node(build(engine_code, dataset, dataset, rounds=1))
    assert replay.is_finished_ok
    assert len(jobs_of(replay)) == 5
    assert all(job.base.caching.is_created_from_cache for job in jobs_of(replay))
    hashes = {out["scored"]["round_01"].base.caching.compute_hash() for out in (results, again)}
    assert len(hashes) == 1

    # a loop that goes on where another one ended does what one long loop would have done
    builder = LoopWorkChain.get_builder_from_loop(replay, rounds=1)
    assert builder.first_round.value == 2
    with enable_caching():
        more, on = run_get_node(builder)
    assert on.is_finished_ok, on.exit_message
    assert all(job.base.caching.is_created_from_cache for job in jobs_of(on))
    assert [row["round"] for row in more["rounds"]["rounds"]] == [2]
    assert len(more["dataset"]) == len(final)
    # through both loops, and jobs that never ran again
    walk = ancestors(extract_structure(more["accepted"], orm.Int(0)))
    assert {diamond.uuid, replay.outputs.potential.uuid} <= walk
    assert [*LoopWorkChain.get_builder_from_loop(on, rounds=1).earlier] == ["round_01", "round_02"]
    with pytest.raises(ValueError, match="went all its rounds; say how many"):
        LoopWorkChain.get_builder_from_loop(node)


def test_a_loop_that_broke_goes_on_after_its_last_whole_round(
    engine_code: Any, diamond_frames: Frames, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In eV, which E~ is not.
    said = {"energy": np.array([-18.2]), "density": np.array([3.5])}
    dataset = FramesData(diamond_frames.with_labels(structure=said))
    launch = LoopWorkChain._launch

    def breaks(self: LoopWorkChain, stage: str, *more: Any) -> Any:
        if self.ctx.round == 2 and stage == "generate":
            raise RuntimeError
        return launch(self, stage, *more)

    monkeypatch.setattr(LoopWorkChain, "_launch", breaks)
    builder = build(engine_code, dataset, dataset, rounds=3)
    with pytest.raises(RuntimeError):
        run_get_node(builder)
    query = orm.QueryBuilder().append(
        orm.WorkChainNode, filters={"attributes.process_state": "excepted"}
    )
    broken = query.order_by({orm.WorkChainNode: {"id": "desc"}}).first(flat=True)
    assert "dataset" not in broken.outputs
    builder = LoopWorkChain.get_builder_from_loop(broken)
    assert (builder.first_round.value, builder.rounds.value) == (2, 2)
    rounds = {link.link_label: link.node for link in broken.base.links.get_outgoing().all()}
    potential = rounds["round_01_train"].outputs.potential
    assert builder.train.train.potential.uuid == potential.uuid
    accepted = rounds["round_01_validate"].outputs.accepted
    assert len(builder.dataset) == 1 + len(accepted)
    assert "energy" in accepted.structure_labels
    assert builder.dataset.structure_labels == ["density"]
    assert [*builder.earlier] == ["round_01"]
    assert builder.earlier["round_01"]["accepted"] == len(accepted)
    with pytest.raises(ValueError, match="is a TrainWorkChain, no loop"):
        LoopWorkChain.get_builder_from_loop(rounds["round_01_train"])


@pytest.mark.parametrize(
    ("stop", "rows", "why"),
    [
        ({}, [{"accepted": 0, "yield": 0.0}], ""),
        ({"min_accepted": 2}, [{"accepted": 1, "yield": 0.5}], "accepted fewer than 2"),
        ({"min_accepted": 2, "patience": 2}, [{"accepted": 1, "yield": 0.5}], ""),
        ({"min_yield": 0.1}, [{"accepted": 1, "yield": 0.05}], "less than 0.1 of the generated"),
        ({"recovered": 1.0}, [{"accepted": 1, "yield": 0.1}], "1 of 1 known structures were found"),
    ],
)
def test_a_loop_ends_when_its_rounds_say_so(
    stop: dict[str, Any], rows: list[Any], why: str, engine_code: Any, diamond_frames: Frames
) -> None:
    dataset = FramesData(diamond_frames).store()
    builder = build(engine_code, dataset, dataset, rounds=5)
    builder.stop = stop
    loop = instantiate_process(get_manager().get_runner(), builder)
    loop.setup()
    assert loop.should_run_round()
    loop.ctx.table = {
        f"round_{number:02d}": orm.Dict({**row, "matches": {"diamond": 1}}).store()
        for number, row in enumerate(rows, 1)
    }
    assert loop.should_run_round() == (not why)
    assert why in loop.ctx.why


@pytest.mark.parametrize("asked", [True, "the queue closes"])
def test_a_loop_ends_when_it_is_asked_to(
    asked: Any, engine_code: Any, diamond_frames: Frames
) -> None:
    dataset = FramesData(diamond_frames).store()
    loop = instantiate_process(
        get_manager().get_runner(), build(engine_code, dataset, dataset, rounds=2)
    )
    loop.setup()
    assert loop.should_run_round()
    orm.load_node(loop.node.pk).base.extras.set("stop", asked)
    assert not loop.should_run_round()
    assert loop.ctx.why == "asked to stop" + (": the queue closes" if asked is not True else "")
    # To end with nothing, when asked to, is no fault of the rules.
    assert loop.finish() is None


def test_a_referee_in_every_round(engine_code: Any, diamond_frames: Frames) -> None:
    diamond = to_structure(diamond_frames, 0).store()
    dataset = frames_from_structures(diamond=diamond)
    builder = build(engine_code, dataset, dataset, rounds=2)
    emt = {"calculator": "ase.calculators.emt:EMT", "cell": "hydrostatic", "fmax": 0.5}
    referee = {"referee": "ase", "code": engine_code, "settings": emt, "references": dataset}
    judged = with_referees({"rules": builder.validate.rules.get_dict()}, {"emt": referee})
    builder.validate.rules = judged["rules"]
    builder.validate.referees = judged["referees"]
    builder.validate.adopt = "emt"
    builder.validate.max_judged = 3
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message

    # the references are judged once
    judges = [one for one in node.called_descendants if one.process_label == "JudgeWorkChain"]
    judges.sort(key=lambda one: one.pk)
    assert [len(jobs_of(one)) for one in judges] == [2, 1]
    assert judges[1].inputs.references.uuid == judges[0].outputs.references.uuid

    for key, frames in results["judged"].items():
        labels = frames.get_frames().structure
        assert 1 <= len(frames) <= 3
        good = labels["emt_verdict"] == "converged"
        assert np.isfinite(labels["emt_above_hull"][good]).all()
        scored = results["scored"][key].get_frames()
        energies = scored.structure["energy"][labels["scored_row"]]
        np.testing.assert_array_equal(labels["energy"], energies)
    row = results["rounds"]["rounds"][0]
    assert row["judged"] >= row["emt_converged"] >= row["accepted"] >= 1
    assert np.isfinite(row["emt_lowest_above_hull"])

    # from an accepted structure back: the referee's run, the potential, the diamond
    structure = extract_structure(results["accepted"], orm.Int(0))
    walk = ancestors(structure)
    run = next(job for job in jobs_of(judges[0]) if job.process_label == "RelaxCalculation")
    potential = next(job for job in jobs_of(node) if job.process_label == "TrainCalculation")
    assert {diamond.uuid, run.uuid, potential.outputs.potential.uuid} <= walk
