"""Structures by ASE calculators: known energies, supercells, and calculators that misbehave."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators import emt
from ase.calculators.calculator import Calculator, all_changes
from ase.filters import FrechetCellFilter
from ase.optimize import FIRE

from aiida_rm.engine.ase_relaxation import judge, make_calculator, repeats
from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import FramesError, SettingsError
from aiida_rm.engine.labels import RELAXED
from aiida_rm.engine.settings import RelaxSettings, parse_settings

EMT = "ase.calculators.emt:EMT"
TBLITE = "tblite.ase:TBLite"


class Moody(Calculator):
    """Gives up on helium, knows no numbers for neon, no stress, and is otherwise flat."""

    implemented_properties: ClassVar[list[str]] = ["energy", "forces"]
    made = 0

    def __init__(self, mood: float = 0.0) -> None:
        super().__init__()
        self.mood = mood
        Moody.made += 1

    def calculate(self, atoms: Any = None, properties: Any = None, changes: Any = all_changes):
        super().calculate(atoms, properties, changes)
        if 2 in self.atoms.numbers:
            raise RuntimeError("no helium\nand no more")
        energy = np.nan if 10 in self.atoms.numbers else self.mood
        self.results = {"energy": energy, "forces": np.zeros((len(self.atoms), 3))}


MOODY = "tests.engine.test_ase_relaxation:Moody"


class Blind(emt.EMT):
    """Loses sight of carbon after the first step."""

    calls = 0

    def calculate(self, *args: Any, **kwargs: Any) -> None:
        super().calculate(*args, **kwargs)
        self.calls += 1
        if 6 in self.atoms.numbers and self.calls > 1:
            self.results["forces"] = np.full_like(self.results["forces"], np.nan)


BLIND = "tests.engine.test_ase_relaxation:Blind"


def run(atoms: list[Any], should_stop: Any = lambda: None, **settings: Any) -> tuple[Any, Any]:
    return judge(from_ase(atoms), parse_settings(RelaxSettings, settings), should_stop)


def copper(scale: float = 1.05) -> Any:
    atoms = bulk("Cu", a=3.6 * scale, cubic=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_no_structures_are_refused() -> None:
    with pytest.raises(FramesError, match="no structures to judge"):
        run([], calculator=EMT)


def test_relaxed_like_with_another_optimiser() -> None:
    found, reason = run([copper(), molecule("CO")], calculator=EMT, cell="free", fmax=1e-3)
    assert reason is None
    assert {name: values.dtype.kind for name, values in found.structure.items()} == RELAXED
    assert found.structure["verdict"].tolist() == ["converged"] * 2
    atoms = copper()
    atoms.calc = emt.EMT()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-3, steps=200)
    assert found.structure["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    assert found.volumes[0] == pytest.approx(atoms.get_volume(), rel=1e-3)
    assert (found.structure["fmax"] <= 1e-3).all()
    assert np.isnan(found.volumes[1])


def test_the_optimiser_is_a_choice() -> None:
    ways = [
        run([copper()], calculator=EMT, cell="free", fmax=1e-3, optimizer=name)[0]
        for name in ("bfgs", "lbfgs", "fire")
    ]
    energies = [float(found.structure["energy"][0]) for found in ways]
    assert energies == pytest.approx([energies[0]] * 3, abs=1e-5)
    steps = [int(found.structure["steps"][0]) for found in ways]
    assert steps[0] <= steps[1] < steps[2]


@pytest.mark.parametrize("optimizer", ["bfgs", "lbfgs", "fire"])
def test_forces_that_are_no_numbers(optimizer: str) -> None:
    found, _ = run([molecule("CO"), molecule("O2")], calculator=BLIND, optimizer=optimizer)
    verdict, other = found.structure["verdict"].tolist()
    assert "no finite number" in verdict
    assert "EMT" not in verdict
    assert other == "converged"


def test_single_points_move_nothing() -> None:
    found, _ = run([copper()], calculator=EMT, relax=False)
    atoms = copper()
    atoms.calc = emt.EMT()
    assert found.structure["energy"][0] == pytest.approx(atoms.get_potential_energy())
    np.testing.assert_array_equal(found.positions, atoms.positions)


@pytest.mark.parametrize("cell", ["fixed", "shape", "hydrostatic", "free"])
def test_cells(cell: str) -> None:
    found, _ = run([copper()], calculator=EMT, cell=cell, max_steps=15)
    before = copper().cell.array
    same = np.allclose(found.cells[0], before)
    assert same == (cell == "fixed")
    if cell == "shape":
        assert found.volumes[0] == pytest.approx(np.linalg.det(before), rel=1e-2)


def test_a_supercell_is_the_same_crystal() -> None:
    primitive = bulk("Cu", a=3.7)
    one, _ = run([primitive], calculator=EMT, cell="free", fmax=1e-3)
    many, _ = run([primitive], calculator=EMT, cell="free", fmax=1e-3, min_atoms=20)
    assert many.n_atoms == 1
    assert many.structure["energy"][0] == pytest.approx(one.structure["energy"][0], abs=1e-6)
    np.testing.assert_allclose(many.cells, one.cells, atol=1e-6)
    assert np.prod(repeats(primitive, 20)) >= 20
    assert repeats(molecule("CO"), 64) == (1, 1, 1)
    slab = bulk("Cu", cubic=True)
    slab.pbc = [True, True, False]
    assert repeats(slab, 64) == (4, 4, 1)


def test_what_fails_leaves_the_others_alone() -> None:
    Moody.made = 0
    helium, neon, argon = (bulk(name, "fcc", a=4.0) for name in ("He", "Ne", "Ar"))
    found, _ = run([helium, argon, neon, argon], calculator=MOODY, arguments={"mood": 2.0})
    verdicts = found.structure["verdict"].tolist()
    assert verdicts[0].startswith(f"failed: {MOODY} ended with RuntimeError: no helium; is it")
    assert verdicts[2].startswith("failed: its energy is no finite number")
    assert verdicts[1] == verdicts[3] == "converged"
    np.testing.assert_array_equal(found.structure["energy"], [np.nan, 2.0, np.nan, 2.0])
    assert Moody.made == 2  # a new one after it gave up
    found, _ = run([argon], calculator=MOODY, cell="free")
    assert found.structure["verdict"][0] == (
        "failed: the calculator gives no stress; set 'cell' to fixed"
    )


def test_out_of_steps_keeps_the_last_energy() -> None:
    found, _ = run([copper()], calculator=EMT, max_steps=1)
    assert found.structure["verdict"][0].startswith("failed: not relaxed in 1 steps (force")
    assert np.isfinite(found.structure["energy"][0])


def test_the_walltime_ends_all_in_order() -> None:
    asked = iter([None, None, None, "walltime"])
    found, reason = run(
        [copper(), copper(), copper()], lambda: next(asked, "walltime"), calculator=EMT
    )
    assert reason == "walltime"
    verdicts = found.structure["verdict"].tolist()
    assert verdicts[0].startswith("failed: the job was to end before it was relaxed; give a longer")
    assert verdicts[1].startswith("failed: not reached before the job was to end; give a longer")
    assert np.isfinite(found.structure["energy"]).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"calculator": "no.such:Thing"}, "'no.such:Thing' cannot be imported .*install"),
        ({"calculator": "ase.calculators.emt:EMTT"}, "cannot be imported"),
        ({"calculator": "ase.build:bulk"}, "is no class of ASE calculators"),
        ({"calculator": MOODY, "arguments": {"temper": 1}}, "cannot be made .*'arguments'"),
    ],
)
def test_calculators_that_are_none(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(SettingsError, match=says):
        make_calculator(parse_settings(RelaxSettings, settings))


def test_what_other_packages_say_is_one_plain_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"\x1b[1mWeights only load failed.\x1b[0m\n\t(1) pages and pages"
    (tmp_path / "chatty.py").write_text(f'raise RuntimeError("{said}")')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SettingsError) as caught:
        make_calculator(parse_settings(RelaxSettings, {"calculator": "chatty:Calculator"}))
    assert "(RuntimeError: Weights only load failed); it must be" in str(caught.value)


def test_tblite_on_crystals_takes_a_supercell_and_says_so() -> None:
    pytest.importorskip("tblite")
    arguments = {"method": "GFN1-xTB", "verbosity": 0}
    diamond = bulk("C", "diamond", a=3.567)
    found, _ = run([diamond, molecule("H2O")], calculator=TBLITE, arguments=arguments, relax=False)
    assert found.structure["verdict"].tolist() == ["converged"] * 2
    assert found.structure["note"].tolist() == ["Gamma point only, in a supercell of 72 atoms", ""]
    # Two atoms' energy, near that of the limit of large cells.
    assert found.structure["energy"][0] == pytest.approx(-116.17, abs=0.2)
