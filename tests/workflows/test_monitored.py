"""Trainings that monitors end, with the real engine, core.local and core.direct."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.train import TrainWorkChain
from tests.workflows.conftest import TINY

#: Enough for the engine to be caught between its first state and its end.
EPOCHS = 100
#: The first time, the engine is killed after a checkpoint; what its job does then comes below.
KILLED_ONCE = f"""#!/bin/bash
if [ -e {{mark}} ]; then exec {{engine}} "$@"; fi
touch {{mark}}
{{engine}} "$@" &
until [ -e {files.OUTPUT_STATE} ]; do
    kill -0 $! || exit 1
    sleep 0.01
done
kill -9 $!
wait
"""
#: It hangs for two hours.
HANGS_ONCE = f"""{KILLED_ONCE}
touch -d '2 hours ago' {files.STDOUT} {files.STDERR} {files.METRICS}
sleep 600
"""
#: It says that it waits on a GPU, and does not end.
WAITS_ONCE = f"""{KILLED_ONCE}
for epoch in 997 998 999; do
    echo '{{{{"epoch": '$epoch', "loss": 1.0, "waiting": 0.99, "gpu": 1.0}}}}' >> {files.METRICS}
done
sleep 600
"""
#: The first time, the last loss is far worse, and the engine does not end.
EXPLODES_ONCE = f"""#!/bin/bash
if [ -e {{mark}} ]; then exec {{engine}} "$@"; fi
touch {{mark}}
{{engine}} "$@"
rm {files.RESULTS}
sed -i '$ s/"loss": /"loss": 12345/' {files.METRICS}
sleep 600
"""


@pytest.fixture
def train(
    engine_code: Any, aiida_code_installed: Any, diamond_frames: Frames, tmp_path: Path
) -> Any:
    """``train(program, monitors)``: the outputs, and the work chain."""

    def run(
        program: str, monitors: dict[str, Any], epochs: int
    ) -> tuple[dict[str, Any], orm.WorkChainNode]:
        path = tmp_path / "engine.sh"
        engine = engine_code.filepath_executable
        path.write_text(program.format(mark=tmp_path / "once", engine=engine))
        path.chmod(0o755)
        settings = {
            **TINY["train"],
            "epochs": epochs,
            "batch_atoms": 8,
            "checkpoint_seconds": 0.0,
            "draw": "fresh",
            "recipe": {**TINY["perturb"], "samples": 8},
        }
        code = aiida_code_installed(
            label=f"troubled-{tmp_path.name}",
            filepath_executable=str(path),
            prepend_text="export OMP_NUM_THREADS=1",
        )
        builder = TrainWorkChain.get_builder_from_protocol(
            code,
            FramesData(diamond_frames),
            overrides={"train": {"settings": settings, "monitors": monitors}},
        )
        assert set(builder.train.monitors) == {"exploding", "silent", "gpu_unused"}
        outputs, node = run_get_node(builder)
        assert node.is_finished_ok, node.exit_message
        return outputs, node

    return run


def soon(**kwargs: float) -> dict[str, Any]:
    return {"kwargs": kwargs, "minimum_poll_interval": 1}


def test_a_silent_job_goes_on_from_its_state(train: Any) -> None:
    outputs, node = train(HANGS_ONCE, {"silent": soon(seconds=3600.0)}, EPOCHS)
    first, second = sorted(node.called, key=lambda job: job.pk)
    assert first.exit_status == 150
    assert "the engine has said nothing for" in first.exit_message
    assert second.is_finished_ok
    assert second.inputs.state.uuid == first.outputs.state.uuid
    assert second.inputs.state.step > 0
    assert len(outputs["learning_curves"].get_array("loss")) == EPOCHS


def test_an_exploding_job_begins_again_with_half_the_rate(train: Any) -> None:
    _, node = train(EXPLODES_ONCE, {"exploding": soon(factor=1000.0)}, 2)
    first, second = sorted(
        (one for one in node.called if isinstance(one, orm.CalcJobNode)), key=lambda job: job.pk
    )
    assert first.exit_status == 150
    assert first.exit_message.startswith("the training diverges: 'loss' is 1.23")
    assert "state" not in second.inputs
    assert second.inputs.settings["learning_rate"] == pytest.approx(5e-3)


def test_a_gpu_that_waits_gets_more_workers(train: Any) -> None:
    outputs, node = train(WAITS_ONCE, {"gpu_unused": soon(share=0.9, epochs=3)}, EPOCHS)
    first, second = sorted(
        (one for one in node.called if isinstance(one, orm.CalcJobNode)), key=lambda job: job.pk
    )
    assert first.exit_status == 150
    assert first.exit_message == "the GPU waits for data 99% of the time, for 3 epochs"
    assert second.is_finished_ok
    assert second.inputs.state.uuid == first.outputs.state.uuid
    assert second.inputs.settings["workers"] == 2
    assert second.inputs.settings.creator.process_label == "with_more_workers"
    assert len(outputs["learning_curves"].get_array("loss")) == EPOCHS
    # The same potential as that of a training which nothing befalls: the script has done its worst.
    undisturbed, node = train(WAITS_ONCE, {}, EPOCHS)
    assert len(node.called) == 1
    hashes = {one["potential"].base.repository.hash() for one in (outputs, undisturbed)}
    assert len(hashes) == 1
