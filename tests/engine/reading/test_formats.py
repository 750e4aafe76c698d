"""Entries of single files: whole, broken, cut short."""

from __future__ import annotations

import csv
import gc
import json
import sqlite3
import weakref
from pathlib import Path
from typing import Any

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, graphene, molecule
from pymatgen.core import Lattice, Molecule, Structure
from pymatgen.entries.computed_entries import ComputedStructureEntry

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.readers import Dataset, read_dataset
from aiida_rm.engine.reading import formats
from tests.engine.reading.test_cif import DISORDERED, salt
from tests.foreign.watch import watched


def carbon(count: int) -> list[Atoms]:
    """Diamonds of rising length, with ids."""
    cells = [bulk("C", "diamond", a=3.5 + 0.01 * index) for index in range(count)]
    for index, atoms in enumerate(cells):
        atoms.info["id"] = f"c-{index}"
    return cells


def crystals(count: int) -> list[Structure]:
    return [
        Structure(Lattice.cubic(3 + index), ["Cs", "Cl"], [[0, 0, 0], [0.5] * 3])
        for index in range(count)
    ]


def dump(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def ids(data: Dataset) -> list[str]:
    return data.frames.structure["id"].tolist()


def told(data: Dataset) -> list[str]:
    return [str(item) for item in data.problems]


@pytest.fixture
def extxyz(tmp_path: Path) -> Path:
    path = tmp_path / "set.extxyz"
    ase.io.write(path, carbon(3))
    return path


# Each entry has four lines, the second begins at line 5.
@pytest.mark.parametrize(
    ("change", "left", "message"),
    [
        (lambda x: x[:-1], [0, 1], r"'set\.extxyz', entry 2 \(line 9\): it ends before its last"),
        (lambda x: [*x[:7], *x[8:]], [0, 2], r"entry 1 \(line 5\): it ends before its last"),
        (lambda x: [*x[:6], *x[8:]], [0, 2], r"entry 1 \(line 5\): it ends before its last"),
        (lambda x: [*x[:4], "two\n", *x[5:]], [0, 2], r"entry 1 \(line 5\).*atoms, not 'two'"),
        (lambda x: [*x[:4], "junk\n", *x[4:]], [0, 1, 2], r"entry 1 \(line 5\).*not 'junk'"),
        (lambda x: [*x[:7], "C 1.0 oops 2.0\n", *x[8:]], [0, 2], r"entry 1 \(line 5\)"),
        (
            lambda x: [*x[:7], "C 1.0\n", *x[8:]],
            [0, 2],
            r"line 8 has 2 columns, the first atom has 4",
        ),
        (lambda x: [*x[:7], "Qq 1.0 1.0 2.0\n", *x[8:]], [0, 2], r"entry 1 .*'Qq' is .*unknown"),
        (lambda x: [*x[:7], "C nan 1.0 2.0\n", *x[8:]], [0, 2], r"entry 1 .*not a finite number"),
        (lambda x: [*x[:7], "X 1.0 1.0 2.0\n", *x[8:]], [0, 2], r"entry 1 .*atomic number 0"),
        (lambda x: [*x[:4], "0\n", "\n", *x[8:]], [0, 2], r"entry 1 \(line 5\): has no atoms"),
        (lambda x: [*x[:4], "\n", "\n", *x[4:], "9\n"], [0, 1, 2], r"entry 3 \(line 15\): it ends"),
    ],
)
def test_broken_extxyz(extxyz: Path, change, left: list[int], message: str) -> None:
    lines = extxyz.read_text().splitlines(keepends=True)
    assert len(lines) == 12
    extxyz.write_text("".join(change(lines)))
    data = read_dataset(extxyz)
    assert ids(data) == [f"c-{index}" for index in left]
    assert len(data.problems) == 1
    with pytest.raises(FramesError, match=message):
        read_dataset(extxyz, skip=False)


CUBE = "C\n1.0\n3 0 0\n0 3 0\n0 0 3\n"
HUGE = 50_000_000


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xyz", f"1\nProperties=species:S:1:pos:R:3:x:R:{HUGE}\nC 0 0 0\n", "columns, its first"),
        (
            "a.xyz",
            f"1\nProperties=species:S:1:y:R:-{HUGE}:x:R:{HUGE}:pos:R:3\nC 0 0 0\n",
            "columns, its first atom 4",
        ),
        ("POSCAR", f"{CUBE}C\n{HUGE}\nDirect\n0 0 0\n", "before the last of 50000000 atoms"),
        ("a.vasp", f"{CUBE}{HUGE} oops\nDirect\n0 0 0\n", "before the last of 50000000 atoms"),
    ],
)
def test_no_room_is_made_for_what_is_not_there(
    name: str, text: str, message: str, tmp_path: Path
) -> None:
    """Referees' files are read so as well, and they are foreign."""
    path = dump(tmp_path / name, text)
    with watched(10_000_000), pytest.raises(FramesError, match=message):
        read_dataset(path)


