"""Programs as codes on this machine, and one way to ask a referee."""

from __future__ import annotations

import shutil
import stat
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import run_get_node

from aiida_rm.workflows.judge import JudgeWorkChain


@pytest.fixture
def computer(aiida_localhost: Any) -> orm.Computer:
    aiida_localhost.configure(safe_interval=0, use_login_shell=False)
    return aiida_localhost


@pytest.fixture
def make_code(computer: orm.Computer) -> Any:
    """``make_code(path)``"""

    def make(path: str | Path, **more: Any) -> orm.InstalledCode:
        return orm.InstalledCode(computer=computer, filepath_executable=str(path), **more).store()

    return make


@pytest.fixture
def script(make_code: Any, tmp_path: Path) -> Any:
    """``script(text)``: a program of a test's own, as a code."""

    def make(text: str) -> orm.InstalledCode:
        path = tmp_path / "program.sh"
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return make_code(path)

    return make


@pytest.fixture
def xtb_code(make_code: Any) -> orm.InstalledCode:
    path = shutil.which("xtb")
    if path is None:
        pytest.skip("the program xtb is not installed; run tools/install_xtb.sh")
    return make_code(path)


@pytest.fixture
def judge() -> Any:
    """``judge(**inputs)``: labels by their bare names, the relaxed frames, and the work chain."""

    def run(**inputs: Any) -> tuple[dict[str, Any], Any, orm.WorkChainNode]:
        results, node = run_get_node(JudgeWorkChain, **inputs)
        assert "frames" in results, (node.exit_message, node.exception)
        frames = results["frames"].get_frames()
        label = inputs.get("label", inputs["referee"])
        labels = {
            name.removeprefix(f"{label}_"): values
            for name, values in frames.structure.items()
            if name.startswith(f"{label}_")
        }
        return labels, frames, node

    return run
