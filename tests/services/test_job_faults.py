"""What can befall jobs and their folders: the loop ends with the figures of an undisturbed one."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import run_get_node
from aiida.manage.caching import enable_caching

from aiida_rm.calculations import base
from aiida_rm.engine import files
from aiida_rm.workflows.train import TrainWorkChain
from tests.services.conftest import figures, jobs_of
from tests.services.misfortune import write_engine

pytestmark = pytest.mark.services

PLAN = {
    "perturb": ["killed_at_work"],
    "train": [
        "walltime",
        "walltime",
        "walltime",
        "killed_in_checkpoint",
        "flipped_checkpoint",
        "truncated_checkpoint",
        "full_disk_for_a_while",
    ],
    "generate": ["killed_at_work", "killed_in_search", "full_disk"],
    "score": ["killed_at_work"],
    "relax": ["killed_at_work"],
}
#: How each job ends.
ENDS = {
    "Perturb": [103, 0],
    "Train": [400, 400, 400, 404, 404, 404, 0],
    "Generate": [103, 404, 306, 0],
    "Score": [103, 0],
    "Relax": [103, 0],
}


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder for jobs on a disk of 64 MB."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("a small file system cannot be mounted here (it needs root)")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def computer(aiida_computer: Any, scratch: Path) -> orm.Computer:
    made = aiida_computer(transport_type="core.local")
    made.set_workdir(str(scratch))
    made.configure(safe_interval=0, use_login_shell=False)
    return made


def test_everything_that_can_befall_jobs(
    computer: orm.Computer,
    scratch: Path,
    small_loop: Any,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cleaned = []
    go_on = TrainWorkChain._do_not_count

    def clean_and_go_on(self: TrainWorkChain) -> None:
        """Remove all folders of jobs, as the purge of a cluster does."""
        for folder in list(scratch.iterdir()):
            shutil.rmtree(folder)
            cleaned.append(folder)
        go_on(self)

    monkeypatch.setattr(TrainWorkChain, "_do_not_count", clean_and_go_on)
    program = write_engine(tmp_path / "engine", PLAN)
    builder = small_loop(computer, program=program)
    _, node = run_get_node(builder)
    assert ends_of(node) == ENDS
    assert len(cleaned) >= 6  # between each two segments
    assert node.is_finished_ok, node.exit_message
    last = [job for job in jobs_of(node) if job.process_label == "TrainCalculation"][-1]
    said = last.outputs.retrieved.base.repository.get_object_content(files.STDOUT)
    assert "training goes on without a checkpoint" in said
    assert figures(node) == undisturbed

    # a replay takes all from the cache but the search, which was never whole in one job
    with enable_caching():
        _, replay = run_get_node(builder)
    assert ends_of(replay) == {kind: [0] for kind in ENDS} | {"Train": ENDS["Train"]}
    computed = [job for job in jobs_of(replay) if not job.base.caching.is_created_from_cache]
    assert [job.process_label for job in computed] == ["GenerateCalculation"]
    assert figures(replay) == undisturbed


@pytest.mark.services("slurm")
def test_what_slurm_ends(
    aiida_computer: Any,
    small_loop: Any,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A training that overruns its two minutes, is killed once more, and loses its node."""
    monkeypatch.setattr(base, "WALLTIME_MARGIN", 1e6)  # the engine hears of no walltime
    computer = aiida_computer(scheduler_type="core.slurm", transport_type="core.local")
    computer.configure(safe_interval=0, use_login_shell=False)
    plan = {"train": ["killed_at_limit", "cancelled", "node_fails"]}
    builder = small_loop(computer, program=write_engine(tmp_path / "engine", plan))
    builder.train.train.metadata.options.max_wallclock_seconds = 120
    _, node = run_get_node(builder)
    assert node.is_finished_ok, node.exit_message
    assert ends_of(node) == {kind: [0] for kind in ENDS} | {"Train": [404, 404, 404, 0]}
    late, cancelled, lost = (job for job in jobs_of(node) if job.exit_status == 404)
    for job, state in ((late, "TIMEOUT"), (cancelled, "CANCELLED"), (lost, "NODE_FAIL")):
        assert state in job.get_detailed_job_info()["stdout"]
    assert figures(node) == undisturbed


def ends_of(node: orm.WorkChainNode) -> dict[str, list[int]]:
    """Exit codes of all jobs of a loop, by kind, in order."""
    ends: dict[str, list[int]] = {}
    for job in jobs_of(node):
        kind = job.process_label.removesuffix("Calculation")
        ends.setdefault(kind, []).append(job.exit_status)
    return ends