def test_columns_of_atoms_are_passed_over(tmp_path: Path) -> None:
    text = "1\nProperties=species:S:1:pos:R:3:force:R:3:tag:I:1\nC 0 0 1 9 9 9 5\n"
    frames = read_dataset(dump(tmp_path / "a.xyz", text)).frames
    assert frames.positions.tolist() == [[0, 0, 1]]
    old = read_dataset(dump(tmp_path / "POSCAR", f"{CUBE}2\nDirect\n0 0 0\n.5 .5 .5\n")).frames
    assert old.formulas() == ["C2"]


@pytest.mark.parametrize("name", ["a.xyz", "a.json", "a.jsonl", "a.cif", "POSCAR", "a.csv"])
def test_the_mark_that_windows_puts_first_is_passed_over(tmp_path: Path, name: str) -> None:
    atoms = bulk("C", "diamond", a=3.5)
    plain = tmp_path / "plain"
    plain.mkdir()
    if "json" in name:
        dump(plain / name, json.dumps(Structure.from_ase_atoms(atoms).as_dict()))
    elif name == "a.csv":
        ase.io.write(tmp_path / "a.cif", atoms)
        with (plain / name).open("w", newline="") as stream:
            csv.writer(stream).writerows([["cif"], [(tmp_path / "a.cif").read_text()]])
    else:
        ase.io.write(plain / name, atoms)
    marked = tmp_path / name
    marked.write_bytes(b"\xef\xbb\xbf" + (plain / name).read_bytes())
    one, other = (read_dataset(path, skip=False).frames for path in (plain / name, marked))
    assert one.formulas() == other.formulas() == ["C2"]
    np.testing.assert_array_equal(one.positions, other.positions)
    np.testing.assert_array_equal(one.cells, other.cells)


@pytest.mark.parametrize("key", ["name", "id", "material_id", "entry_id"])
@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("=007", "007"),
        ("=1e5", "1e5"),
        (" = 2.50", "2.50"),
        ('="1 2"', "1 2"),
        ("='03'", "03"),
        ("={1, 2}", "1, 2"),
        ("=T", "T"),
        ("=mp-1", "mp-1"),
        ('="a \\"b\\" id=7"', 'a "b" id=7'),
        ("=_JSON", "_JSON"),
        ("=inf", "inf"),
    ],
)
def test_ids_of_extxyz_stay_as_they_are(tmp_path: Path, key: str, written: str, read: str) -> None:
    comment = f'Lattice="3 0 0 0 3 0 0 0 3" n=003 {key}{written} Properties=species:S:1:pos:R:3'
    path = dump(tmp_path / "a.extxyz", f"1\n{comment} pbc='T T F' x=\"id=1\"\nC 0 0 0\n")
    frames = read_dataset(path, skip=False).frames
    label = "name" if key == "name" else "id"
    assert {name: values.tolist() for name, values in frames.structure.items()} == {label: [read]}
    assert frames.cells[0].tolist() == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    assert frames.pbc[0].tolist() == [True, True, False]


