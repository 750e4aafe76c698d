"""Labels that the tasks give to each structure, with their kinds as numpy names them.

Both halves import these tables: the engine writes the labels, AiiDA checks rules and files by them.
Labels with more than one value a structure (``rdf``, ``stress``) are not listed.
"""

from __future__ import annotations

from typing import Final

#: Of task generate.
GENERATED: Final = {
    "index": "i",
    "seed": "i",
    "start": "i",
    "start_spacegroup": "i",
    "energy": "f",
    "energy_per_atom": "f",
    "energy_percentile": "f",
    "fmax": "f",
    "steps": "i",
    "status": "i",
}

#: Of task score.
SCORED: Final = {
    "valid": "b",
    "converged": "b",
    "min_distance": "f",
    "volume_per_atom": "f",
    "spacegroup": "i",
    "duplicate_of": "i",
    "unique": "b",
    "novel": "b",
    "match": "U",
    "match_rmsd": "f",
    "coordination_min": "i",
    "coordination_max": "i",
    "coordination_mean": "f",
}

#: Of a referee's run: the structure within the run, its energy in eV, and the verdict in words.
JUDGED: Final = {"row": "i", "energy": "f", "verdict": "U", "note": "U"}
