"""Labels that the tasks give to each structure, with their kinds as numpy names them.

Both halves import these tables: the engine writes the labels, AiiDA checks rules and files by them.
Labels with more than one value a structure (``rdf``, ``stress``) are not listed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

#: Of task generate.
GENERATED: Final = {
    "index": "i",
    "seed": "i",
    "start": "i",
    "start_spacegroup": "i",
    "substitution_distance": "f",
    "energy": "f",
    "energy_per_atom": "f",
    "energy_percentile": "f",
    "latent_distance": "f",
    "latent_percentile": "f",
    "ranking": "f",
    "fmax": "f",
    "steps": "i",
    "status": "i",
}

#: Those of them that only a potential gives which remembers its training set.
LATENT: Final = ("latent_distance", "latent_percentile")

#: Of task generate with a committee of potentials (relaxation/uncertainty.py). The atoms have
#: the label `force_deviation`.
COMMITTEE: Final = {
    "uncertainty": "f",
    "uncertainty_mean": "f",
    "committee_energy_per_atom": "f",
    "energy_deviation": "f",
    "cell_deviation": "f",
}

#: The checks ``mol`` of PoseBusters 0.6, by its own names. Their labels begin with ``check_``.
CHECKS: Final = (
    "mol_pred_loaded",
    "sanitization",
    "inchi_convertible",
    "all_atoms_connected",
    "no_radicals",
    "bond_lengths",
    "bond_angles",
    "internal_steric_clash",
    "aromatic_ring_flatness",
    "non-aromatic_ring_non-flatness",
    "double_bond_flatness",
    "internal_energy",
)


def check_label(name: str) -> str:
    """The label of a check."""
    return "check_" + name.replace("-", "_")


#: Of task score, by what molecules are judged with: nothing, RDKit, PoseBusters.
STABILITY: Final = {"stable_atoms": "f", "stable_molecule": "b"}
PERCEPTION: Final = {
    "verdict": "U",
    "smiles": "U",
    "connected": "b",
    "perceived": "b",
    "sound": "b",
}
POSEBUSTERS: Final = {"clean": "b", "unchecked": "i", **{check_label(name): "b" for name in CHECKS}}

#: Of task score, of crystals: by SMACT, and by geometry alone.
SMACT: Final = {"composition_valid": "b"}
CRYSTAL: Final = {
    "structure_valid": "b",
    "structure_strict": "b",
    "density": "f",
    "spacegroup_loose": "i",
}

#: Of task score.
SCORED: Final = {
    "valid": "b",
    "converged": "b",
    "min_distance": "f",
    "min_radii_ratio": "f",
    "volume_per_atom": "f",
    "spacegroup": "i",
    "duplicate_of": "i",
    "unique": "b",
    "novel": "b",
    "match": "U",
    "match_rmsd": "f",
    "match_loose": "U",
    "match_rmsd_loose": "f",
    "coordination_min": "i",
    "coordination_max": "i",
    "coordination_mean": "f",
    **CRYSTAL,
    **SMACT,
    **STABILITY,
    **PERCEPTION,
    **POSEBUSTERS,
}

#: Of a referee's run: the structure within the run, its energy in eV, and the verdict in words.
#: Also `relaxed` (bool) where some structures stay as they were given.
JUDGED: Final = {"row": "i", "energy": "f", "verdict": "U", "note": "U"}

#: Of task relax: also the steps taken, and the largest force in eV/angstrom.
RELAXED: Final = {**JUDGED, "steps": "i", "fmax": "f"}

#: Of a referee, after its name and an underscore: `xtb_energy_per_atom`, in a set of structures.
VERDICTS: Final = {
    "row": "i",
    "energy": "f",
    "energy_per_atom": "f",
    "above_hull": "f",
    "rmsd": "f",
    "verdict": "U",
    "note": "U",
}


def problem_of_labels(labels: Mapping[str, Any], kinds: Mapping[str, str]) -> str | None:
    """Say which labels of structures are missing, or not one value a structure of their kind.

    Args:
        labels: arrays by name, which somebody else may have written.
        kinds: what there should be, as in the tables above.
    """
    absent = [name for name in kinds if name not in labels]
    if absent:
        return f"the structures lack the labels {', '.join(absent)}"
    wrong = [
        name
        for name, kind in kinds.items()
        if labels[name].ndim != 1 or labels[name].dtype.kind.replace("u", "i") != kind
    ]
    return f"the labels {', '.join(wrong)} are of a wrong type" if wrong else None
