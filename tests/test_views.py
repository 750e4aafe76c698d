"""Views of structures, by themselves and in a notebook that really runs."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.frames import Frames
from aiida_rm.views import Picture, atoms_of, summary_of, view

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture
def no_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "weas_widget", None)


@pytest.fixture
def frames() -> Frames:
    made = from_ase(
        [bulk("C", "diamond", a=3.567), molecule("H2O"), bulk("NaCl", "rocksalt", a=5.6)]
    )
    return made.without_labels().with_labels(structure={"name": np.array([HOSTILE, "b", "c"])})


def test_every_kind_of_structure(frames: Frames, aiida_profile: Any) -> None:
    from aiida import orm

    from aiida_rm.data.frames import FramesData
    from aiida_rm.queries import structures, with_composition

    node = FramesData(frames).store()
    row = structures(node).iloc[2]
    lone = orm.StructureData(ase=bulk("C", "diamond", a=3.6)).store()
    found = with_composition("C2")
    found = found[found["pk"].isin([node.pk, lone.pk])]  # other tests store structures, too
    assert found["pk"].tolist() == [node.pk, lone.pk]
    for given, index, formula in (
        (frames, 1, "H2O"),
        (node, 2, "ClNa"),
        (row, 0, "ClNa"),
        (found.iloc[0], 1, "C2"),
        (found.iloc[1], 1, "C2"),
        ({"pk": lone.pk, "index": None}, 1, "C2"),
        ({"pk": node.pk, "index": 1}, 0, "H2O"),
        (bulk("Si"), 0, "Si2"),
        (orm.StructureData(ase=bulk("Si")), 0, "Si2"),
    ):
        atoms = atoms_of(given, index)
        assert atoms.get_chemical_formula() == formula
        assert not atoms.info
    with pytest.raises(IndexError, match=r"no structure 3; the set holds 0\.\.2"):
        view(node, 3)
    with pytest.raises(TypeError, match="a str is no structure; give"):
        view("diamond")


def test_without_a_widget(frames: Frames, no_widget: None) -> None:
    picture = view(frames, 0)
    assert isinstance(picture, Picture)
    assert repr(picture) == (
        "C2, 2 atoms, 11.3 Å³; `pip install weas-widget` and restart the notebook to turn it"
    )
    html = picture._repr_html_()
    assert "src='data:image/png;base64," in html
    assert "pip install weas-widget" in html


def test_with_the_widget(frames: Frames) -> None:
    weas_widget = pytest.importorskip("weas_widget")
    widget = view(frames, 2)
    assert isinstance(widget, weas_widget.WeasWidget)
    assert widget.to_ase().get_chemical_formula() == "ClNa"
    assert widget.avr.boundary == [[-0.01, 1.01]] * 3
    assert view(frames, 1).avr.boundary != widget.avr.boundary  # a molecule has no faces


def test_what_a_set_shows(frames: Frames, aiida_profile: Any) -> None:
    from aiida_rm.data.frames import FramesData

    node = FramesData(frames, label=HOSTILE)
    html = node._repr_html_()
    assert html == summary_of(node)
    assert "(not stored)" in html
    assert "3 (mixed)" in html
    assert "H2O (1)" in html
    assert html.count("data:image/png;base64,") == 3
    assert HOSTILE not in html
    molecules = FramesData(from_ase([molecule("H2O")] * 9))
    html = molecules._repr_html_()
    assert "volume" not in html
    assert html.count("data:image/png;base64,") == 6


CELLS = (
    """
from aiida import load_profile
from aiida.storage.sqlite_temp import SqliteTempBackend
load_profile(SqliteTempBackend.create_profile("notebook"))
""",
    """
from ase.build import bulk
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.queries import structures
frames = FramesData(from_ase([bulk("C", "diamond", a=3.567), bulk("Si")])).store()
frames
""",
    "structures(frames)",
    "frames.view(1)",
    """
import sys
sys.modules["weas_widget"] = None
from aiida_rm.views import view
view(structures(frames).iloc[0])
""",
    "frames.view(2)",
)


def test_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("AIIDA_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    root = str(Path(__file__).parents[1])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    notebook = nbformat.v4.new_notebook()
    notebook.cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    client = nbclient.NotebookClient(
        notebook, timeout=300, allow_errors=True, resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()

    def last(cell: int) -> dict[str, Any]:
        output = notebook.cells[cell].outputs[-1]
        assert output.output_type == "execute_result", output
        data: dict[str, Any] = output.data
        return data

    assert "FramesData &lt;" in last(1)["text/html"]
    assert "data:image/png" in last(1)["text/html"]
    assert last(1)["text/plain"].startswith("<FramesData: uuid:")
    assert "<table" in last(2)["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in last(3)
    assert "pip install weas-widget" in last(4)["text/html"]
    assert last(4)["text/plain"].startswith("C2, 2 atoms")
    (error,) = (one for one in notebook.cells[5].outputs if one.output_type == "error")
    assert error.evalue == "there is no structure 2; the set holds 0..1"
