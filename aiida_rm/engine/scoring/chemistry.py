"""What a chemist makes of a molecule: bonds and SMILES by RDKit, the checks of PoseBusters.

RDKit and PoseBusters are optional. They run in a process of their own (``scoring.chemist``), for
neither of them promises to come to an end on odd input.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.labels import CHECKS

Array = NDArray[Any]

#: Combinations of bond orders that RDKit may try; molecules of QM7b need a few.
_MAX_ITERATIONS = 5000
#: The check that takes nearly all of the time.
ENERGY: Final = "internal_energy"
#: Verdicts of molecules whose bonds were perceived; all but the first one are unsound.
PERCEIVED: Final = ("sound", "charges", "radicals")
#: Verdicts of molecules whose atoms hang together.
CONNECTED: Final = (*PERCEIVED, "bond orders")


@dataclass(frozen=True)
class Molecule:
    """What became of one set of atoms.

    Attributes:
        verdict: ``sound`` (one connected neutral molecule without radicals and charged atoms), or
            the first thing that is wrong: ``no geometry`` (positions that are not finite),
            ``fragments``, ``bond orders`` (no Lewis structure), ``radicals`` or ``charges`` (on
            atoms, as in nitro groups and zwitterions; the whole is neutral).
        smiles: canonical, without stereochemistry; empty unless the bonds were perceived.
        mol: of RDKit; None unless the bonds were perceived.
    """

    verdict: str
    smiles: str = ""
    mol: Any = None


def perceive(numbers: Array, positions: Array) -> Molecule:
    """Find bonds and bond orders from the positions alone.

    RDKit's rdDetermineBonds: connectivity by "connect the dots", then the bond orders that leave
    neither radicals nor, if it can be helped, charges on atoms; the total charge is 0.

    Args:
        numbers: (N,) atomic numbers.
        positions: (N, 3) in angstrom.
    """
    from rdkit import Chem
    from rdkit.Chem import rdDetermineBonds

    if not len(numbers) or not np.isfinite(positions).all():
        return Molecule("no geometry")
    lines = [
        f"{SYMBOLS[number]} {x:.6f} {y:.6f} {z:.6f}"
        for number, (x, y, z) in zip(numbers, positions, strict=True)
    ]
    try:
        mol = Chem.MolFromXYZBlock(f"{len(lines)}\n\n" + "\n".join(lines))
        if len(lines) > 1:  # RDKit refuses to look for the bonds of a lone atom
            rdDetermineBonds.DetermineConnectivity(mol)
        if len(Chem.GetMolFrags(mol)) != 1:
            return Molecule("fragments")
        rdDetermineBonds.DetermineBondOrders(mol, charge=0, maxIterations=_MAX_ITERATIONS)
        Chem.SanitizeMol(mol)
        smiles = Chem.MolToSmiles(Chem.RemoveHs(mol), isomericSmiles=False)
    except Exception:  # noqa: BLE001 - RDKit fails in many ways, all of which mean the same
        return Molecule("bond orders")
    if any(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()):
        return Molecule("radicals", smiles, mol)
    if any(atom.GetFormalCharge() for atom in mol.GetAtoms()):
        return Molecule("charges", smiles, mol)
    return Molecule("sound", smiles, mol)


@functools.cache
def _buster(*, energy: bool) -> Any:
    """PoseBusters with the energy check alone, or with all the others."""
    from posebusters import PoseBusters

    buster = PoseBusters(config="mol")
    modules = []
    for module in buster.config["modules"]:
        if (module["function"] == "energy_ratio") != energy:
            continue
        if energy:
            # Many processes share the cores already; the conformers have seeds of their own.
            module["parameters"]["num_threads"] = 1
        # The energy stands there twice, once without an output.
        if module.get("chosen_binary_test_output"):
            modules.append(module)
    buster.config["modules"] = modules
    return buster


def bust(mol: Any, *, energy: bool) -> dict[str, bool]:
    """The checks ``mol`` of PoseBusters (Buttenschoen et al., Chem. Sci. 15, 3130, 2024).

    Args:
        mol: of RDKit, with one conformer.
        energy: the internal energy, which compares with 50 relaxed conformers and takes nearly all
            of the time; else the other checks.

    Returns:
        Whether it passes, by the names in :data:`~aiida_rm.engine.labels.CHECKS`. Those that
        PoseBusters cannot make (no conformers to compare with, no parameters) are missing.

    Raises:
        SettingsError: this PoseBusters has other checks.
    """
    names = {name for name in CHECKS if (name == ENERGY) == energy}
    try:
        table = _buster(energy=energy).bust([mol], None, None, full_report=False)
        row = {str(name): value for name, value in table.iloc[0].items()}
    except Exception:  # noqa: BLE001 - of whatever kind: nothing is known of this molecule
        return {}
    if set(row) != names:
        odd = ", ".join(sorted(set(row) ^ names))
        raise SettingsError(
            f"'chemistry' is posebusters, but the one installed here differs in its checks "
            f"({odd}); pip install 'posebusters>=0.6,<0.7'"
        )
    return {name: bool(value) for name, value in row.items() if isinstance(value, bool | np.bool_)}
