"""Any command as a referee: real ones, and what people get wrong."""

from __future__ import annotations

import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida.engine import run_get_node
from ase.build import bulk, molecule
from ase.calculators import emt

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.converters import from_ase
from aiida_rm.referees.programs import MAX_OUTPUT_BYTES, read_structure
from aiida_rm.referees.shell import find_energy
from aiida_rm.workflows.judge import JudgeWorkChain
from tests.foreign.watch import watched

ENERGY = r"energy = (\S+)"
#: A program that knows nothing of this project.
PROGRAM = """#!{python}
import sys
import ase.io
from ase.calculators.emt import EMT
from ase.optimize import BFGS
atoms = ase.io.read(sys.argv[1])
atoms.calc = EMT()
print("energy =", atoms.get_potential_energy() / 2)
BFGS(atoms, logfile=None).run(fmax=0.01)
print("energy =", atoms.get_potential_energy())
ase.io.write(sys.argv[2], atoms)
print("bye")
"""


@pytest.fixture
def emt_code(make_code: Any, tmp_path: Path) -> Any:
    path = tmp_path / "emt.py"
    path.write_text(PROGRAM.format(python=sys.executable))
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return make_code(path, label="emt")


def crystals() -> FramesData:
    copper = bulk("Cu", cubic=True)
    copper.positions[0] += [0.1, 0.05, 0]
    return FramesData(from_ase([copper, bulk("Fe", cubic=True)]))


@pytest.mark.parametrize(
    ("kind", "relaxed"),
    [
        ("extxyz", "out.extxyz"),
        pytest.param("cif", "out.cif", marks=pytest.mark.slow),
        pytest.param("poscar", "CONTCAR", marks=pytest.mark.slow),
    ],
)
def test_crystals_by_a_script(kind: str, relaxed: str, emt_code: Any, judge: Any) -> None:
    settings = {
        "arguments": ["{structure}", relaxed],
        "format": kind,
        "energy_pattern": ENERGY,
        "relaxed_file": relaxed,
        "converged_pattern": "^bye$",
    }
    given = crystals()
    found, frames, node = judge(frames=given, referee="shell", code=emt_code, settings=settings)
    assert node.is_finished_ok
    assert found["verdict"][0] == "converged"
    assert found["verdict"][1].startswith("failed: 'emt' ended with status 1 (NotImplementedError")
    atoms = bulk("Cu", cubic=True)
    atoms.calc = emt.EMT()
    assert found["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    # One of four atoms went home by 0.112 A; the common shift does not count.
    assert found["rmsd"][0] == pytest.approx(0.112 * np.sqrt(3) / 4, abs=2e-3)
    assert frames.volumes[0] == pytest.approx(atoms.get_volume(), rel=1e-4)


def test_a_molecule_on_the_standard_input(script: Any, judge: Any) -> None:
    given = FramesData(from_ase([molecule("H2O"), molecule("CO")]))
    settings = {
        "arguments": [],
        "stdin": True,
        "format": "xyz",
        "energy_pattern": "^ *E *= *(.*)$",
        "energy_unit": "hartree",
        "energy_file": "result.txt",
        "converged_pattern": "done",
    }
    told = 'read n; echo "E = -$n.5D+00" > result.txt; [ $n = 2 ] || echo done >> result.txt'
    code = script(told)
    found, frames, _ = judge(frames=given, referee="shell", code=code, settings=settings)
    assert found["energy"] / 27.211386245988 == pytest.approx([-3.5, -2.5])
    assert found["verdict"][0] == "converged"
    assert found["verdict"][1].startswith("failed: 'converged_pattern' does not match")
    assert found["rmsd"].tolist() == [0, 0]
    np.testing.assert_array_equal(frames.positions, given.get_frames().positions)


@pytest.mark.slow
def test_xtb_as_any_command(xtb_code: Any, judge: Any) -> None:
    settings = {
        "arguments": ["{structure}", "--opt", "normal", "--gfn", "2"],
        "format": "xyz",
        "energy_pattern": r"TOTAL ENERGY +(\S+) Eh",
        "energy_unit": "hartree",
        "relaxed_file": "xtbopt.xyz",
    }
    given = FramesData(from_ase([molecule("H2O")]))
    found, _, _ = judge(frames=given, referee="shell", code=xtb_code, settings=settings)
    own, _, _ = judge(frames=given, referee="xtb", code=xtb_code)
    assert found["energy"][0] == pytest.approx(own["energy"][0], abs=1e-6)
    assert found["rmsd"][0] == pytest.approx(own["rmsd"][0], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("energy = 1\nenergy = -2.5e1 eV", -25.0),
        ("nothing", "'energy_pattern' does not match anything"),
        ("energy = nan", "'energy_pattern' finds the energy nan"),
        ("energy = ***", "'energy_pattern' finds '***', which is no number,"),
    ],
)
def test_energies(text: str, expected: float | str) -> None:
    assert find_energy(text, ENERGY, "eV") == expected


def test_what_is_relaxed_is_foreign(tmp_path: Path) -> None:
    """It is not read where it cannot be of the structure that was given."""
    given = from_ase([bulk("Cu")])
    path = tmp_path / "out.extxyz"
    with path.open("wb") as handle:
        handle.truncate(MAX_OUTPUT_BYTES + 1)
    with watched(10_000_000):
        assert "is much too large" in read_structure(path, given)
    path.write_text("1\nProperties=species:S:1:pos:R:3:x:R:50000000\nCu 0 0 0\n")
    with watched(10_000_000):
        assert "cannot be read" in read_structure(path, given)
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert "did not come back" in read_structure(path, given)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"energy_pattern": ""}, "without a group for the energy; give one, such as"),
        ({"energy_pattern": "E=(.*"}, "'energy_pattern' is no regular expression"),
        ({"converged_pattern": "["}, "'converged_pattern' is no regular expression"),
        ({"arguments": ["-x"]}, r"'arguments' lack \{structure\}; add it, or set 'stdin'"),
        ({"arguments": ["{structure}", "{}"]}, "alone is known; double the braces"),
        ({"arguments": ["{file}"]}, r"hold '\{file\}', but \{structure\} alone"),
        ({"arguments": ["{structure"]}, "double braces"),
        ({"arguments": ["{structure}", ">"]}, "output is always kept"),
        ({"energy_unit": "mHa"}, "'energy_unit' is 'mHa', must be one of eV"),
        ({"relaxed_file": "../x"}, "'relaxed_file' is '../x'; give the name of a file in"),
        ({"relaxed_file": "out.xyz.gz"}, "'relaxed_file' is 'out.xyz.gz'; .* write it unpacked"),
        ({"energy_file": "stdout"}, "other than stdout"),
        ({"format": "xyz"}, r"structure 0 \(Cu4\) is periodic, which the format xyz does not"),
    ],
)
def test_refused_at_submission(make_code: Any, settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        run_get_node(
            JudgeWorkChain,
            frames=crystals(),
            referee="shell",
            code=make_code("/bin/true"),
            settings={"energy_pattern": ENERGY, **settings},
        )


def test_molecules_have_no_cell_to_write(make_code: Any) -> None:
    with pytest.raises(ValueError, match=r"structure 0 \(CO\) is not periodic in all dir"):
        run_get_node(
            JudgeWorkChain,
            frames=FramesData(from_ase([molecule("CO")])),
            referee="shell",
            code=make_code("/bin/true"),
            settings={"energy_pattern": ENERGY, "format": "cif"},
        )
