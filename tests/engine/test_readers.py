"""Folders, archives and compressed files, and what is told of them."""

from __future__ import annotations

import gzip
import stat
import zipfile
from pathlib import Path
from unittest import mock

import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule

from aiida_rm.engine import readers
from aiida_rm.engine.converters import from_ase, write
from aiida_rm.engine.errors import DiskError, FramesError
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.reading import unpack
from tests.engine.reading.test_cif import salt
from tests.engine.reading.test_formats import carbon, ids, table, told


def names(path: Path) -> list[str]:
    return read_dataset(path, skip=False).frames.structure["name"].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of all kinds of files, with a folder within."""
    path = tmp_path / "set"
    (path / "mp-1").mkdir(parents=True)
    (path / ".hidden").mkdir()
    write(from_ase([bulk("Cu")]), path / "b.cif")
    write(from_ase([bulk("Fe")]), path / "a.cif.gz")
    write(from_ase([bulk("Na"), bulk("K")]), path / "c.CIF")
    write(from_ase([bulk("Al")]), path / "mp-1" / "POSCAR")
    write(from_ase([bulk("Al")]), path / ".hidden" / "no.cif")
    ase.io.write(path / "d.xyz", [molecule("H2O"), molecule("CO")])
    ase.io.write(path / "e.xyz", molecule("CH4"))
    (path / "notes.txt").write_text("not a structure")
    return path


NAMES = ["a", "b", "c-0", "c-1", "d-0", "d-1", "e", "mp-1"]
FORMULAS = ["Fe", "Cu", "Na", "K", "H2O", "CO", "CH4", "Al"]


def pack(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(folder))
    return path


def test_numbered_poscars_have_names_of_their_own(tmp_path: Path) -> None:
    for name in ("POSCAR.1", "POSCAR.2", "POSCAR.vasp", "CONTCAR_3"):
        ase.io.write(tmp_path / name, bulk("Al"), format="vasp")
    assert names(tmp_path) == ["CONTCAR_3", "POSCAR.1", "POSCAR.2", "POSCAR"]


def test_folder(folder: Path) -> None:
    assert names(folder) == NAMES
    assert read_dataset(folder).frames.formulas() == FORMULAS


def test_zip_is_as_its_folder(folder: Path, tmp_path: Path, monkeypatch) -> None:
    path = pack(folder)
    assert names(path) == NAMES
    assert read_dataset(path).frames.formulas() == FORMULAS
    assert sorted(file.name for file in tmp_path.iterdir()) == ["set", "set.zip"]


def test_own_names_are_kept(tmp_path: Path) -> None:
    cells = carbon(2)
    for atoms in cells:
        atoms.info["name"] = "own " + atoms.info["id"]
    ase.io.write(tmp_path / "a.extxyz", cells)
    write(from_ase([bulk("Cu")]), tmp_path / "b.cif")
    frames = read_dataset(tmp_path).frames
    assert frames.structure["name"].tolist() == ["own c-0", "own c-1", "b"]
    assert "id" not in frames.structure


def test_folder_of_tables(tmp_path: Path) -> None:
    for split in ("train", "val"):
        table(tmp_path / f"{split}.csv", [{"id": split, "cif": salt()}])
    assert ids(read_dataset(tmp_path)) == ["train", "val"]


def test_folder_of_frames(tmp_path: Path) -> None:
    frames = from_ase(carbon(2)).with_labels(atom={"charge": np.arange(4.0)})
    back = read_dataset(frames.save(tmp_path / "frames")).frames
    np.testing.assert_array_equal(back.positions, frames.positions)
    assert back.atom["charge"].tolist() == [0, 1, 2, 3]


def test_bad_files_of_a_folder_are_named(folder: Path) -> None:
    (folder / "b.cif").write_text("nothing")
    (folder / "mp-1" / "POSCAR").write_text("nothing")
    for source in (folder, pack(folder)):
        data = read_dataset(source)
        assert data.frames.structure["name"].tolist() == ["a", *NAMES[2:-1]]
        assert [item.file for item in data.problems] == ["b.cif", "mp-1/POSCAR"]
        with pytest.raises(FramesError, match=r"'b\.cif': this is no CIF of a crystal"):
            read_dataset(source, skip=False)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FramesError, match="neither frames nor files"):
        read_dataset(tmp_path)
    with pytest.raises(FramesError, match="there is no file"):
        read_dataset(tmp_path / "absent.cif")
    with pytest.raises(FramesError, match="'processes' must be"):
        read_dataset(tmp_path, processes=-1)


@pytest.mark.parametrize(
    "name", ["a.extxyz", "a.cif", "a.csv", "a.json", "a.db", "a.zip", "a.xyz.gz", "POSCAR", "a.dat"]
)
def test_empty_files(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    with pytest.raises(FramesError, match=rf"'{name}' holds no structures that can be used"):
        read_dataset(path)


def test_an_empty_result_quotes_the_first_problems(tmp_path: Path) -> None:
    for index in range(5):
        (tmp_path / f"{index}.cif").write_text("nothing")
    with pytest.raises(FramesError) as caught:
        read_dataset(tmp_path)
    assert "'2.cif': this is no CIF" in str(caught.value)
    assert "'3.cif'" not in str(caught.value)
    assert str(caught.value).endswith("and 2 more problems")


@pytest.mark.parametrize("name", ["a.extxyz", "a.json", "a.cif"])
def test_gzip(tmp_path: Path, name: str) -> None:
    plain = write(from_ase([bulk("C", "diamond", a=3.5)]), tmp_path / name)
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert read_dataset(packed, skip=False).frames.formulas() == ["C2"]


def test_gzip_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "set.extxyz.gz"
    plain = tmp_path / "set.extxyz"
    ase.io.write(plain, carbon(2000))
    whole = gzip.compress(plain.read_bytes())
    path.write_bytes(whole[: len(whole) // 2])
    data = read_dataset(path)
    assert 100 < len(data.frames) < 2000
    assert ids(data) == [f"c-{index}" for index in range(len(data.frames))]
    assert "'set.extxyz.gz': cannot be unpacked to its end" in told(data)[-1]
    path.write_bytes(b"not packed at all")
    with pytest.raises(FramesError, match=r"'set\.extxyz\.gz': cannot be unpacked"):
        read_dataset(path)


def test_zip_of_evil_names(tmp_path: Path) -> None:
    path = tmp_path / "inner" / "evil.zip"
    path.parent.mkdir()
    evil = ["../up.cif", "/tmp/root.cif", "a/../../b.cif", "..\\windows.cif", "C:x.cif"]
    with zipfile.ZipFile(path, "w") as archive:
        for name in [*evil, "good.cif"]:
            archive.writestr(name, salt())
        link = zipfile.ZipInfo("link.cif")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    data = read_dataset(path)
    assert data.frames.structure["name"].tolist() == ["good"]
    refused = {item.file: item.reason for item in data.problems}
    assert sorted(refused) == sorted([*evil, "link.cif"])
    assert "leads out of the archive" in refused["../up.cif"]
    assert "it is a link" in refused["link.cif"]
    assert [file.name for file in tmp_path.rglob("*.cif")] == []


def test_bounds_of_what_is_unpacked(tmp_path: Path, monkeypatch) -> None:
    size = len(salt())
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(4):
            archive.writestr(f"{index}.cif", salt())
    packed = tmp_path / "one.cif.gz"
    packed.write_bytes(gzip.compress(salt().encode()))
    monkeypatch.setattr(unpack, "LARGEST", 2 * size + 10)
    data = read_dataset(path)
    assert data.frames.structure["name"].tolist() == ["0", "1"]
    assert "more than the 10 that are left" in told(data)[0]
    monkeypatch.setattr(unpack, "LARGEST", size - 1)
    assert "it unpacks to more than" in told_of_empty(packed)
    monkeypatch.setattr(unpack, "MOST_MEMBERS", 3)
    assert "it holds 4 files; unpack it" in told_of_empty(path)


def told_of_empty(path: Path) -> str:
    with pytest.raises(FramesError) as caught:
        read_dataset(path)
    return str(caught.value)


def test_damaged_zip(tmp_path: Path) -> None:
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.cif", salt())
        archive.writestr("b.cif", salt())
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    data = read_dataset(path)
    assert data.frames.structure["name"].tolist()[-1] == "b"
    assert "'a.cif': cannot be unpacked" in " ".join(told(data))
    path.write_bytes(content[:500])
    assert "this is no zip archive" in told_of_empty(path)


def test_a_full_disk_is_told_of(tmp_path: Path, monkeypatch) -> None:
    packed = tmp_path / "one.cif.gz"
    packed.write_bytes(gzip.compress(salt().encode()))

    stream = mock.mock_open()
    stream.return_value.write.side_effect = OSError(28, "No space left on device")
    monkeypatch.setattr(Path, "open", stream)
    with pytest.raises(DiskError, match="free some disk space"):
        read_dataset(packed)


def test_progress_and_order_over_many_pieces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(readers, "CHUNK", 10)
    path = tmp_path / "set.extxyz"
    cells = carbon(45)
    for index in (0, 12, 13, 44):
        cells[index].positions[0] = np.nan
    ase.io.write(path, cells)
    calls = []
    data = read_dataset(path, progress=lambda read, bad: calls.append((read, bad)))
    left = [index for index in range(45) if index not in (0, 12, 13, 44)]
    assert ids(data) == [f"c-{index}" for index in left]
    np.testing.assert_allclose(
        data.frames.cells, [cells[index].cell.array for index in left], atol=1e-7
    )
    assert [item.where.split(" (")[0] for item in data.problems] == [
        "entry 0",
        "entry 12",
        "entry 13",
        "entry 44",
    ]
    assert calls == [(9, 1), (17, 3), (27, 3), (37, 3), (41, 4)]


def test_processes_change_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("aiida_rm.engine.reading.cif.ALONE", 2)
    rows = [{"id": str(index), "cif": salt(5 + index / 100)} for index in range(60)]
    rows[30]["cif"] = "broken"
    path = table(tmp_path / "a.csv", rows)
    one, two = (read_dataset(path, processes=count) for count in (1, 2))
    assert ids(one) == ids(two) == [str(index) for index in range(60) if index != 30]
    np.testing.assert_array_equal(one.frames.positions, two.frames.positions)
    assert one.problems == two.problems
