"""Molecules of given formulas, crystals of given compositions: the scripts at their smallest."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import pandas as pd
import pytest
from aiida import orm
from ase import Atoms
from ase.build import bulk, molecule

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
SALTS = {"NaCl": 5.64, "KCl": 6.29, "NaF": 4.63, "LiF": 4.03, "MgO": 4.21, "KBr": 6.60}
MOLECULES = ("CH4", "NH3", "H2O", "C2H6", "C2H4", "CH3OH", "CH3CH2OH", "H2CO", "CH3SH", "H2COH")


@pytest.fixture
def run(
    engine_code: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str]]:
    """``run("qm7b", atoms, *options)``: the script on these structures, in the profile of tests."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import study
    from rich.console import Console

    screen = tmp_path / "screen.txt"
    monkeypatch.setattr(study, "open_profile", lambda _: engine_code)
    monkeypatch.setattr(study, "FOLDER", tmp_path)

    def call(name: str, atoms: list[Atoms], *options: str) -> tuple[int, str]:
        script = __import__(name)
        dataset = tmp_path / "dataset.extxyz"
        ase.io.write(dataset, atoms)
        monkeypatch.setattr(sys, "argv", [f"{name}.py", str(dataset), *options])
        with screen.open("w") as file:
            monkeypatch.setattr(study, "console", Console(file=file, width=200))
            status = script.main()
        return status, screen.read_text()

    return call


def crystals() -> list[Atoms]:
    found = []
    for name, length in SALTS.items():
        salt = bulk(name, "rocksalt", a=length)
        salt.info["id"] = f"mine-{name}"
        found.append(salt)
    return found


def test_molecules(run: Any) -> None:
    options = ["--formulas", "CH4", "CH4O", "--starts", "4", "--tiny"]
    status, told = run("qm7b", [molecule(name) for name in MOLECULES], *options)
    assert status == 0, told
    assert "dataset.extxyz: 10 structures" in told
    assert "│ CH4 " in told
    assert "│ CH4O " in told
    assert ("--rule sound=true" in told) is not ("None is valid, unique, sound" in told)


def test_crystals(run: Any) -> None:
    status, told = run(
        "mp_compositions", crystals(), "--formulas", "Na2Cl2", "--starts=4", "--tiny"
    )
    assert status == 0, told
    assert "│ Cl2Na2  │ 4 " in told
    assert "space group" in told


def test_a_known_crystal_is_found(run: Any) -> None:
    """Rock salt from its composition, on the potential that comes with the examples."""
    potential = str(EXAMPLES / "potentials" / "mp.safetensors")
    options = ["--formulas", "MgO", "--starts=6", "--best=3", "--potential", potential]
    status, told = run("mp_compositions", crystals(), *options)
    assert status == 0, told
    assert "training on the response" not in told
    row = next(line for line in told.splitlines() if "mine-MgO" in line)
    cells = [cell.strip() for cell in row.split("│")]
    assert cells[1] == "MgO"
    assert cells[5:8] == ["mine-MgO", "False", "225"]


def test_a_formula_on_the_sites_of_those_like_it(run: Any) -> None:
    """Calcium oxide from a file that does not hold it: by the scale, sodium chloride is nearest."""
    potential = str(EXAMPLES / "potentials" / "mp.safetensors")
    options = ["--formulas", "CaO", "--starts=2", "--substitute", "--potential", potential]
    status, told = run("mp_compositions", crystals(), *options)
    assert status == 0, told
    assert "distance" in told
    assert "--sort substitution_distance" in told
    frames = orm.load_node(int(told.split("frames show ")[1].split()[0])).get_frames()
    assert frames.structure["start"][0] == list(SALTS).index("NaCl")
    assert frames.structure["spacegroup"].tolist() == [225, 225]
    assert frames.structure["substitution_distance"].tolist() == [4.5, 4.5]


def test_a_committee_judges_beside_a_potential(run: Any) -> None:
    files = [str(EXAMPLES / "potentials" / f"qm7b{end}.safetensors") for end in ("", "_member_1")]
    options = ["--formulas", "CH4O", "--starts=2", "--potential", files[0], "--committee", files[1]]
    status, told = run("qm7b", [molecule("CH3OH")], *options)
    assert status == 0, told
    frames = orm.load_node(int(told.split("frames show ")[1].split()[0]))
    assert (frames.get_frames().structure["uncertainty"] > 0).all()


def test_the_brackets_of_a_smiles_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import study
    from rich.console import Console

    file = io.StringIO()
    monkeypatch.setattr(study, "console", Console(file=file, width=100))
    table = pd.DataFrame({"formula": ["C4H5N"], "smiles": ["c1cc[nH]c1"]}).set_index("formula")
    study._print("Pyrrole", ["smiles"], table)
    assert "c1cc[nH]c1" in file.getvalue()


def test_mistakes_are_one_line(run: Any) -> None:
    with pytest.raises(SystemExit, match="Xx"):
        run("qm7b", [molecule("CH4")], "--formulas", "Xx2", "--tiny")
    with pytest.raises(SystemExit, match="there is no potential nowhere"):
        run("qm7b", [molecule("CH4")], "--formulas", "CH4", "--potential", "nowhere")
    with pytest.raises(SystemExit, match="--committee judges beside a --potential"):
        run("qm7b", [molecule("CH4")], "--formulas", "CH4", "--committee", "nowhere")