def test_a_flat_cell_is_refused(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.extxyz", '1\nLattice="3 0 0 3 0 0 0 0 3" pbc="T T T"\nC 0 0 0\n')
    with pytest.raises(FramesError, match=r"holds no structures.*\(line 1\): is periodic but its"):
        read_dataset(path)


def test_partial_periodicity_is_kept(tmp_path: Path) -> None:
    layer = graphene(vacuum=5.0)
    layer.pbc = (True, True, False)
    chain = Atoms("C2", [[0, 0, 0], [0.6, 0.9, 0]], cell=[1.3, 0, 0], pbc=[1, 0, 0])
    items = [layer, chain, molecule("H2O")]
    ase.io.write(tmp_path / "set.extxyz", items)
    with ase.db.connect(tmp_path / "set.db") as database:
        for item in items:
            database.write(item)
    for name in ("set.extxyz", "set.db"):
        frames = read_dataset(tmp_path / name).frames
        assert frames.pbc.sum(axis=1).tolist() == [2, 1, 0]


def table(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["id", "material_id"])
@pytest.mark.parametrize("column", ["cif", "cif.conv"])
def test_csv(tmp_path: Path, name: str, column: str) -> None:
    lengths = [5.5, 5.7, 5.6]
    rows = [{"": "0", name: f"mp-{a}", "gap": "1", column: salt(a)} for a in lengths]
    frames = read_dataset(table(tmp_path / "a.csv", rows)).frames
    assert frames.structure["id"].tolist() == ["mp-5.5", "mp-5.7", "mp-5.6"]
    np.testing.assert_allclose(frames.cells[:, 0, 0], lengths)


def test_csv_prefers_the_cell_as_it_is(tmp_path: Path) -> None:
    rows = [{"cif.conv": "nonsense", "cif": salt()}]
    assert read_dataset(table(tmp_path / "a.csv", rows)).problems == ()


def test_broken_csv(tmp_path: Path) -> None:
    texts = [
        salt(),
        "",
        DISORDERED.format(occupancy=0.5, x=0),
        salt().replace("0.5", "nan"),
        salt()[:-60],
        "nonsense",
        salt(5.9),
    ]
    rows = [{"id": str(index), "cif": text} for index, text in enumerate(texts)]
    path = table(tmp_path / "a.csv", rows)
    data = read_dataset(path)
    assert ids(data) == ["0", "6"]
    lines = path.read_text().splitlines()
    starts = [1 + lines.index(next(x for x in lines if x.startswith(f"{i},"))) for i in range(1, 6)]
    assert [item.where for item in data.problems] == [f"line {start}" for start in starts]
    assert "'cif' is empty" in told(data)[0]
    assert "is disordered" in told(data)[1]


def test_csv_with_other_columns(tmp_path: Path) -> None:
    path = dump(tmp_path / "a.csv", "id,structure\n1,2\n")
    with pytest.raises(FramesError, match=r"no column is called cif or cif\.conv; there are id, s"):
        read_dataset(path)
    with pytest.raises(FramesError, match="there are none"):
        read_dataset(dump(path, ""))
    with pytest.raises(FramesError, match="holds no structures"):
        read_dataset(dump(path, "id,cif\n"))


@pytest.mark.parametrize("name", ["set.db", "set.json"])
def test_ase_databases(tmp_path: Path, name: str) -> None:
    cells = carbon(4)
    with ase.db.connect(tmp_path / name) as database:
        for atoms in cells:
            database.write(atoms, name=atoms.info["id"], gap=1.0, data={"big": [1, 2]})
    frames = read_dataset(tmp_path / name).frames
    assert frames.structure["name"].tolist() == ["c-0", "c-1", "c-2", "c-3"]
    assert set(frames.structure) == {"name"}
    np.testing.assert_array_equal(frames.cells, [atoms.cell.array for atoms in cells])
    np.testing.assert_array_equal(frames.positions[:2], cells[0].positions)


def test_broken_database(tmp_path: Path) -> None:
    path = tmp_path / "set.db"
    with ase.db.connect(path) as database:
        for atoms in carbon(3):
            database.write(atoms, material_id=atoms.info["id"])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = x'0102' WHERE id = 2")
    connection.close()
    before = path.read_bytes()
    data = read_dataset(path)
    assert ids(data) == ["c-0", "c-2"]
    assert [item.where for item in data.problems] == ["row 2"]
    assert path.read_bytes() == before
    for content in (b"", b"no database at all" * 100):
        path.write_bytes(content)
        with pytest.raises(FramesError, match="no SQLite database of ASE"):
            read_dataset(path)


def test_pymatgen_json(tmp_path: Path) -> None:
    items = [structure.as_dict() for structure in crystals(3)]
    frames = read_dataset(dump(tmp_path / "a.json", items)).frames
    np.testing.assert_array_equal(frames.cells[:, 0, 0], [3, 4, 5])
    assert frames.formulas() == ["ClCs"] * 3
    assert not frames.structure
    keyed = dict(zip(["mp-2", "mp-1", "10"], items, strict=True))
    data = read_dataset(dump(tmp_path / "a.json", keyed))
    assert ids(data) == ["mp-2", "mp-1", "10"]
    one = dump(tmp_path / "a.json", items[2])
    assert read_dataset(one).frames.cells[0, 0, 0] == 5
    lines = "\n".join(
        json.dumps({"material_id": key, "structure": item}) for key, item in keyed.items()
    )
    for name in ("a.jsonl", "a.json", "a.ndjson"):
        assert ids(read_dataset(dump(tmp_path / name, lines))) == ["mp-2", "mp-1", "10"]


def test_molecules_and_entries_of_pymatgen(tmp_path: Path) -> None:
    water = Molecule(["O", "H", "H"], [[0, 0, 0.1], [0, 0.8, -0.5], [0, -0.8, -0.5]])
    entry = ComputedStructureEntry(crystals(1)[0], -3.0, entry_id="e-1")
    data = read_dataset(dump(tmp_path / "a.json", [water.as_dict(), entry.as_dict()]))
    assert data.frames.formulas() == ["H2O", "ClCs"]
    assert data.frames.pbc.all(axis=1).tolist() == [False, True]
    assert ids(read_dataset(dump(tmp_path / "a.json", [entry.as_dict()]))) == ["e-1"]


def test_broken_json(tmp_path: Path) -> None:
    good = crystals(1)[0].as_dict()
    shared = Structure(Lattice.cubic(3), [{"Na": 0.5, "K": 0.5}], [[0, 0, 0]]).as_dict()
    strange = json.loads(json.dumps(good).replace('"Cs"', '"Qq"'))
    nan = json.loads(json.dumps(good))
    nan["sites"][0]["abc"][0] = float("nan")
    bare = {"lattice": good["lattice"], "sites": [{}]}
    bad = [shared, strange, nan, bare, {"a": 1}, 3, None]
    path = dump(tmp_path / "a.json", [good, *bad, good])
    data = read_dataset(path)
    assert len(data.frames) == 2
    assert [item.where for item in data.problems] == [f"entry {index}" for index in range(1, 8)]
    assert "is disordered" in told(data)[0]
    assert "Qq" in told(data)[1]
    assert "not a finite number" in told(data)[2]
    assert "'abc' is missing" in told(data)[3] or "'species' is missing" in told(data)[3]
    assert "it is no structure: ['a']" in told(data)[4]
    path.write_text(path.read_text()[:-30])
    data = read_dataset(path)
    assert len(data.frames) == 1
    assert "entry 8: cannot be read from here on" in told(data)[-1]
    lines = [json.dumps(good), "{broken", "", json.dumps(shared), json.dumps(good)]
    data = read_dataset(dump(tmp_path / "a.jsonl", "\n".join(lines)))
    assert len(data.frames) == 2
    assert [item.where for item in data.problems] == ["line 2", "line 4"]


def test_json_never_imports_what_it_names(tmp_path: Path) -> None:
    item = crystals(1)[0].as_dict()
    trap = {"@module": "antigravity", "@class": "Trap"}
    item["sites"][0]["properties"] = {"trap": trap}
    item["properties"] = {"trap": trap}
    item["@module"] = "antigravity"
    assert len(read_dataset(dump(tmp_path / "a.json", [item])).frames) == 1
    import sys

    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "name", ["POSCAR", "one.vasp", "CONTCAR_3", "one.cif", "one.json", "a.xsf"]
)
def test_single_crystals(tmp_path: Path, name: str) -> None:
    form = "vasp" if name.startswith("CONTCAR") else None
    ase.io.write(tmp_path / name, bulk("C", "diamond", a=3.567, cubic=True), format=form)
    data = read_dataset(tmp_path / name)
    assert data.frames.formulas() == ["C8"]
    assert data.frames.volumes[0] == pytest.approx(3.567**3)
    assert not data.frames.structure


def test_what_else_ase_reads(tmp_path: Path) -> None:
    path = tmp_path / "a@1.traj"
    with ase.io.Trajectory(path, "w") as trajectory:
        for atoms in carbon(3):
            trajectory.write(atoms)
    assert len(read_dataset(path).frames) == 3
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(FramesError, match=r"'a@1\.traj', entry 0: cannot be read"):
        read_dataset(path)


def test_only_one_object_of_a_library_lives(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "set.extxyz"
    ase.io.write(path, carbon(20))
    made: list[weakref.ref[Atoms]] = []
    seen = []
    convert = formats.record_of_ase

    def counting(atoms: Atoms) -> Any:
        made.append(weakref.ref(atoms))
        gc.collect(0)
        seen.append(sum(reference() is not None for reference in made))
        return convert(atoms)

    monkeypatch.setattr(formats, "record_of_ase", counting)
    assert len(read_dataset(path).frames) == 20
    assert len(seen) == 20
    assert max(seen) <= 2


def test_entries_come_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "set.extxyz"
    ase.io.write(path, carbon(3))
    with path.open("a") as stream:
        stream.write("broken\n")
    items = formats.xyz_items(path, path.name)
    assert next(items).record.names == {"id": "c-0"}
    items.close()
