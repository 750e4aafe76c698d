"""The two rules of the house: the engine never imports aiida, the rest never imports torch."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import aiida_rm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(aiida_rm.__file__).resolve().parent

#: A finder that refuses some packages, and remembers who was asked for even when that is caught.
BLOCKER = """
import sys

class Blocker:
    def __init__(self, names):
        self.names, self.asked = names, []

    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in self.names:
            self.asked.append(name)
            raise ImportError(name + ' is blocked in this test')
        return None

blocker = Blocker(set(sys.argv[1].split(',')))
sys.meta_path.insert(0, blocker)
"""
FINISH = "\nassert not blocker.asked, blocker.asked\n"

#: What a training or a generation imports; must do without everything but numpy and torch.
LEAN_ENGINE = [
    "aiida_rm.engine",
    "aiida_rm.engine.files",
    "aiida_rm.engine.settings",
    "aiida_rm.engine.frames",
    "aiida_rm.engine.errors",
    "aiida_rm.engine.elements",
    "aiida_rm.engine.response",
    "aiida_rm.engine.neighbors",
    "aiida_rm.engine.potential",
    "aiida_rm.engine.training.trainer",
    "aiida_rm.engine.training.data",
    "aiida_rm.engine.training.copies",
    "aiida_rm.engine.training.digest",
    "aiida_rm.engine.training.graphs",
    "aiida_rm.engine.training.loader",
    "aiida_rm.engine.training.model",
    "aiida_rm.engine.training.progress",
    "aiida_rm.engine.training.state",
    "aiida_rm.engine.training.statistics",
    "aiida_rm.engine.training.distributed",
    "aiida_rm.engine.cells",
    "aiida_rm.engine.npy",
    "aiida_rm.engine.relaxation.batch",
    "aiida_rm.engine.search",
    "aiida_rm.engine.search.symmetry",
    "aiida_rm.engine.search.seeded",
    "aiida_rm.engine.relaxation",
    "aiida_rm.engine.device",
    "aiida_rm.engine.job",
    "aiida_rm.engine.tasks",
    "aiida_rm.engine.__main__",
]
HEAVY = ["aiida", "ase", "pymatgen", "scipy", "spglib", "pyxtal", "rich", "matplotlib"]
#: Modules of the engine that the AiiDA side may import.
TORCH_FREE = [
    "aiida_rm.engine.files",
    "aiida_rm.engine.settings",
    "aiida_rm.engine.frames",
    "aiida_rm.engine.errors",
    "aiida_rm.engine.elements",
    "aiida_rm.engine.converters",
    "aiida_rm.engine.readers",
    "aiida_rm.engine.records",
    "aiida_rm.engine.processes",
    "aiida_rm.engine.formulas",
    "aiida_rm.engine.search",
    "aiida_rm.engine.training.statistics",
    "aiida_rm.engine.scoring.geometry",
    "aiida_rm.engine.scoring.crystals",
    "aiida_rm.engine.scoring.molecules",
    "aiida_rm.engine.scoring.matching",
    "aiida_rm.engine.scoring.known",
    "aiida_rm.engine.scoring.pool",
    "aiida_rm.engine.scoring.task",
]


def modules(*, engine: bool) -> list[str]:
    """Every module of one half of the package."""
    names = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if (parts[1] == "engine") == engine:
            names.append(name)
    return names


def run_blocked(code: str, blocked: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter in which some packages cannot be imported."""
    environment = {**os.environ, "AIIDA_PATH": str(folder), "PYTHONWARNINGS": "ignore"}
    return subprocess.run(
        [sys.executable, "-c", BLOCKER + code + FINISH, ",".join(blocked)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
    )


def import_all(names: list[str]) -> str:
    return "import importlib\n" + "".join(f"importlib.import_module('{name}')\n" for name in names)


def test_import_linter() -> None:
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_blocker_blocks(tmp_path: Path) -> None:
    assert run_blocked("import json\n", ["numpy"], tmp_path).returncode == 0
    done = run_blocked("import aiida_rm.engine.frames\n", ["numpy"], tmp_path)
    assert "numpy is blocked" in done.stderr
    # Even when the code that asks for it goes on without.
    code = "try:\n    import numpy\nexcept ImportError:\n    pass\n"
    assert "AssertionError: ['numpy']" in run_blocked(code, ["numpy"], tmp_path).stderr


def test_the_package_itself_imports_nothing(tmp_path: Path) -> None:
    done = run_blocked(
        "import aiida_rm\nassert aiida_rm.__version__\n",
        ["torch", "numpy", *HEAVY],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr


def test_aiida_side_without_torch(tmp_path: Path) -> None:
    names = modules(engine=False)
    assert "aiida_rm.data.frames" in names
    assert "aiida_rm.calculations.train" in names
    assert "aiida_rm.workflows.loop" in names
    done = run_blocked(import_all([*names, *TORCH_FREE]), ["torch", "torch_geometric"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_entry_points_without_torch(tmp_path: Path) -> None:
    code = """
from importlib.metadata import distribution

points = [p for p in distribution('aiida-rm').entry_points if p.group.startswith('aiida.')]
assert len(points) >= 19, points
for point in points:
    assert point.name.startswith('rm.'), point
    assert isinstance(point.load(), type) or callable(point.load()), point
"""
    done = run_blocked(code, ["torch", "torch_geometric"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_verdi_help_without_torch(tmp_path: Path) -> None:
    code = """
from aiida.cmdline.commands.cmd_verdi import verdi

verdi(['--help'], standalone_mode=False)
"""
    done = run_blocked(code, ["torch", "torch_geometric"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_commands_start_without_heavy_libraries(tmp_path: Path) -> None:
    code = """
from click.testing import CliRunner

from aiida_rm.cli import aiida_rm
from aiida_rm.cli.data.frames import frames
from aiida_rm.cli.data.potential import potential
from aiida_rm.cli.data.training_state import training_state

for group in (aiida_rm, frames, potential, training_state):
    for command in ([], *([name] for name in group.commands)):
        result = CliRunner().invoke(group, [*command, '--help'])
        assert result.exit_code == 0, result.output
        assert 'Usage: ' in result.output
"""
    blocked = ["torch", "numpy", "pandas", *(name for name in HEAVY if name != "aiida")]
    done = run_blocked(code, blocked, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", LEAN_ENGINE)
def test_lean_engine_exists(name: str) -> None:
    assert name in modules(engine=True)


def test_lean_engine_without_heavy_libraries(tmp_path: Path) -> None:
    code = import_all(LEAN_ENGINE) + (
        "loaded = [name for name in sys.modules if name.partition('.')[0] in blocker.names]\n"
        "assert not loaded, loaded\n"
        # Other people's packages (torch's) may ask for scipy and do without.
        "blocker.asked = [n for n in blocker.asked if not n.startswith(('scipy', 'rich'))]\n"
    )
    done = run_blocked(code, HEAVY, tmp_path)
    assert done.returncode == 0, done.stderr


def test_whole_engine_without_aiida(tmp_path: Path) -> None:
    done = run_blocked(import_all(modules(engine=True)), ["aiida"], tmp_path)
    assert done.returncode == 0, done.stderr


def test_scoring_without_torch_or_aiida(tmp_path: Path) -> None:
    code = import_all(TORCH_FREE) + (
        "from aiida_rm.engine.scoring.known import carbon_allotropes\n"
        "from aiida_rm.engine.scoring.task import score\n"
        "from aiida_rm.engine.settings import ScoreSettings\n"
        "known = carbon_allotropes().select([0, 1])\n"
        "summary = score(known, ScoreSettings(processes=1), known=known)[1]\n"
        "assert summary['matches'] == {'diamond': 1, 'lonsdaleite': 1}, summary\n"
    )
    done = run_blocked(code, ["torch", "torch_geometric", "aiida"], tmp_path)
    assert done.returncode == 0, done.stderr
