"""The commands of docs/engine.md, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ase.io import read

ROOT = Path(__file__).parents[2]


def test_the_commands_of_the_page(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "engine.md").read_text("utf-8")
    (commands,) = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-e", "-c", commands],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(read(tmp_path / "found.extxyz", index=":")) == 5
