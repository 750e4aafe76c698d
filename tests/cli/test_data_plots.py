"""The `plot` commands, and the groups of potentials and training states."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from aiida_rm.cli.data.frames import frames
from aiida_rm.cli.data.potential import potential
from aiida_rm.cli.data.training_state import training_state
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames


def run(group: Any, *arguments: Any, status: int = 0) -> Result:
    result = CliRunner().invoke(group, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == status, result.output
    return result


@pytest.fixture(scope="module")
def trained(loop: Any) -> Any:
    """The potential of the last round."""
    return loop.outputs.potential


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-x", "match"],
        ["-x", "density"],
        ["-x", "fmax", "-y", "energy_per_atom", "--colour", "match"],
        ["-x", "fmax", "-y", "energy_per_atom", "--colour", "density"],
        ["--draw", "-n", "3"],
    ],
)
def test_plot_frames(loop: Any, tmp_path: Path, options: list[str]) -> None:
    file = tmp_path / "picture.svg"
    run(frames, "plot", loop.outputs.scored["round_01"].pk, "-o", file, *options)
    assert file.read_text("utf-8").rstrip().endswith("</svg>")


def test_plot_hostile_names(loop: Any, diamond_frames: Frames, tmp_path: Path) -> None:
    names = {"name": ["$\\broken{$ <script>"], "other": ["_x"]}
    node = FramesData(diamond_frames.with_labels(structure=names)).store()
    for options in (
        ["--draw"],
        ["-x", "name"],
        ["-x", "n_atoms", "-y", "n_atoms", "--colour", "name"],
    ):
        run(frames, "plot", node.pk, "-o", tmp_path / "a.svg", "--overwrite", *options)
    assert "<script>" not in (tmp_path / "a.svg").read_text("utf-8")


def test_plot_refuses(loop: Any, tmp_path: Path) -> None:
    pk = loop.outputs.scored["round_01"].pk
    for options, message in (
        (["-o", tmp_path / "a.txt"], "must end in .png, .svg or .pdf"),
        (["-o", tmp_path / "a.png", "-x", "colour"], "there is no label 'colour'"),
        (["-o", tmp_path / "a.png", "-x", "match", "-y", "fmax"], "is no number"),
    ):
        assert message in run(frames, "plot", pk, *options, status=1).stderr


def test_potentials(loop: Any, trained: Any, tmp_path: Path) -> None:
    rows = json.loads(run(potential, "list", "-e", "C", "--json").stdout)
    assert trained.pk in {row["pk"] for row in rows}
    assert json.loads(run(potential, "list", "-e", "H", "--json").stdout) == []
    equivariant = ["list", "--architecture", "equivariant", "--json"]
    assert json.loads(run(potential, *equivariant).stdout) == []
    told = json.loads(run(potential, "show", trained.pk, "--json").stdout)
    assert told["generated"] == [loop.outputs.scored["round_02"].pk]
    printed = run(potential, "show", trained.pk).stdout
    assert "3 angstrom" in printed
    assert "TrainCalculation" in printed

    run(potential, "export", trained.pk, "-o", tmp_path)
    file = tmp_path / f"potential_{trained.pk}.safetensors"
    assert file.read_bytes() == trained.get_content("rb")
    assert "exists" in run(potential, "export", trained.pk, "-o", file, status=1).stderr

    archive = shutil.make_archive(str(tmp_path.parent / "weights"), "zip", tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"no weights")
    reports = json.loads(
        run(potential, "import", tmp_path, archive, "--again", "--json", status=1).stdout
    )
    assert [report["ok"] for report in reports] == [False, True, True]
    assert "left out: no safetensors file" in reports[0]["told"]
    result = run(potential, "import", file)
    assert "is here already, as <" in result.output

    run(potential, "plot", trained.pk, "-o", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    imported = run(potential, "plot", reports[1]["pk"], "-o", tmp_path / "b.png", status=1)
    assert "was imported, not trained here" in imported.stderr


def test_training_states(loop: Any, training_state_data: Any, tmp_path: Path) -> None:
    result = run(training_state, "list")
    assert "there is one only where a training was cut short" in result.stderr
    node = training_state_data.store()
    rows = json.loads(run(training_state, "list", "--min-epoch", 12, "--json").stdout)
    assert [row["pk"] for row in rows] == [node.pk]
    assert json.loads(run(training_state, "list", "--min-epoch", 13, "--json").stdout) == []
    assert "3400" in run(training_state, "show", node.pk).stdout
    assert json.loads(run(training_state, "show", node.pk, "--json").stdout)["epoch"] == 12
    run(training_state, "export", node.pk, "-o", tmp_path / "a.safetensors")
    result = run(training_state, "import", tmp_path / "a.safetensors")
    assert f"as <{node.pk}>" in result.output
