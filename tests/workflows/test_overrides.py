"""What is in `overrides` is what runs, or it is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest
from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.train import TrainWorkChain
from aiida_rm.workflows.validate import ValidateWorkChain
from tests.jobs import generated, perturbed


@pytest.fixture
def code(aiida_code_installed: Any) -> orm.InstalledCode:
    return aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")


def test_nodes_in_overrides_stay(code: Any, diamond_frames: Frames, potential_data: Any) -> None:
    dia = FramesData(diamond_frames)
    loop = LoopWorkChain.get_builder_from_protocol(code, dia, "fast", {"known": dia})
    assert loop.known is dia
    frames = FramesData(perturbed(diamond_frames))
    override = {"train": {"potential": potential_data}}
    train = TrainWorkChain.get_builder_from_protocol(code, frames, "fast", override)
    assert train.train.potential is potential_data
    judged = FramesData(generated(diamond_frames))
    nodes = {"references": dia, "known": dia, "null": judged}
    override = {"score": nodes}
    validate = ValidateWorkChain.get_builder_from_protocol(code, judged, "fast", override)
    assert {name: validate.score[name] for name in nodes} == nodes
    override = {"score": {**nodes, "null": None}}
    validate = ValidateWorkChain.get_builder_from_protocol(code, judged, "fast", override)
    assert "null" not in validate.score
