"""The table of a loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.rounds import describe_round, summarise_rounds
from tests import jobs


def test_a_row_says_what_the_round_found(diamond_frames: Frames) -> None:
    frames = jobs.scored(jobs.generated(diamond_frames.select([0] * 4)))
    frames = frames.with_labels(
        structure={
            "uncertainty": np.array([0.1, np.nan, 0.3, 0.2]),
            "energy_per_atom": [np.nan] * 4,
        }
    )
    judged = frames.select([1, 2]).with_labels(
        structure={
            "scored_row": [1, 2],
            "pw_row": [0, 1],
            "pw_verdict": ["converged", "failed: it did"],
            "pw_energy_per_atom": [-155.0, -200.0],
        }
    )
    row = describe_round(
        orm.Int(2),
        FramesData(diamond_frames),
        FramesData(frames),
        orm.Dict({"wall_seconds": 10.0, "summary": {"validation": {"force_error": 0.5}}}),
        orm.Dict({"summary": {"valid": 3, "matches": {"diamond": 2}}}),
        FramesData(frames.select([1])),
        FramesData(judged),
        job_000=orm.Dict({"wall_seconds": 1.5}),
        job_001=orm.Dict({"wall_seconds": 2.0}),
    ).get_dict()
    assert row.pop("matches") == {"diamond": 2}
    assert row == {
        "round": 2,
        "dataset": 1,
        "generated": 4,
        "converged": None,
        "valid": 3,
        "unique": None,
        "novel": None,
        "accepted": 1,
        "yield": 0.25,
        "lowest_energy_per_atom": None,
        "median_uncertainty": 0.2,
        "force_error": 0.5,
        "judged": 2,
        "pw_converged": 1,
        "pw_lowest_energy_per_atom": -155.0,
        "seconds_training": 10.0,
        "seconds_generating": 3.5,
    }


@pytest.mark.parametrize(
    ("training", "scores"),
    [
        ({"summary": {"validation": [1]}}, {"summary": {"valid": {"a": 1}}}),
        ({"summary": {"validation": {"force_error": "low"}}}, {"summary": {"matches": 3}}),
        ({"summary": [], "wall_seconds": [1]}, {"summary": {"matches": [["diamond"]]}}),
        ({"wall_seconds": True}, {"summary": {"matches": {"diamond": [1]}}}),
        ({}, {"summary": "all is well"}),
    ],
)
def test_what_a_job_says_of_itself_is_foreign(
    training: dict[str, Any], scores: dict[str, Any], diamond_frames: Frames
) -> None:
    """Its files are; no round and no table fails for it."""
    labels = {"energy_per_atom": ["low"], "uncertainty": [[0.1, np.nan]]}
    given = FramesData(diamond_frames)
    scored = FramesData(jobs.scored(diamond_frames.with_labels(structure=labels)))
    nodes = {"dataset": given, "scored": scored}
    good = {"summary": {"valid": 1, "matches": {"diamond": 2}}}
    first = describe_round(orm.Int(1), training=orm.Dict(), scores=orm.Dict(good), **nodes)
    second = describe_round(
        orm.Int(2),
        training=orm.Dict(training),
        scores=orm.Dict(scores),
        job_000=orm.Dict({"wall_seconds": {"a": 1}}),
        **nodes,
    )
    told = second.get_dict()
    assert told["matches"] == {}
    assert told["valid"] is told["force_error"] is told["seconds_training"] is None
    table = summarise_rounds(round_01=first, round_02=second).get_dict()
    assert table["total"]["matches"] == {"diamond": 2}
    assert table["total"]["valid"] == 1


def test_the_table_adds_up() -> None:
    first: dict[str, Any] = {"generated": 10, "pw_converged": 8, "matches": {"diamond": 1}}
    second = {"generated": 5, "force_error": 0.5, "matches": {"diamond": 2, "bct4": 1}}
    table = summarise_rounds(
        round_02=orm.Dict({"round": 2, **second}),
        round_01=orm.Dict({"round": 1, **first}),
        stopped=orm.Str("enough"),
    ).get_dict()
    assert table["n_rounds"] == 2
    assert table["columns"] == ["round", "generated", "force_error", "pw_converged", "found"]
    assert table["rounds"] == [
        {"round": 1, "generated": 10, "pw_converged": 8, "force_error": None, "found": 1},
        {"round": 2, "generated": 5, "pw_converged": None, "force_error": 0.5, "found": 2},
    ]
    assert table["total"] == {
        "generated": 15,
        "pw_converged": 8,
        "matches": {"diamond": 3, "bct4": 1},
    }
    assert table["stopped"] == "enough"


def test_what_is_no_row_is_refused() -> None:
    _, node = summarise_rounds.run_get_node(a=orm.Int(1))
    assert node.exit_status == 201
    assert "'a' is a Int, no Dict" in node.exit_message
