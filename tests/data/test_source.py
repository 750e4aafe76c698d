"""A dataset from a file as a node."""

from __future__ import annotations

import hashlib
import logging

import ase.io
import pytest

from aiida_rm.data import source
from aiida_rm.data.frames import FramesData, InvalidFramesError
from aiida_rm.engine.readers import read_dataset
from tests.engine.reading.test_formats import carbon


@pytest.fixture
def extxyz(tmp_path):
    path = tmp_path / "set.extxyz"
    cells = carbon(4)
    cells[1].positions[0, 0] = float("nan")
    ase.io.write(path, cells)
    return path


@pytest.fixture
def logged(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("aiida"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records]


def test_from_file(extxyz, logged):
    node = FramesData.from_file(extxyz, label="carbon").store()
    assert node.label == "carbon"
    assert node.get_array("structure_id").tolist() == ["c-0", "c-2", "c-3"]
    found = node.base.extras.get(source.SOURCE_EXTRA)
    assert found["file"] == "set.extxyz"
    assert found["sha256"] == hashlib.sha256(extxyz.read_bytes()).hexdigest()
    assert (found["n_read"], found["n_left_out"]) == (3, 1)
    assert found["problems"] == [str(problem) for problem in read_dataset(extxyz).problems]
    assert len(logged()) == 1
    assert "left out: 'set.extxyz', entry 1 (line 5): has a position" in logged()[0]


def test_the_hash_is_that_of_the_structures(extxyz):
    node = FramesData.from_file(extxyz).store()
    same = FramesData(read_dataset(extxyz).frames).store()
    assert node.base.caching.get_hash() == same.base.caching.get_hash()


def test_many_problems_are_counted(extxyz, logged, monkeypatch):
    monkeypatch.setattr(source, "MAX_PROBLEMS", 2)
    extxyz.write_text(extxyz.read_text() + "1\n\nX 0 0 0\n" * 4)
    found = FramesData.from_file(extxyz).base.extras.get(source.SOURCE_EXTRA)
    assert len(found["problems"]) == 2
    assert found["n_left_out"] == 5
    assert "3 more entries" in logged()[-1]


def test_refusals(extxyz, tmp_path):
    with pytest.raises(InvalidFramesError, match=r"entry 1 \(line 5\)"):
        FramesData.from_file(extxyz, skip=False)
    with pytest.raises(InvalidFramesError, match="there is no file"):
        FramesData.from_file(tmp_path / "absent.csv")


def test_a_folder_has_no_checksum(extxyz):
    found = FramesData.from_file(extxyz.parent).base.extras.get(source.SOURCE_EXTRA)
    assert found["file"] == extxyz.parent.name
    assert found["sha256"] is None
