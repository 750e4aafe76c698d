"""What the engine leaves behind when there is no room on the disk of the job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiida_rm.engine import __main__ as program
from aiida_rm.engine import files
from aiida_rm.engine.errors import DiskError
from aiida_rm.engine.job import Job, write_results


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    content = {"schema": 1, "task": "perturb", "settings": {}}
    (tmp_path / files.SETTINGS).write_text(json.dumps(content))
    return tmp_path / files.SETTINGS


def test_the_results_are_written_into_room_held_from_the_beginning(settings: Path) -> None:
    Job(settings, "perturb").close()
    (held,) = settings.parent.glob("*.tmp")
    before = held.stat()
    write_results(settings.parent, "perturb", status="failed")
    after = (settings.parent / files.RESULTS).stat()
    assert before.st_ino == after.st_ino  # no new file, which a full disk would refuse
    assert after.st_size < before.st_size
    assert json.loads((settings.parent / files.RESULTS).read_text())["status"] == "failed"
    assert not held.exists()


def test_a_disk_that_is_full_already(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DiskError, match=r"full already .* free some space"):
        Job(settings, "perturb")


def test_a_dead_error_stream_does_not_cost_the_results(
    settings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

        flush = write

    settings.write_text("{")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Full())
        assert program.main(["perturb", str(settings)]) == 1
    results = json.loads((settings.parent / files.RESULTS).read_text())
    assert results["error"]["code"] == "bad_settings"
