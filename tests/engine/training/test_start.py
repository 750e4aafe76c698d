"""Processes that the engine starts itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiida_rm.engine.__main__ import main
from aiida_rm.engine.training import start as start_module
from aiida_rm.engine.training.start import end_others
from tests.engine.program import prepare, results
from tests.engine.training.processes import LIMIT, SPOILT, TRAIN, close, folder, meddle


def start(file: Path, *more: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program, which starts the second process itself."""
    return subprocess.run(
        [sys.executable, "-m", "aiida_rm.engine", "train", str(file), "--processes", "2", *more],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def test_the_engine_starts_the_others(alone: Path, tmp_path: Path) -> None:
    file = folder(tmp_path)
    prepare(tmp_path, "train", TRAIN, processes=2)
    done = start(file)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch 1 of 3") == 1
    assert results(tmp_path)["summary"]["processes"] == 2
    assert close(alone, tmp_path)


def test_an_error_of_one_that_the_engine_started(tmp_path: Path) -> None:
    spoilt = "import os\nif os.environ.get('RANK') == '1':" + SPOILT.replace("\n", "\n    ")
    done = start(folder(tmp_path, epochs=100_000), **meddle(tmp_path, spoilt))
    assert done.returncode == 1
    assert results(tmp_path)["error"]["code"] == "bad_frames"
    assert done.stderr.strip() == "aiida-rm-engine: process 1 of 2: structure 7 is of cheese"


def test_bad_settings_start_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = folder(tmp_path, epochs=0)
    assert main(["train", str(file), "--processes", "2"]) == 1
    assert capfd.readouterr().err.count("aiida-rm-engine: ") == 1


def test_another_number_of_processes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher that is not known would train twice in the same folder."""
    file = prepare(tmp_path, "train", TRAIN, processes=2)
    assert main(["train", str(file)]) == 1
    assert "for 2 processes, but this one is among 1" in results(tmp_path)["error"]["message"]
    assert main(["train", str(file), "--processes", "0"]) == 1
    assert "'--processes' is 0" in results(tmp_path)["error"]["message"]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(["train", str(file), "--processes", "2"]) == 1
    assert "a launcher started 3 already" in results(tmp_path)["error"]["message"]


def test_who_does_not_hear_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_module, "_PATIENCE", 0.1)
    monkeypatch.setattr(start_module, "_LAST_PATIENCE", 0.1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
    others = [subprocess.Popen([sys.executable, "-c", code]) for code in (deaf, "")]
    end_others(others)
    assert [process.poll() is not None for process in others] == [True, True]
