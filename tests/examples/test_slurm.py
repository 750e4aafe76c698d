"""examples/slurm.py: the mistakes; what it does right is in services/test_example.py."""

from __future__ import annotations

import shutil
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
