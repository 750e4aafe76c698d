"""Bonds by RDKit, checks by PoseBusters, and the process that they run in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.labels import CHECKS
from aiida_rm.engine.scoring.chemist import Chemist, Opinion
from aiida_rm.engine.scoring.chemistry import bust, perceive

pytest.importorskip("rdkit", reason="bonds are perceived by rdkit")
pytest.importorskip("posebusters", reason="checks are those of posebusters")


def embedded(smiles: str, seed: int = 1) -> Atoms:
    """A molecule with the geometry that RDKit's force field gives it."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    AllChem.MMFFOptimizeMolecule(mol)
    numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return Atoms(numbers, mol.GetConformer().GetPositions())


def two_waters() -> Atoms:
    far = molecule("H2O")
    far.positions += 4.0
    return molecule("H2O") + far


@pytest.mark.parametrize(
    ("atoms", "verdict", "smiles"),
    [
        (molecule("H2O"), "sound", "O"),
        (molecule("C6H6"), "sound", "c1ccccc1"),
        (molecule("CH3CH2OH"), "sound", "CCO"),
        (molecule("H2"), "sound", "[H][H]"),
        (Atoms("Ne"), "sound", "[Ne]"),
        (molecule("CH3"), "bond orders", ""),
        (molecule("O2"), "sound", "O=O"),
        (molecule("CH3NO2"), "charges", "C[N+](=O)[O-]"),
        (two_waters(), "fragments", ""),
        (Atoms("FeC", [[0, 0, 0], [0, 0, 1.8]]), "bond orders", ""),
        (Atoms("HOH", np.full((3, 3), np.nan)), "no geometry", ""),
        (Atoms(), "no geometry", ""),
    ],
)
def test_hand_made(atoms: Atoms, verdict: str, smiles: str) -> None:
    found = perceive(atoms.numbers, atoms.positions)
    assert (found.verdict, found.smiles) == (verdict, smiles)
    assert (found.mol is not None) == bool(smiles)


def test_a_zwitterion_has_charges() -> None:
    glycine = embedded("[NH3+]CC(=O)[O-]")
    found = perceive(glycine.numbers, glycine.positions)
    assert (found.verdict, found.smiles) == ("charges", "[NH3+]CC(=O)[O-]")


def test_mirror_images_and_orders_have_one_smiles() -> None:
    atoms = embedded("C[C@H](N)C(=O)O")
    mirrored = atoms[::-1]
    mirrored.positions[:, 0] *= -1
    smiles = {perceive(part.numbers, part.positions).smiles for part in (atoms, mirrored)}
    assert smiles == {"CC(N)C(=O)O"}


def passed(mol: Any) -> dict[str, bool]:
    return bust(mol, energy=False) | bust(mol, energy=True)


class TestPoseBusters:
    def test_all_passed(self) -> None:
        atoms = embedded("CCCCO")
        mol = perceive(atoms.numbers, atoms.positions).mol
        assert passed(mol) == dict.fromkeys(CHECKS, True)

    def test_it_is_what_posebusters_says_in_one_go(self) -> None:
        from posebusters import PoseBusters

        for atoms in (molecule("C6H6"), embedded("C1CCC1=O"), molecule("CH4")):
            mol = perceive(atoms.numbers, atoms.positions).mol
            row = PoseBusters(config="mol").bust([mol], None, None).iloc[0]
            assert passed(mol) == {name: bool(row[name]) for name in row.index}

    def test_a_bent_one_fails_where_it_should(self) -> None:
        atoms = molecule("C6H6")
        carbons = np.flatnonzero(atoms.numbers == 6)
        atoms.positions[carbons[0]] += [0, 0, 0.8]
        found = perceive(atoms.numbers, atoms.positions)
        assert found.verdict == "sound"
        failed = {name for name, good in passed(found.mol).items() if not good}
        assert "aromatic_ring_flatness" in failed
        assert "all_atoms_connected" not in failed

    def test_what_it_cannot_read_passes_nothing(self) -> None:
        assert passed("no molecule") == {}

    def test_what_it_cannot_say_is_missing(self) -> None:
        # No force field for neon, so no energy to compare with.
        found = passed(perceive(np.array([10]), np.zeros((1, 3))).mol)
        assert set(CHECKS) - set(found) == {"internal_energy"}


class TestProcess:
    def test_it_says_what_is_said_here(self) -> None:
        chemist = Chemist(60.0, checks=False)
        try:
            for name in ("C6H6", "CH3NO2", "CH3"):
                atoms = molecule(name)
                here = perceive(atoms.numbers, atoms.positions)
                there = chemist.judge(atoms.numbers, atoms.positions)
                assert there == Opinion(here.verdict, here.smiles)
            assert set(chemist.versions) == {"rdkit"}
        finally:
            chemist.close()

    def test_what_takes_too_long_is_given_up(self) -> None:
        # So many atoms take RDKit half a second of processor time.
        block = bulk("C", cubic=True).repeat(10)
        chemist = Chemist(0.01, checks=False)
        try:
            found = [chemist.judge(block.numbers, block.positions) for _ in range(2)]
            assert found == [Opinion("given up")] * 2
        finally:
            chemist.close()

    @pytest.mark.parametrize("fate", ["while True: pass", "os.abort()"])
    def test_checks_that_do_not_end_leave_the_verdict(
        self, fate: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "posebusters.py").write_text(
            "import os\n__version__ = '0'\nclass PoseBusters:\n"
            "    def __init__(self, config): self.config = {'modules': []}\n"
            "    def bust(self, *given, **more):\n"
            f"        {fate}\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        water, radical = molecule("H2O"), molecule("CH3")
        chemist = Chemist(1.0, checks=True)
        try:
            assert chemist.judge(water.numbers, water.positions) == Opinion("sound", "O")
            assert chemist.judge(radical.numbers, radical.positions).verdict == "bond orders"
        finally:
            chemist.close()

    def test_it_starts_again_after_it_died(self) -> None:
        water = molecule("H2O")
        chemist = Chemist(60.0, checks=False)
        try:
            chemist.judge(water.numbers, water.positions)
            process = chemist._process
            assert process is not None
            process.kill()
            process.wait()
            assert chemist.judge(water.numbers, water.positions).smiles == "O"
        finally:
            chemist.close()

    def test_a_broken_installation_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "rdkit.py").write_text("raise ImportError('libX is missing')\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        with pytest.raises(SettingsError, match=r"libX is missing.*pip install 'aiida-rm\[mol"):
            Chemist(60.0, checks=False).judge(np.array([1]), np.zeros((1, 3)))
