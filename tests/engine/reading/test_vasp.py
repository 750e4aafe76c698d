"""POSCARs, several of them in a file, and XDATCARs."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.readers import read_dataset
from aiida_rm.engine.reading import vasp
from tests.engine.reading.test_formats import told

LENGTHS = (5.0, 4.0, 6.0)
VELOCITIES = "\n  0.1 0.2 0.3\n -0.1 0.0 0.0\n"
LATTICE = "Lattice velocities and vectors\n 1\n" + " 0.1 0 0\n" * 3 + " 3 0 0\n" * 3
EXTRA = "\n 1\n 0.5E+00\n 0.1E+00 0.0E+00 0.0E+00 0.0E+00\n" + " 0.1E+00 0.0E+00 0.0E+00\n" * 6
CHARGES = "\n 2 2 2\n 0.1 0.2 0.3 0.4 0.5\n 0.1 0.2 0.3\naugmentation occupancies 1 2\n 0.1 0.2\n"


def poscar(length: float, *, names: str = "Cs Cl\n", title: str = "Cs Cl", more: str = "") -> str:
    return (
        f"{title}\n 1.0\n {length} 0 0\n 0 {length} 0\n 0 0 {length}\n {names} 1 1\n{more}Direct\n"
        " 0.0 0.0 0.0 Cs\n 0.5 0.5 0.5 Cl\n"
    )


def step(number: int) -> str:
    return f"Direct configuration= {number:5d}\n 0.0 0.0 0.{number}\n 0.5 0.5 0.5\n"


def head(length: float) -> str:
    return poscar(length).partition("Direct")[0]


def lengths(path: Path) -> list[float]:
    frames = read_dataset(path, skip=False).frames
    assert set(frames.formulas()) == {"ClCs"}
    np.testing.assert_allclose(frames.positions[1::2, 0], frames.cells[:, 0, 0] / 2)
    return frames.cells[:, 0, 0].tolist()


@pytest.mark.parametrize("name", ["a.vasp", "a.poscar", "POSCAR", "CONTCAR.7"])
@pytest.mark.parametrize("names", ["Cs Cl\n", "Cs_sv/ab12 Cl\n", ""])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("tail", ["", "\n", VELOCITIES, LATTICE + VELOCITIES, EXTRA, CHARGES])
def test_all_of_several_are_read(
    tmp_path: Path, name: str, names: str, count: int, tail: str
) -> None:
    path = tmp_path / name
    path.write_text("".join(poscar(a, names=names) + tail for a in LENGTHS[:count]))
    assert lengths(path) == list(LENGTHS[:count])


def test_titles_and_selective_dynamics(tmp_path: Path) -> None:
    selective = "Selective dynamics\n"
    path = tmp_path / "a.vasp"
    path.write_text(
        poscar(5, title="EA1 4.00 sym.group: 1")
        + poscar(4, title="Lithium", more=selective).replace("0 Cs", "0 T F F Cs")
        + "Cartesian\n 0.1 0.1 0.1\n 0.1 0.1 0.1\n"
        + poscar(6, title="")
    )
    assert lengths(path) == list(LENGTHS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.replace(" 0.5 0.5 0.5 Cl\n", ""), "ends before the last of 2 atoms"),
        (lambda x: x.replace("0.5 Cl", "oops Cl"), "cannot be read: .*oops"),
        (lambda x: x.replace("Cs Cl", "Qq Cl"), "cannot be read|unknown"),
        (lambda x: x.replace(" 1 1\n", " 1 90000000\n"), "before the last of 90000001 atoms"),
        (lambda x: x.replace(" 1.0\n", " one\n"), "follows the atoms of a structure: 'Cs Cl'"),
        (lambda x: x.replace(" 1 1\n", " one 1\n"), "no line with its numbers of atoms"),
        (lambda _: "The end.\n", "follows the atoms of a structure: 'The end.'"),
    ],
)
def test_a_broken_one_between_good_ones(tmp_path: Path, change, message: str) -> None:
    path = tmp_path / "a.vasp"
    path.write_text(poscar(5) + change(poscar(4)) + poscar(6))
    data = read_dataset(path)
    assert data.frames.cells[:, 0, 0].tolist() == [5, 6]
    assert len(data.problems) == 1
    assert "line 11" in told(data)[0]
    with pytest.raises(FramesError, match=message):
        read_dataset(path, skip=False)


@pytest.mark.parametrize("name", ["XDATCAR", "a.vasp", "XDATCAR.gz"])
def test_steps(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    for text, expected in (
        (head(5) + step(1) + step(2) + step(3), [5, 5, 5]),
        (head(5) + step(1) + head(4) + step(2) + head(6) + step(3), [5, 4, 6]),
    ):
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        else:
            path.write_text(text)
        assert lengths(path) == expected
        frames = read_dataset(path).frames
        np.testing.assert_allclose(
            frames.positions[::2, 2] / frames.cells[:, 2, 2], [0.1, 0.2, 0.3]
        )


@pytest.mark.parametrize("varies", [False, True])
def test_a_broken_step_between_good_ones(tmp_path: Path, varies: bool) -> None:
    path = tmp_path / "XDATCAR"
    parts = [head(5) if index == 0 or varies else "" for index in range(3)]
    for broken in (step(2).replace(" 0.5 0.5 0.5\n", ""), step(2).replace("0.0", "oops")):
        steps = [step(1), broken, step(3)]
        path.write_text("".join(a + b for a, b in zip(parts, steps, strict=True)))
        data = read_dataset(path)
        np.testing.assert_allclose(data.frames.positions[::2, 2], [0.5, 1.5])
        assert len(data.problems) == 1
        assert "entry 1 (line" in told(data)[0]


def test_as_ase_reads_it(tmp_path: Path) -> None:
    cells = [bulk("C", "diamond", a=3.5 + index) for index in range(3)]
    for atoms in cells:
        atoms.rattle(0.1)
    path = tmp_path / "XDATCAR"
    ase.io.write(path, cells, format="vasp-xdatcar")
    steps = read_dataset(path, skip=False).frames
    text = ""
    for atoms in cells:
        stream = io.StringIO()
        ase.io.write(stream, atoms, format="vasp")
        text += stream.getvalue()
    path = tmp_path / "a.vasp"
    path.write_text(text)
    several = read_dataset(path, skip=False).frames
    expected = np.concatenate([atoms.get_scaled_positions() for atoms in cells])
    for frames in (steps, several):
        assert len(frames) == 3
        scaled = np.concatenate(
            [
                frames.positions[frames.ptr[i] : frames.ptr[i + 1]] @ np.linalg.inv(frames.cells[i])
                for i in range(3)
            ]
        )
        np.testing.assert_allclose(scaled % 1, expected, atol=1e-6)


def test_elements_of_the_potcar_beside_it(tmp_path: Path) -> None:
    (tmp_path / "POTCAR").write_text(" TITEL  = PAW_PBE Cs_sv 1\n TITEL  = PAW_PBE Cl 1\n")
    (tmp_path / "POSCAR").write_text(poscar(5, names="", title="salt"))
    assert lengths(tmp_path / "POSCAR") == [5]


def test_few_lines_are_held(tmp_path: Path) -> None:
    charges = " 0.1 0.2 0.3 0.4 0.5\n" * 5000
    for counts in (" 1 1\n", " one 1\n"):
        text = poscar(5).replace(" 1 1\n", counts) + charges
        (held,) = vasp._poscar_texts(io.StringIO(text))
        assert len(held.rows) < 20
        assert not held.strange
    path = tmp_path / "a.vasp"
    path.write_text(text + poscar(4))
    data = read_dataset(path)
    assert data.frames.cells[:, 0, 0].tolist() == [4]
    assert told(data) == ["'a.vasp', entry 0 (line 1): it has no line with its numbers of atoms"]
