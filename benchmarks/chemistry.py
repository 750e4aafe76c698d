"""What a chemist makes of generated molecules: bonds, SMILES and PoseBusters' checks.

Bonds and bond orders are perceived by RDKit from the positions alone (rdDetermineBonds, charge 0).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from aiida_rm.engine.converters import to_ase
from aiida_rm.engine.frames import Frames

try:
    from rdkit import Chem, RDLogger
    from rdkit.Chem import rdDetermineBonds
except ImportError:
    sys.exit("molecules are judged by RDKit; pip install rdkit")

RDLogger.DisableLog("rdApp.*")


@dataclass(frozen=True)
class Molecule:
    """What became of one set of atoms.

    Attributes:
        verdict: ``sound`` (one connected neutral molecule without radicals), or the first thing
            that is wrong: ``fragments``, ``bond orders`` (no closed-shell Lewis structure),
            ``charges`` or ``radicals``.
        mol: of RDKit, None unless sound.
        smiles: canonical, without stereochemistry; empty unless sound.
        checks: PoseBusters' verdicts by name, of sound ones where asked for.
    """

    verdict: str
    mol: Chem.Mol | None = None
    smiles: str = ""
    checks: dict[str, bool] = field(default_factory=dict)


def perceive(frames: Frames, index: int) -> Molecule:
    """Find the bonds of one structure."""
    atoms = to_ase(frames, index)
    lines = [
        f"{symbol} {x:.6f} {y:.6f} {z:.6f}"
        for symbol, (x, y, z) in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
    ]
    mol = Chem.MolFromXYZBlock(f"{len(atoms)}\n\n" + "\n".join(lines))
    try:
        rdDetermineBonds.DetermineConnectivity(mol)
        if len(Chem.GetMolFrags(mol)) != 1:
            return Molecule("fragments")
        rdDetermineBonds.DetermineBondOrders(mol, charge=0, maxIterations=5000)
        Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError):
        return Molecule("bond orders")
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return Molecule("radicals")
    if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return Molecule("charges")
    smiles = Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)
    return Molecule("sound", mol, smiles)


def bust(molecules: list[Molecule]) -> list[dict[str, bool]]:
    """PoseBusters' checks ``mol`` of each; nothing for those that are not sound."""
    try:
        from posebusters import PoseBusters
    except ImportError:
        sys.exit("the checks are those of PoseBusters; pip install posebusters")

    sound = [molecule.mol for molecule in molecules if molecule.mol is not None]
    if not sound:
        return [{} for _ in molecules]
    table = PoseBusters(config="mol").bust(sound, None, None, full_report=False)
    rows = iter(table.to_dict("records"))
    return [
        {str(name): bool(value) for name, value in next(rows).items()} if molecule.mol else {}
        for molecule in molecules
    ]
