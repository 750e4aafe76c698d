"""Which training state a job goes on from, and that no other one is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.errors import StateError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings
from tests.engine.program import TRAIN, metrics, prepare, results


@pytest.fixture
def cut_short(tmp_path: Path, diamond_frames: Frames) -> Path:
    """The settings file of a training that left a state; again, it would end."""
    file = prepare(tmp_path / "train", "train", TRAIN, walltime_seconds=1e-3)
    copies = perturb(diamond_frames, PerturbSettings(samples=40))
    copies.save(file.parent / files.INPUT_FRAMES)
    assert main(["train", str(file)]) == 0
    assert (file.parent / files.OUTPUT_STATE).exists()
    return prepare(file.parent, "train", TRAIN)


def test_a_second_training_spares_the_state_of_the_first(cut_short: Path) -> None:
    folder = cut_short.parent
    state = (folder / files.OUTPUT_STATE).read_bytes()
    assert main(["train", str(cut_short)]) == 1
    error = results(folder)["error"]
    assert error["code"] == "bad_state"
    assert "rename it to 'input_state.safetensors' to go on" in error["message"]
    assert "to begin anew" in error["message"]
    assert (folder / files.OUTPUT_STATE).read_bytes() == state
    # As it says.
    (folder / files.OUTPUT_STATE).replace(folder / files.INPUT_STATE)
    assert main(["train", str(cut_short)]) == 0
    assert results(folder)["status"] == "finished"
    assert [line["epoch"] for line in metrics(folder)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"])
def test_started_again_by_launcher_or_scheduler(
    cut_short: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same job in the same folder goes on."""
    monkeypatch.setenv(name, "1")
    assert main(["train", str(cut_short)]) == 0
    assert "resumed after" in capsys.readouterr().out
    assert results(cut_short.parent)["status"] == "finished"


def test_of_given_and_own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job(prepare(tmp_path / "job", "train", TRAIN), "train")
    given, own, previous = (
        job.path(name) for name in (files.INPUT_STATE, files.OUTPUT_STATE, files.PREVIOUS_STATE)
    )
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert job.state_to_go_on_from() is None
    # Killed between two renamings.
    previous.write_text("older")
    with pytest.raises(StateError, match=r"'previous_training_state\.safetensors' is of"):
        job.state_to_go_on_from()
    given.write_text("newer")
    assert job.state_to_go_on_from() == given
    shutil.copy(given, own)
    assert job.state_to_go_on_from() == given
    own.write_text("newest")
    with pytest.raises(StateError, match="to go on from the given one"):
        job.state_to_go_on_from()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert job.state_to_go_on_from() == own
