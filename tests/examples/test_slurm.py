"""examples/slurm.py: the mistakes; what it does right is in services/test_example.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLES / "clusters" / "slurm", tmp_path / "mine")


@pytest.fixture
def refuse(
    aiida_profile: Any, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., str]:
    """``refuse(*options)``: what the script says on its way out, in the profile of the tests."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import slurm

    monkeypatch.setattr(slurm, "open_profile", lambda _: None)
    (tmp_path / "mine.cif").write_text("")

    def call(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["slurm.py", str(tmp_path / "mine.cif"), *options])
        with pytest.raises(SystemExit) as caught:
            slurm.main()
        said = str(caught.value)
        assert said.startswith("slurm.py: ")
        assert "\n" not in said
        return said

    return call


def test_its_profile_is_none_of_the_users(files: Path, tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES, tmp_path / "examples")
    (tmp_path / "mine.cif").write_text("")
    code = (files / "code_venv.yml").read_text().splitlines()
    other = ["computer: another" if line.startswith("computer:") else line for line in code]
    (files / "code_venv.yml").write_text("\n".join(other))
    (tmp_path / "users").mkdir()
    done = subprocess.run(
        [sys.executable, "examples/slurm.py", "mine.cif", "--files", str(files)],
        cwd=tmp_path,
        env={**os.environ, "AIIDA_PATH": str(tmp_path / "users")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "is for computer 'another'" in done.stderr
    assert '"demo"' in (tmp_path / ".demo" / ".aiida" / "config.json").read_text()
    assert not list((tmp_path / "users").rglob("config.json"))


def test_a_profile_that_is_not_there(refuse: Any, files: Path) -> None:
    assert "nobody" in refuse("--profile", "nobody", "--files", str(files))


def test_nobody_to_submit_to(refuse: Any, files: Path, aiida_profile: Any) -> None:
    said = refuse("--profile", aiida_profile.name, "--files", str(files), "--submit")
    assert "no broker to submit to; leave out --submit" in said


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("computer.yml", "", "computer.yml does not say 'label'"),
        ("computer.yml", "label: [", "computer.yml is no YAML"),
        ("computer.yml", "label: here", "computer.yml does not say 'transport'"),
        ("code_venv.yml", "- label", "code_venv.yml does not say 'label'"),
        ("code_venv.yml", "{label: a, computer: b}", "is for computer 'b'"),
        ("transport.yml", None, "there is no "),
    ],
)
def test_yaml(refuse: Any, files: Path, name: str, text: str | None, says: str) -> None:
    if text is None:
        (files / name).unlink()
    else:
        (files / name).write_text(text)
    assert says in refuse("--files", str(files))


def test_a_code_that_is_not_there(refuse: Any) -> None:
    assert "nothing@nowhere" in refuse("--code", "nothing@nowhere")
