"""Several processes: who is who, the same result as one, and one word when one fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.errors import OutOfMemoryError, SettingsError, by_code
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.training.distributed import Place, Team, find_place, first_host
from tests.engine.test_program import metrics, prepare, results
from tests.engine.training.test_trainer import crystals, stable_crystals

TRAIN = {
    "epochs": 3,
    "cutoff": 3.2,
    "channels": 3,
    "radial": 4,
    "l_max": 1,
    "hidden": [6],
    "threads": 1,
    "dtype": "float64",
    "batch_atoms": 60,
}
HERE = Path("/scratch/job")
#: A test that hangs fails long before the engine's own patience ends.
LIMIT = 120


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({}, (0, 1, 0)),
        ({"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}, (1, 4, 1)),
        ({"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "SLURM_PROCID": "1"}, (5, 8, 1)),
        ({"RANK": "1"}, (0, 1, 0)),
        (
            {
                "OMPI_COMM_WORLD_RANK": "3",
                "OMPI_COMM_WORLD_SIZE": "4",
                "OMPI_COMM_WORLD_LOCAL_RANK": "3",
                # mpirun starts its daemons by srun, one a node.
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "2",
                "SLURM_STEP_ID": "0",
            },
            (3, 4, 3),
        ),
        ({"PMI_RANK": "2", "PMI_SIZE": "3", "MPI_LOCALRANKID": "0"}, (2, 3, 0)),
        (
            {
                "SLURM_PROCID": "2",
                "SLURM_NTASKS": "4",
                "SLURM_LOCALID": "0",
                "SLURM_STEP_ID": "0",
            },
            (2, 4, 0),
        ),
        # One process in a batch script that asked for four tasks.
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}, (0, 1, 0)),
        # One task of a step within a larger job.
        (
            {
                "SLURM_PROCID": "0",
                "SLURM_NTASKS": "4",
                "SLURM_STEP_NUM_TASKS": "1",
                "SLURM_STEP_ID": "1",
            },
            (0, 1, 0),
        ),
        ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, (0, 1, 0)),
    ],
)
def test_the_environment_says_who_is_who(
    environment: dict[str, str], place: tuple[int, int, int]
) -> None:
    found = find_place(environment, HERE)
    assert (found.rank, found.size, found.local_rank) == place


def test_where_the_first_process_listens() -> None:
    torchrun = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "node7", "MASTER_PORT": "1234"}
    found = find_place(torchrun, HERE)
    assert (found.address, found.port) == ("node7", 1234)
    step = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}
    nodes = {"SLURM_STEP_NODELIST": "gpu[03-05,9]", "SLURM_JOB_ID": "77"}
    found = find_place({**step, **nodes}, HERE)
    assert found.address == "gpu03"
    assert 20_000 <= found.port < 32_000
    ports = {
        find_place({**step, **nodes, "SLURM_JOB_ID": job}, folder).port
        for job in ("77", "78")
        for folder in (HERE, Path("/other"))
    }
    assert len(ports) == 4
    # All processes of a job derive the same one.
    assert find_place({**step, **nodes, "SLURM_PROCID": "0"}, HERE).port == found.port
    ompi = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "4"}
    assert find_place(ompi, HERE).address == "localhost"
    with pytest.raises(SettingsError, match="several machines; set MASTER_ADDR"):
        find_place({**ompi, "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, HERE)


@pytest.mark.parametrize("rank", ["two", "4", "-1"])
def test_a_wrong_environment_is_told(rank: str) -> None:
    with pytest.raises(SettingsError, match="RANK"):
        find_place({"RANK": rank, "WORLD_SIZE": "4"}, HERE)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu03", "gpu03"),
        ("gpu[03-05,9],cpu1", "gpu03"),
        ("a-b2,c", "a-b2"),
        ("r1n[7]", "r1n7"),
        ("rack[1-2]-x,y", "rack1-x"),
    ],
)
def test_first_of_a_list_of_hosts(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize("size", [1, 2, 3])
def test_shares_make_the_batch_and_are_even(size: int) -> None:
    sizes = np.random.default_rng(0).integers(1, 9, 60)
    shares = [Team(Place(rank, size)).share(sizes) for rank in range(size)]
    assert np.array_equal(np.sum(shares, axis=0), np.ones(60))
    assert max(sizes[mine].sum() for mine in shares) <= sizes.sum() / size + 8
    # One structure, many processes: one gets it.
    assert sum(int(Team(Place(rank, size)).share([7])[0]) for rank in range(size)) == 1


def test_alone_nothing_is_sent() -> None:
    team, weight = Team(), torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.full((2,), 3.0)
    assert team.sum([1.0, 2.0]) == [1.0, 2.0]
    assert team.sum_gradients([weight], [torch.tensor(4.0), 0.0]) == [4.0, 0.0]
    assert team.agree("walltime") == "walltime"
    team.join("cpu")
    team.leave()
    assert team.leads
    assert torch.equal(weight.grad, torch.full((2,), 3.0))


def test_an_error_keeps_its_kind_on_the_way() -> None:
    assert isinstance(by_code("out_of_memory", "x"), OutOfMemoryError)
    assert by_code("never heard", "x").code == "internal"


# Real processes.


def folder(at: Path, **settings: Any) -> Path:
    """A training, ready to run."""
    file = prepare(at, "train", {**TRAIN, **settings})
    fresh = settings.get("draw") == "fresh"
    (stable_crystals() if fresh else crystals(60)).save(at / files.INPUT_FRAMES)
    return file


def launch(
    file: Path, *, count: int = 2, only: int = 1, **more: str
) -> list[subprocess.Popen[str]]:
    """Processes as mpirun would start them; ``more`` is for the environment of one alone."""
    processes = []
    for rank in range(count):
        environment = {
            **os.environ,
            "OMPI_COMM_WORLD_RANK": str(rank),
            "OMPI_COMM_WORLD_SIZE": str(count),
            "OMPI_COMM_WORLD_LOCAL_RANK": str(rank),
            **{name: value for name, value in more.items() if rank == only},
        }
        command = [sys.executable, "-m", "aiida_rm.engine", "train", str(file)]
        processes.append(
            subprocess.Popen(
                command,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return processes


def finish(processes: list[subprocess.Popen[str]]) -> tuple[list[int], list[str]]:
    """Exit statuses and what was said on the error streams; nobody may hang."""
    try:
        said = [process.communicate(timeout=LIMIT)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


def close(first: Path, second: Path) -> bool:
    a, b = (Potential.load(at / files.OUTPUT_POTENTIAL).state_dict() for at in (first, second))
    return all(torch.allclose(a[name], b[name], rtol=1e-9, atol=1e-11) for name in a)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("alone")
    assert main(["train", str(folder(at))]) == 0
    return at


def test_torchrun_gives_the_result_of_one_process(alone: Path, tmp_path: Path) -> None:
    file = folder(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "aiida_rm.engine", "train", str(file)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert close(alone, tmp_path)
    assert done.stdout.count("epoch 1 of 3") == 1
    assert results(tmp_path)["summary"]["processes"] == 2
    both = zip(metrics(alone), metrics(tmp_path), strict=True)
    for one, two in both:
        for name in ("loss", "validation_loss", "gradient_norm", "force_rmse"):
            assert two[name] == pytest.approx(one[name], rel=1e-9)


def test_mpirun_variables_stop_and_resume(alone: Path, tmp_path: Path) -> None:
    """Interrupted and resumed equals uninterrupted, byte by byte, on two processes."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finish(launch(folder(whole, workers=1)))[0] == [0, 0]
    assert close(alone, whole)
    folder(parts)
    assert finish(launch(prepare(parts, "train", TRAIN, walltime_seconds=1e-3)))[0] == [0, 0]
    assert results(parts)["stop_reason"] == "walltime"
    (parts / files.OUTPUT_STATE).replace(parts / files.INPUT_STATE)
    assert finish(launch(prepare(parts, "train", TRAIN)))[0] == [0, 0]
    assert results(parts)["summary"]["steps"] == results(whole)["summary"]["steps"]
    made = [(at / files.OUTPUT_POTENTIAL).read_bytes() for at in (whole, parts)]
    assert made[0] == made[1]
    assert [line["epoch"] for line in metrics(parts)] == [1, 2, 3]


