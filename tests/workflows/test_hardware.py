"""What `gpus` and `nodes` put into submit scripts, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_rm.calculations.generate import GenerateCalculation
from aiida_rm.calculations.train import TrainCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.workflows.generate import GenerateWorkChain
from aiida_rm.workflows.loop import LoopWorkChain
from aiida_rm.workflows.train import TrainWorkChain
from tests.jobs import perturbed

PBS_SELECT = "#PBS -l select=2:mpiprocs=4:ngpus=4"


@pytest.fixture
def code_on(aiida_computer: Any, aiida_code_installed: Any) -> Any:
    """``code_on(scheduler)``: the engine on a computer with that scheduler."""

    def make(scheduler: str, **more: Any) -> orm.InstalledCode:
        label = f"machine-{scheduler}"
        computer = aiida_computer(
            label=label, transport_type="core.local", scheduler_type=scheduler
        )
        computer.configure()
        return aiida_code_installed(
            label=f"rm-{scheduler}-{'-'.join(map(str, more.values()))}",
            computer=computer,
            filepath_executable="/opt/bin/aiida-rm-engine",
            **more,
        )

    return make


@pytest.fixture
def frames(diamond_frames: Frames) -> FramesData:
    return FramesData(perturbed(diamond_frames))


def script(
    job: Any, inputs: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, list[str]]:
    """The last line of the submit script of a dry run, and all lines."""
    monkeypatch.chdir(folder)
    inputs.metadata.dry_run = True
    inputs.metadata.store_provenance = False
    _, node = run_get_node(job, **inputs._inputs(prune=True))
    lines = (Path(node.dry_run_info["folder"]) / "_aiidasubmit.sh").read_text().splitlines()
    return next(line for line in reversed(lines) if "aiida-rm-engine" in line), lines


@pytest.mark.parametrize(
    ("scheduler", "nodes", "asks", "command"),
    [
        (
            "core.slurm",
            None,
            ["#SBATCH --nodes=1", "#SBATCH --ntasks-per-node=4", "#SBATCH --gres=gpu:4"],
            "'/opt/bin/aiida-rm-engine' 'train' 'settings.json' '--processes' '4'",
        ),
        (
            "core.slurm",
            2,
            ["#SBATCH --nodes=2", "#SBATCH --ntasks-per-node=4", "#SBATCH --gres=gpu:4"],
            "'mpirun' '-np' '8' '/opt/bin/aiida-rm-engine' 'train' 'settings.json'",
        ),
        (
            "rm.pbspro",
            2,
            [PBS_SELECT, 'export MASTER_ADDR=$(head -n 1 "$PBS_NODEFILE")'],
            "'mpirun' '-np' '8' '/opt/bin/aiida-rm-engine' 'train' 'settings.json'",
        ),
        (
            "core.direct",
            None,
            [],
            "'/opt/bin/aiida-rm-engine' 'train' 'settings.json' '--processes' '4'",
        ),
    ],
)
def test_a_training_takes_all(
    scheduler: str,
    nodes: int | None,
    asks: list[str],
    command: str,
    code_on: Any,
    frames: FramesData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    builder = TrainWorkChain.get_builder_from_protocol(
        code_on(scheduler), frames, gpus=4, nodes=nodes
    )
    assert builder.train.settings["device"] == "cuda"
    last, lines = script(TrainCalculation, builder.train, tmp_path, monkeypatch)
    for line in asks:
        assert line in lines
    assert last.startswith(command)
    assert sum("select=" in line or "ngpus" in line for line in lines) == ("pbs" in scheduler)


@pytest.mark.parametrize(
    ("scheduler", "asks", "jobs"),
    [
        ("core.slurm", "#SBATCH --gres=gpu:1", 8),
        ("rm.pbspro", "#PBS -l select=1:mpiprocs=1:ngpus=1", 8),
        ("core.direct", "", 1),
    ],
)
def test_a_search_takes_one_job_a_gpu(
    scheduler: str,
    asks: str,
    jobs: int,
    code_on: Any,
    potential_data: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    nodes = None if scheduler == "core.direct" else 2
    build = GenerateWorkChain.get_builder_from_protocol
    code = code_on(scheduler)
    builder = build(code, potential_data, gpus=4, nodes=nodes)
    assert builder.n_jobs.value == jobs if jobs > 1 else "n_jobs" not in builder
    last, lines = script(GenerateCalculation, builder.generate, tmp_path, monkeypatch)
    assert not asks or asks in lines
    assert last.startswith("'/opt/bin/aiida-rm-engine' 'generate'")
    own = {"n_jobs": 3, "generate": {"settings": {"device": "cpu"}}}
    chosen = build(code, potential_data, overrides=own, gpus=4)
    assert chosen.n_jobs.value == 3
    assert chosen.generate.settings["device"] == "cpu"


def test_a_loop_asks_where_it_pays(code_on: Any, diamond_frames: Frames) -> None:
    builder = LoopWorkChain.get_builder_from_protocol(
        code_on("core.slurm"),
        FramesData(diamond_frames),
        options={"queue_name": "gpu", "resources": {"num_cores_per_mpiproc": 8}},
        overrides={
            "train": {
                "train": {"metadata": {"options": {"custom_scheduler_commands": "#SBATCH --mem=0"}}}
            }
        },
        gpus=2,
        nodes=2,
    )
    training = builder.train.train.metadata.options
    assert training.resources == {
        "num_machines": 2,
        "num_mpiprocs_per_machine": 2,
        "num_cores_per_mpiproc": 8,
    }
    assert training.custom_scheduler_commands == "#SBATCH --gres=gpu:2\n#SBATCH --mem=0"
    search = builder.generate.generate.metadata.options
    assert search.custom_scheduler_commands == "#SBATCH --gres=gpu:1"
    assert builder.generate.n_jobs.value == 4
    for job in (builder.perturb, builder.validate.score):
        assert "custom_scheduler_commands" not in job.metadata.options
        assert job.metadata.options.queue_name == "gpu"


def test_own_options_win(code_on: Any, frames: FramesData) -> None:
    own = "#SBATCH --gpus-per-node=a100:2"
    builder = TrainWorkChain.get_builder_from_protocol(
        code_on("core.slurm"),
        frames,
        options={"custom_scheduler_commands": own, "withmpi": True},
        gpus=2,
    )
    assert builder.train.metadata.options.custom_scheduler_commands == own
    assert builder.train.metadata.options.withmpi is True


@pytest.mark.parametrize(
    ("scheduler", "asked", "says"),
    [
        ("core.slurm", {"gpus": 0}, "`gpus` is 0, must be a whole number .* leave it out for none"),
        ("core.slurm", {"gpus": 0.5}, "`gpus` is 0.5, must be a whole number between 1 and 64"),
        ("core.slurm", {"gpus": True}, "`gpus` is True"),
        ("core.slurm", {"gpus": 128}, "`gpus` is 128, .* it counts those of each machine"),
        ("core.slurm", {"gpus": 1, "nodes": -1}, "`nodes` is -1"),
        ("core.direct", {"gpus": 1, "nodes": 2}, "core.direct knows one machine"),
        ("core.pbspro", {"gpus": 1}, "computer up with the scheduler rm.pbspro"),
        ("core.sge", {"gpus": 1}, "how to ask core.sge for GPUs is not known; .*`options`"),
    ],
)
def test_nonsense_is_refused(
    scheduler: str, asked: dict[str, Any], says: str, code_on: Any, frames: FramesData
) -> None:
    with pytest.raises(ValueError, match=says):
        TrainWorkChain.get_builder_from_protocol(code_on(scheduler), frames, **asked)


def test_codes_that_cannot(code_on: Any, frames: FramesData, tmp_path: Path) -> None:
    code = code_on("core.slurm", with_mpi=False)
    with pytest.raises(ValueError, match=r"with_mpi: false.*one machine"):
        TrainWorkChain.get_builder_from_protocol(code, frames, gpus=2, nodes=2)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "run.sh").write_text("#!/bin/sh\n")
    portable = orm.PortableCode(
        label="portable", filepath_files=tmp_path / "code", filepath_executable="run.sh"
    )
    with pytest.raises(ValueError, match="give `computer`"):
        TrainWorkChain.get_builder_from_protocol(portable, frames, gpus=2)
