"""The example of queries, on a loop that really ran."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def querying(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import querying

    return querying


def test_it_tells_of_a_loop(loop: Any, querying: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert querying.find_loop(None).pk == querying.find_loop(loop.pk).pk == loop.pk
    assert querying.find_loop(loop.inputs.dataset.pk) is None
    querying.tell(loop)
    told = capsys.readouterr().out
    assert "GenerateCalculation" in told
    assert "StructureData" in told
    assert "accepted" in told


def test_without_a_loop_it_says_what_to_do(tmp_path: Path) -> None:
    for name in ("querying.py", "isolated.py"):
        (tmp_path / "examples").mkdir(exist_ok=True)
        (tmp_path / "examples" / name).write_text((EXAMPLES / name).read_text())
    run = subprocess.run(
        [sys.executable, "examples/querying.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "run `make demo`" in run.stdout
    assert "Traceback" not in run.stderr
