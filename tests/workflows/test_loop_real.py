"""A real loop through AiiDA: one diamond, two rounds, two jobs a search."""

from __future__ import annotations

from typing import Any

from aiida import orm
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching

from aiida_rm.calculations.functions import extract_structure, frames_from_structures
from aiida_rm.data.converters import to_structure
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
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
