"""What rm.loop does when a part of a round fails, without running any."""

from __future__ import annotations

from typing import Any

import pytest
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from plumpy import ProcessState

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
from tests import jobs


@pytest.fixture
def start(aiida_code_installed: Any, diamond_frames: Frames) -> Any:
    """``start(**inputs)``: a loop of two rounds in its first one."""

    def make(**inputs: Any) -> LoopWorkChain:
        code = aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")
        dataset = FramesData(diamond_frames).store()
        builder = LoopWorkChain.get_builder_from_protocol(code, dataset)
        for name, value in inputs.items():
            setattr(builder, name, value)
        loop = instantiate_process(get_manager().get_runner(), builder)
        loop.setup()
        loop.begin_round()
        return loop

    return make


def ended(status: int, **outputs: Any) -> orm.WorkChainNode:
    """A work chain that ended so."""
    node = orm.WorkChainNode().store()
    for name, value in outputs.items():
        label = name.replace("results_", "results__")
        value.store().base.links.add_incoming(node, LinkType.RETURN, label)
    node.set_process_state(ProcessState.FINISHED)
    node.set_exit_status(status)
    node.set_exit_message("as it said")
    return node


def test_a_member_that_fails_is_left_out(
    start: Any, potential_data: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = start(committee_size=2)
    second = potential_data.clone()
    loop.ctx.train = ended(0, potential=potential_data)
    loop.ctx.member_01 = ended(311)
    loop.ctx.member_02 = ended(0, potential=second)
    assert loop.inspect_train() is None
    assert loop.ctx.committee == {"member_02": second}
    sent: list[dict[str, Any]] = []

    def submit(_: Any, **inputs: Any) -> Any:
        sent.append(inputs)
        return ended(0)

    monkeypatch.setattr(loop, "submit", submit)
    loop.run_generate()
    assert dict(sent[-1]["generate"]["committee"]) == {"member_02": second}

    # In the next round it is trained anew, the other one goes on.
    loop.ctx.perturb = ended(0, frames=FramesData(jobs.perturbed(loop.ctx.dataset.get_frames())))
    sent.clear()
    loop.run_train()
    begun = [inputs["train"].get("potential") for inputs in sent]
    assert begun == [potential_data, None, second]


def test_without_any_member_there_is_no_committee(start: Any, potential_data: Any) -> None:
    loop = start(committee_size=1)
    loop.ctx.train = ended(0, potential=potential_data)
    loop.ctx.member_01 = ended(311)
    code = loop.inspect_train()
    assert code.status == 322
    assert "all members of the committee failed" in code.message
    assert loop.outputs["potential"].uuid == potential_data.uuid


def test_the_next_round_begins_whatever_is_missing(
    start: Any, potential_data: Any, diamond_frames: Frames
) -> None:
    """Some structures were not made, a referee brought nothing, and nothing was accepted."""
    loop = start()
    loop.ctx.train = ended(0, potential=potential_data, results=orm.Dict({"summary": {}}))
    assert loop.inspect_train() is None
    made = FramesData(jobs.generated(diamond_frames))
    loop.ctx.generate = ended(701, frames=made, results_job_000=orm.Dict({"wall_seconds": 1.0}))
    assert loop.inspect_generate() is None
    scored = FramesData(jobs.scored(jobs.generated(diamond_frames)))
    judged = scored.get_frames().with_labels(
        structure={"xtb_row": [0], "xtb_verdict": ["failed: the referee could not judge: it died"]}
    )
    loop.ctx.validate = ended(
        702, scored=scored, judged=FramesData(judged), results=orm.Dict({"summary": {"valid": 1}})
    )
    assert loop.inspect_validate() is None
    assert loop.end_round() is None
    assert loop.should_run_round()
    row = loop.ctx.table["round_01"]
    assert (row["generated"], row["judged"], row["xtb_converged"], row["accepted"]) == (1, 1, 0, 0)
    assert len(loop.ctx.dataset) == 1


@pytest.mark.parametrize(("stage", "status"), [("generate", 323), ("validate", 324)])
def test_a_stage_without_structures_ends_it_with_what_there_is(
    stage: str, status: int, start: Any, potential_data: Any
) -> None:
    loop = start()
    loop.ctx.train = ended(0, potential=potential_data)
    loop.inspect_train()
    loop.ctx[stage] = ended(314)
    code = getattr(loop, f"inspect_{stage}")()
    assert code.status == status
    assert "as it said" in code.message
    assert {"dataset", "potential"} <= {*loop.outputs}


@pytest.mark.parametrize(
    ("stop", "why"),
    [
        ({"min_accepted": 1, "patience": 2}, "each of the last 2 rounds accepted fewer than 1"),
        ({"min_accepted": 1, "patience": 3}, ""),
        ({"recovered": 1.0}, "1 of 1 known structures were found"),
    ],
)
def test_what_an_earlier_loop_found_counts(
    stop: dict[str, Any], why: str, start: Any, diamond_frames: Frames
) -> None:
    """As in one long loop; but who goes on gets a round at least."""
    row = {"accepted": 0, "yield": 0.0, "matches": {"diamond": 1}}
    known = FramesData(diamond_frames)
    loop = start(stop=stop, known=known, first_round=2, earlier={"round_01": orm.Dict(row)})
    assert loop.should_run_round()
    assert loop.ctx.why == ""
    loop.ctx.table = {"round_02": orm.Dict({"accepted": 0, "yield": 0.0}).store()}
    assert loop.should_run_round() == (not why)
    assert why in loop.ctx.why
