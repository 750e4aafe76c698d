"""What work chains say of the processes that they called."""

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
from aiida_rm.workflows.common import verdict
from aiida_rm.workflows.validate import ValidateWorkChain
from tests.jobs import generated


def ended(state: ProcessState) -> orm.CalcJobNode:
    node = orm.CalcJobNode()
    node.set_process_state(state)
    return node


def test_verdicts() -> None:
    node = ended(ProcessState.FINISHED)
    node.set_exit_status(400)
    node.set_exit_message("The walltime was over.")
    assert verdict(node) == "[400] The walltime was over."
    assert verdict(ended(ProcessState.KILLED)) == "no exit status: it was killed"
    node = ended(ProcessState.EXCEPTED)
    assert verdict(node) == "an error of AiiDA's (it says no more)"
    node.set_exception("Traceback\nValueError: no such file\n")
    assert verdict(node) == "an error of AiiDA's (ValueError: no such file)"


@pytest.mark.parametrize(
    ("state", "says"),
    [
        (ProcessState.KILLED, "ended with no exit status: it was killed"),
        (ProcessState.EXCEPTED, "ended with an error of AiiDA's"),
    ],
)
def test_a_scoring_without_an_exit_status(
    aiida_code_installed: Any, diamond_frames: Frames, state: ProcessState, says: str
) -> None:
    code = aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")
    frames = FramesData(generated(diamond_frames))
    builder = ValidateWorkChain.get_builder_from_protocol(code, frames, "fast")
    chain = instantiate_process(get_manager().get_runner(), builder)
    node = ended(state)
    node.base.links.add_incoming(chain.node, LinkType.CALL_CALC, "score")
    chain.ctx.score = node.store()
    code_of_exit = chain.inspect_score()
    assert code_of_exit.status == 316
    assert f"The scoring <{node.pk}> {says}" in code_of_exit.message
    assert "None" not in code_of_exit.message
