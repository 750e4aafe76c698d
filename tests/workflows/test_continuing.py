"""What a loop that goes on takes from the one before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.loop import LoopWorkChain


def test_nothing_is_lost(aiida_localhost: Any, diamond_frames: Frames, tmp_path: Path) -> None:
    """Neither what is no node of its own, nor where a code without a computer ran."""
    (tmp_path / "run.sh").write_text("#!/bin/sh\n")
    code = orm.PortableCode(label="p", filepath_files=tmp_path, filepath_executable="run.sh")
    code.store()
    builder = LoopWorkChain.get_builder_from_protocol(
        code,
        FramesData(diamond_frames),
        "fast",
        {"generate": {"max_concurrent": 2}},
        computer=aiida_localhost,
        options={"max_wallclock_seconds": 600},
    )
    loop = instantiate_process(get_manager().get_runner(), builder).node
    job = orm.CalcJobNode(computer=aiida_localhost)
    job.set_process_type("aiida.calculations:rm.perturb")
    job.base.links.add_incoming(code, LinkType.INPUT_CALC, "code")
    job.base.links.add_incoming(loop, LinkType.CALL_CALC, "round_01_perturb")
    job.store()
    loop.set_process_state(ProcessState.KILLED)
    again = LoopWorkChain.get_builder_from_loop(loop)
    assert again.generate.max_concurrent.value == 2
    tasks = (again.perturb, again.train.train, again.generate.generate, again.validate.score)
    assert all(task.metadata.computer.pk == aiida_localhost.pk for task in tasks)
    assert all(task.metadata.options.max_wallclock_seconds == 600 for task in tasks)
