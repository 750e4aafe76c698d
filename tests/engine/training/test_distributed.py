"""Several processes: who is who, the same result as one, and one word when one fails."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.errors import FramesError, OutOfMemoryError, SettingsError, by_code
from aiida_rm.engine.training.distributed import Place, Team, find_place, first_host
from tests.engine.program import metrics, prepare, results
from tests.engine.training.processes import (
    LIMIT,
    SPOILT,
    TRAIN,
    close,
    finish,
    folder,
    launch,
    meddle,
)
from tests.engine.training.test_trainer import untimed

HERE = Path("/scratch/job")


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


def test_the_first_failure_counts() -> None:
    """Others hear of it and fail as well; what they say then must not hide why."""
    teams = [Team(Place(rank, 3)) for rank in range(3)]
    store = torch.distributed.HashStore()
    for team in teams:
        team._store = store
    assert teams[2].tell(FramesError("structure 7 is of cheese"))
    with pytest.raises(FramesError) as heard:
        teams[1]._raise_failure()
    teams[1].tell(heard.value)
    with pytest.raises(FramesError, match=r"^process 2 of 3: structure 7 is of cheese$"):
        teams[0]._raise_failure()


# Real processes.


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


#: The walltime is over after so many steps.
CUT = """
from aiida_rm.engine.job import Job
calls = iter(range(1, 10**6))
Job.should_stop = lambda job: 'walltime' if next(calls) == {step} else None
"""


#: Epochs of 3 steps.
SEVERAL = {"batch_atoms": 160, "epochs": 3}
#: Of fresh copies.
RECIPE = {"recipe": {"samples": 60, "min_atoms": 8}}
#: A training, and others that are cut after some steps and go on, all by the same processes.
TWICE = """
import os, sys
from pathlib import Path
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.training.distributed import Team, find_place
from aiida_rm.engine.training.trainer import Trainer
file = Path(sys.argv[1])
team = Team(find_place(os.environ, file.parent))
job = Job(file, 'train', team)
team.join('cpu')
frames = Frames.load(job.path('input_frames'))
def run(name, stop=None, state=None):
    trainer = Trainer(frames, job.settings, team=team)
    if state:
        trainer.restore(state)
    # Only the second process wants to stop.
    reached = lambda: 'walltime' if trainer.progress.step + 1 == stop and team.rank else None
    checkpoint = job.path(name + '.state')
    outcome = trainer.run(reached, checkpoint=checkpoint)
    assert outcome.stop_reason == ('walltime' if stop else 'completed')
    team.sum([0])
    if team.leads:
        outcome.potential.save(job.path(name))
    return checkpoint
run('whole')
for step in (2, 3, 5):
    run(f'resumed-{step}', state=run('cut', stop=step))
team.leave()
"""


@pytest.mark.parametrize("draw", ["fresh", "stored"])
def test_cut_anywhere_and_resumed(draw: str, tmp_path: Path) -> None:
    """Two processes give the same bytes again: within an epoch, at its end, in the next one."""
    file = folder(tmp_path, draw=draw, **SEVERAL, **(RECIPE if draw == "fresh" else {}))
    code = tmp_path / "twice.py"
    code.write_text(TWICE)
    codes, said = finish(launch(file, command=[sys.executable, str(code), str(file)]))
    assert codes == [0, 0], said
    whole = (tmp_path / "whole").read_bytes()
    for step in (2, 3, 5):
        assert (tmp_path / f"resumed-{step}").read_bytes() == whole, step


@pytest.mark.slow
@pytest.mark.parametrize(("draw", "step"), [("fresh", 5), ("fresh", 6), ("stored", 4)])
def test_cut_with_workers_and_resumed(draw: str, step: int, tmp_path: Path) -> None:
    """The same with the program: what the workers were ahead of comes again as it was."""
    settings = {**SEVERAL, "workers": 1, "draw": draw, **(RECIPE if draw == "fresh" else {})}
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert finish(launch(folder(whole, **settings)))[0] == [0, 0]
    file = folder(parts, **settings)
    cut = meddle(tmp_path, CUT.format(step=step))
    assert finish(launch(file, only=step % 2, **cut))[0] == [0, 0]
    assert results(parts)["stop_reason"] == "walltime"
    assert results(parts)["summary"]["steps"] == step
    (parts / files.OUTPUT_STATE).replace(parts / files.INPUT_STATE)
    assert finish(launch(file))[0] == [0, 0]
    assert results(parts)["summary"]["steps"] == results(whole)["summary"]["steps"] == 9
    made = [(at / files.OUTPUT_POTENTIAL).read_bytes() for at in (whole, parts)]
    assert made[0] == made[1]
    for one, other in zip(metrics(whole), metrics(parts), strict=True):
        assert untimed(one) == untimed(other)


def test_more_processes_than_structures_in_a_batch(tmp_path: Path) -> None:
    """Who has nothing to do waits for the others."""
    settings = {"batch_atoms": 1, "epochs": 2, "draw": "fresh", "validation_fraction": 0.2}
    settings["recipe"] = {"samples": 5, "min_atoms": 8}
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["train", str(folder(one, **settings))]) == 0
    assert finish(launch(folder(two, **settings)))[0] == [0, 0]

    assert close(one, two)


def test_a_signal_to_one_stops_all(tmp_path: Path) -> None:
    file = folder(tmp_path, epochs=100_000, draw="fresh", **RECIPE)
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
    spoilt = meddle(tmp_path, SPOILT)
    codes, said = finish(launch(file, only=rank, **spoilt))
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
    monkeypatch.delenv("RANK")
    assert main(["generate", str(file), "--processes", "3"]) == 1
    assert "runs as one process, not 3" in results(tmp_path)["error"]["message"]
