"""rm.judge between its steps: what a daemon has to keep."""

from __future__ import annotations

from typing import Any

import pytest
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.orm.utils.serialize import deserialize_unsafe, serialize

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.judge import JudgeWorkChain


@pytest.mark.parametrize(
    ("referee", "settings", "runs"),
    [
        ("xtb", {}, 2),
        ("shell", {"energy_pattern": "E(.*)"}, 2),
        ("ase", {"calculator": "ase.calculators.emt:EMT"}, 1),
    ],
)
def test_the_context_survives_a_restart(
    referee: str,
    settings: dict[str, Any],
    runs: int,
    aiida_code_installed: Any,
    molecule_frames: Frames,
) -> None:
    chain = instantiate_process(
        get_manager().get_runner(),
        JudgeWorkChain,
        frames=FramesData(molecule_frames).store(),
        referee=referee,
        code=aiida_code_installed(label=referee, filepath_executable="/bin/true"),
        settings=settings,
    )
    assert chain.setup() is None
    context = deserialize_unsafe(serialize(chain.ctx))
    assert len(context["jobs"]) == runs
    assert context["jobs"].keys() == context["rows"].keys()


def test_those_that_run_together_are_about_as_large(
    aiida_code_installed: Any, molecule_frames: Frames
) -> None:
    sizes = molecule_frames.counts.tolist()
    assert sizes == [3, 2]
    chain = instantiate_process(
        get_manager().get_runner(),
        JudgeWorkChain,
        frames=FramesData(molecule_frames.select([1, 0, 1])).store(),
        references=FramesData(molecule_frames.select([1])).store(),
        referee="xtb",
        code=aiida_code_installed(label="xtb", filepath_executable="/bin/true"),
    )
    chain.setup()
    assert chain.ctx.waiting == ["reference_row_000000", "row_000001", "row_000000", "row_000002"]