def test_a_signal_to_one_stops_all(tmp_path: Path) -> None:
    file = folder(tmp_path, epochs=100_000, draw="fresh", recipe={"samples": 60, "min_atoms": 8})
    processes = launch(file)
    deadline = time.monotonic() + LIMIT
    lines = tmp_path / files.METRICS
    while time.monotonic() < deadline and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.1)
    processes[1].send_signal(signal.SIGTERM)
    assert finish(processes)[0] == [0, 0]
    assert results(tmp_path)["stop_reason"] == "signal"
    assert (tmp_path / files.OUTPUT_STATE).exists()


@pytest.mark.parametrize("rank", [0, 1])
def test_an_error_of_one_ends_all_with_one_message(tmp_path: Path, rank: int) -> None:
    file = folder(tmp_path, epochs=100_000)
    broken = tmp_path / "sitecustomize.py"
    broken.write_text(
        "import os\n"
        "if os.environ.get('SPOIL'):\n"
        "    from aiida_rm.engine import errors\n"
        "    from aiida_rm.engine.training import trainer as training\n"
        "    def spoilt(*_, **__):\n"
        "        raise errors.FramesError('structure 7 is of cheese')\n"
        "    training.Trainer._end_epoch = spoilt\n"
    )
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    codes, said = finish(launch(file, only=rank, SPOIL="1", PYTHONPATH=path))
    assert codes == [1, 1]
    error = results(tmp_path)["error"]
    assert error["code"] == "bad_frames"
    assert error["message"] == ("process 1 of 2: " if rank else "") + "structure 7 is of cheese"
    assert said[0].strip() == f"aiida-rm-engine: {error['message']}"
    assert "aiida-rm-engine" not in said[1]


def test_bad_settings_are_told_once(tmp_path: Path) -> None:
    codes, said = finish(launch(folder(tmp_path, epochs=0)))
    assert codes == [1, 1]
    assert "'epochs' is 0" in results(tmp_path)["error"]["message"]
    assert "Traceback" not in "".join(said)


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    processes = launch(folder(tmp_path, epochs=100_000))
    deadline = time.monotonic() + LIMIT
    lines = tmp_path / files.METRICS
    while time.monotonic() < deadline and not (lines.exists() and lines.stat().st_size):
        time.sleep(0.1)
    processes[1].kill()
    codes, _ = finish(processes)
    assert codes[0] == 1
    assert "ended without a word" in results(tmp_path)["error"]["message"]


def test_other_tasks_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = prepare(tmp_path, "generate", {})
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["generate", str(file)]) == 1
    assert "runs as one process, not 2" in results(tmp_path)["error"]["message"]
