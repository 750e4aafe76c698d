"""Files of several structures in formats of which ASE reads one: sdf, mol, res, gen."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.reading import blocks
from aiida_rm.engine.reading.entries import Entry
from tests.engine.reading.test_formats import told

MOLECULES = ("H2O", "CH4", "NH3")
FORMULAS = ["H2O", "CH4", "H3N"]


def sdf(name: str, end: str = "$$$$\n", title: str | None = None) -> str:
    stream = io.StringIO()
    ase.io.write(stream, molecule(name), format="sdf", title=name if title is None else title)
    text = stream.getvalue().removesuffix("$$$$\n")
    return f"{text}> <gap>\n0.1\n\n{end}" if end else text


def res(length: float, title: str | None = None, count: int = 2) -> str:
    """As AIRSS writes it."""
    name = f"C2-{length:g}" if title is None else title
    return (
        f"TITL {name} 0.01 {length**3:.2f} -310.5 0.00 0.00 {count} (P1) n - 1\n"
        f"REM by hand\nCELL 1.54180 {length} {length} {length} 90.0 90.0 90.0\nLATT -1\n"
        "SFAC C\nC 1 0.0000000 0.0000000 0.0000000 1.0\n"
        "C 1 0.2500000 0.2500000 0.2500000 1.0\nEND\n"
    )


def gen(atoms: Atoms) -> str:
    stream = io.StringIO()
    ase.io.write(stream, atoms, format="gen")
    return stream.getvalue()


def texts(suffix: str) -> list[str]:
    if suffix == "res":
        return [res(length) for length in (5.0, 4.0, 6.0)]
    if suffix == "gen":
        return [gen(molecule("H2O")), gen(bulk("C", "diamond", a=3.5)), gen(molecule("NH3"))]
    return [sdf(name, "" if suffix == "mol" else "$$$$\n") for name in MOLECULES]


def formulas(suffix: str) -> list[str]:
    return {"res": ["C2"] * 3, "gen": ["H2O", "C2", "H3N"]}.get(suffix, FORMULAS)


@pytest.mark.parametrize("suffix", ["sdf", "mol", "res", "gen"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("between", ["", "\n"])
def test_all_of_several_are_read(tmp_path: Path, suffix: str, count: int, between: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix in ("sdf", "mol"):
        between = ""  # a blank line is a title
    text = between.join(texts(suffix)[:count])
    for content in (text, text.replace("\n", "\r\n"), f"\ufeff{text}\n\n"):
        path.write_text(content, newline="")
        frames = read_dataset(path, skip=False).frames
        assert frames.formulas() == formulas(suffix)[:count]


def test_each_has_its_own_places(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    path.write_text("".join(texts("sdf")))
    frames = read_dataset(path).frames
    expected = np.concatenate([molecule(name).positions for name in MOLECULES])
    np.testing.assert_allclose(frames.positions, expected, atol=1e-4)
    path = tmp_path / "a.res"
    path.write_text("".join(texts("res")))
    frames = read_dataset(path).frames
    np.testing.assert_allclose(frames.cells[:, 0, 0], [5, 4, 6])
    np.testing.assert_allclose(frames.positions[1::2, 0], [1.25, 1, 1.5])
    path = tmp_path / "a.gen"
    path.write_text("".join(texts("gen")))
    frames = read_dataset(path).frames
    assert frames.pbc.all(axis=1).tolist() == [False, True, False]


def without(text: str, line: int) -> str:
    rows = text.splitlines(keepends=True)
    return "".join([*rows[:line], *rows[line + 1 :]])


@pytest.mark.parametrize(
    ("suffix", "change", "message"),
    [
        ("sdf", lambda x: x.replace(" C ", " Qq "), "'Qq' is missing or unknown"),
        ("sdf", lambda x: without(x, 4), "ends before its last atom"),
        (
            "sdf",
            lambda x: "".join(x.splitlines(keepends=True)[:6]),
            "ends before its line 'M END'",
        ),
        ("sdf", lambda x: x.replace("M  END\n", ""), "ends before its line 'M END'"),
        ("sdf", lambda x: without(x, 2), "cannot be read: invalid literal"),
        ("sdf", lambda x: x.replace("V2000", "V3000"), "version V3000; only V2000"),
        ("sdf", lambda _: "nonsense\n$$$$\n", "no line with its numbers of atoms"),
        ("mol", lambda x: x.replace(" C ", " Qq "), "'Qq' is missing or unknown"),
        ("mol", lambda x: x.replace("M  END\n", ""), "ends before its line 'M END'"),
        ("res", lambda x: x.replace("C 1 0.25", "C 1 oops"), "of its 2 lines of atoms, 1 can be"),
        ("res", lambda x: x.replace("C 1 0.25", "C 1 1e-5"), "of its 2 lines of atoms, 1 can be"),
        ("res", lambda x: without(x, 6), "title announces 2 atoms, it has 1"),
        ("res", lambda x: without(x, 7), "ends before its line 'END'"),
        ("res", lambda x: without(x, 2), "cannot be read|not enough values|has no"),
        ("res", lambda x: without(x, 4), "no line 'SFAC'"),
        ("res", lambda x: x.replace("C 1", "Qq 1").replace("SFAC C", "SFAC Qq"), "'Qq' is missing"),
        ("gen", lambda x: without(x, 3), "ends before its last line"),
        ("gen", lambda x: x.replace("C ", "Qq "), "'Qq' is missing or unknown"),
        ("gen", lambda x: x.replace("2  S", "two  S"), "this follows the last line .* 'two S'"),
    ],
)
def test_a_broken_one_between_good_ones(tmp_path: Path, suffix: str, change, message: str) -> None:
    first, second, third = texts(suffix)
    assert change(second) != second
    path = tmp_path / f"a.{suffix}"
    path.write_text(first + change(second) + third)
    data = read_dataset(path)
    left = formulas(suffix)
    assert data.frames.formulas() == [left[0], left[2]]
    assert len(data.problems) == 1
    line = len(first.splitlines()) + 1
    assert f"line {line}" in told(data)[0]
    with pytest.raises(FramesError, match=message):
        read_dataset(path, skip=False)


@pytest.mark.parametrize("suffix", ["sdf", "mol", "res", "gen"])
def test_cut_short_anywhere_is_told(tmp_path: Path, suffix: str) -> None:
    first, second, _ = texts(suffix)
    path = tmp_path / f"a.{suffix}"
    needed = second.split("> <gap>")[0].rstrip()
    # Three lines of a molecule are but its title.
    for keep in range(4 if suffix == "mol" else 3, len(needed.splitlines())):
        path.write_text(first + "".join(needed.splitlines(keepends=True)[:keep]))
        data = read_dataset(path)
        assert len(data.frames) == 1, keep
        assert len(data.problems) == 1, keep


def test_titles_are_names(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    path.write_text("".join(texts("sdf")))
    assert read_dataset(path).frames.structure["name"].tolist() == list(MOLECULES)
    path = tmp_path / "a.res"
    path.write_text("".join(texts("res")))
    names = read_dataset(path).frames.structure["name"].tolist()
    assert names == ["C2-5", "C2-4", "C2-6"]
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "b.sdf").write_text(sdf("H2O", title="") + sdf("CH4", title="007"))
    (folder / "c.mol").write_text(sdf("NH3", "", title=""))
    names = read_dataset(folder).frames.structure["name"].tolist()
    assert names == ["b-0", "007", "c"]


def test_what_is_no_structure_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "a.res"
    peaks = "WGHT 0.1\nREM Highest difference peak\nQ1 1 0.1 0.2 0.3 11.0 0.05 0.9\n\n"
    path.write_text("REM all of them\n" + res(5) + peaks + without(res(4), 0) + peaks + res(6))
    frames = read_dataset(path, skip=False).frames
    np.testing.assert_allclose(frames.cells[:, 0, 0], [5, 4, 6])
    path = tmp_path / "a.gen"
    path.write_text(gen(molecule("H2O")) + "# by DFTB+\n")
    assert len(read_dataset(path, skip=False).frames) == 1
    path = tmp_path / "a.sdf"
    path.write_text(sdf("H2O") + "$$$$\n\n$$$$\n" + sdf("CH4", ""))
    assert read_dataset(path, skip=False).frames.formulas() == ["H2O", "CH4"]


@pytest.mark.parametrize("suffix", ["sdf", "mol", "res", "gen"])
def test_nonsense_is_told(tmp_path: Path, suffix: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "a.xyz").write_text("1\n\nC 0 0 0\n")
    (folder / f"b.{suffix}").write_text("nonsense\n")
    data = read_dataset(folder)
    assert [item.file for item in data.problems] == [f"b.{suffix}"]


def test_old_molecules_without_a_version(tmp_path: Path) -> None:
    text = sdf("H2O", "").replace(" V2000", "").replace("M  END\n", "")
    path = tmp_path / "a.mol"
    path.write_text(text)
    assert read_dataset(path, skip=False).frames.formulas() == ["H2O"]
    path.write_text(without(text, 6))
    with pytest.raises(FramesError, match="ends before its last atom"):
        read_dataset(path)


def test_a_second_molecule_that_cannot_be_told_from_data_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.mol"
    path.write_text(sdf("H2O", "") + sdf("CH4", "").replace(" V2000", ""))
    data = read_dataset(path)
    assert told(data) == [
        "'a.mol', entry 1 (line 18): there is no line with its numbers of atoms and bonds"
    ]


def test_an_sdf_is_never_held_as_a_whole(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.sdf"
    path.write_text("".join(texts("sdf")))
    taken = 0
    long = "".join(texts("sdf")[:1]).replace("0.1\n", "0.1\n" * 20_000) + "x\n" * 20_000

    class Counted:
        def __iter__(self) -> Iterator[str]:
            nonlocal taken
            for row in io.StringIO(sdf("CH4") + long):
                taken += 1
                yield row

    found = blocks._mol_texts(Counted())  # type: ignore[arg-type]
    assert next(found)[0] == 1
    assert taken == 10
    sizes = [len(rows) for _, rows in found]
    assert sizes == [8, blocks._MOL_LINES]
    items = blocks.mol_items(path, path.name)
    first = next(items)
    assert isinstance(first, Entry)
    assert first.record.names == {"name": "H2O"}
    items.close()  # type: ignore[attr-defined]
