"""A job that was unlucky runs once more, whichever chain it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida.engine import run_get_node

from aiida_rm.calculations.relax import RelaxCalculation
from aiida_rm.calculations.score import ScoreCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.parsers.frames import FramesParser
from aiida_rm.workflows.common import unlucky
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.validate import ValidateWorkChain
from tests.jobs import generated, job_node
from tests.workflows.conftest import TINY

EMT = {"calculator": "ase.calculators.emt:EMT", "relax": False}


@pytest.fixture
def unlucky_first(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The first job of each kind brings nothing back: its folder is gone when it is read."""
    counts: dict[str, int] = {}
    collect = FramesParser.collect

    def nothing(self: FramesParser, folder: Path) -> str | None:
        counts[self.TASK] = counts.get(self.TASK, 0) + 1
        return collect(self, folder / "gone" if counts[self.TASK] == 1 else folder)

    monkeypatch.setattr(FramesParser, "collect", nothing)
    return counts


@pytest.mark.services
def test_scores_and_referees(
    engine_code: Any, diamond_frames: Frames, unlucky_first: dict[str, int]
) -> None:
    builder = ValidateWorkChain.get_builder_from_protocol(
        engine_code,
        FramesData(generated(diamond_frames)),
        overrides={"score": {"settings": TINY["score"]}, "rules": {"emt_verdict": "converged"}},
        referees={"emt": {"referee": "ase", "code": engine_code, "settings": EMT}},
    )
    results, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert len(results["accepted"]) == 1
    labels = {link.link_label for link in node.base.links.get_outgoing().all()}
    assert {"score", "score_again"} <= labels
    jobs = [one for one in node.called_descendants if one.process_label.endswith("Calculation")]
    ended = sorted((one.process_label, one.exit_status) for one in jobs)
    relax, score = RelaxCalculation.__name__, ScoreCalculation.__name__
    assert ended == [(relax, 0), (relax, 304), (score, 0), (score, 304)]
    assert unlucky_first == {"score": 2, "relax": 2}


@pytest.mark.services
def test_a_loop_perturbs_once_more(
    engine_code: Any, diamond_frames: Frames, unlucky_first: dict[str, int]
) -> None:
    """And ends with the next stage, which has nothing to train with."""
    builder = LoopWorkChain.get_builder_from_protocol(
        engine_code,
        FramesData(diamond_frames),
        protocol="fast",
        overrides={
            "rounds": 1,
            "perturb": {"settings": TINY["perturb"]},
            "train": {"train": {"settings": {**TINY["train"], "device": "cuda"}}},
        },
    )
    _, node = run_get_node(builder)
    assert node.exit_status == 322
    assert unlucky_first == {"perturb": 2}
    labels = {link.link_label for link in node.base.links.get_outgoing().all()}
    assert {"round_01_perturb", "round_01_perturb_again"} <= labels


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (304, True),
        (140, True),
        (100, True),
        (103, True),
        (403, True),
        (202, False),
        (400, False),
        (0, False),
    ],
)
def test_what_is_bad_luck(
    status: int, expected: bool, aiida_localhost: Any, diamond_frames: Frames, tmp_path: Path
) -> None:
    (tmp_path / "nothing").write_text("")
    inputs = {"frames": FramesData(diamond_frames)}
    assert unlucky(job_node("perturb", aiida_localhost, inputs, tmp_path, status)) == expected
