"""What is in `overrides` is what runs, or it is refused in a line."""

from __future__ import annotations

from typing import Any

import pytest
from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.generate import GenerateWorkChain
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


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"validate": None}, "'validate' of LoopWorkChain must be a table of inputs, is None"),
        ({"train": {"train": None}}, "'train' of LoopWorkChain.train must be a table of inputs"),
        (
            {"train": {"train": {"monitors": {"silent": 5}}}},
            "`train.train.monitors.silent` must be a table, is a int",
        ),
        ({"train": {"train": {"monitors": [1]}}}, "'monitors' of LoopWorkChain.train.train must"),
        ({"validate": {"rules": [1]}}, "`rules` must be a table, is a list"),
    ],
)
def test_what_is_no_table_is_refused(
    code: Any, diamond_frames: Frames, overrides: dict[str, Any], says: str
) -> None:
    dia, referees = FramesData(diamond_frames), {"ase": {"code": code}}
    with pytest.raises((TypeError, ValueError), match=says):
        LoopWorkChain.get_builder_from_protocol(code, dia, "fast", overrides, referees=referees)


def test_a_search_cannot_do_without_its_job(code: Any, potential_data: Any) -> None:
    with pytest.raises(ValueError, match="'generate' of GenerateWorkChain must be a table"):
        GenerateWorkChain.get_builder_from_protocol(
            code, potential_data, "fast", {"generate": None}
        )


def test_nothing_is_as_absent(code: Any, diamond_frames: Frames) -> None:
    frames = FramesData(generated(diamond_frames))
    referees = {"ase": {"code": code, "settings": None}}
    for rules in (None, orm.Dict({"valid": True, "unique": True})):
        builder = ValidateWorkChain.get_builder_from_protocol(
            code, frames, "fast", {"rules": rules}, referees=referees
        )
        assert builder.rules.get_dict() == {
            "valid": True,
            "unique": True,
            "ase_verdict": "converged",
        }
        assert "settings" not in builder.referees["ase"]
    with pytest.raises(ValueError, match=r"`referees\.ase` lacks a `code`"):
        ValidateWorkChain.get_builder_from_protocol(
            code, frames, "fast", referees={"ase": {"code": None}}
        )
