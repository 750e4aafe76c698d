"""What of a set of structures stands in the database, to be queried."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.formulas import count_formulas
from aiida_rm.engine.frames import Frames

#: Version of the folder and of the attributes of the node.
SCHEMA_VERSION = 1
#: Formulas kept in the database; the rest is only counted.
MAX_FORMULAS = 100


def summarise(frames: Frames) -> dict[str, Any]:
    """The attributes of the node of these frames."""
    counts = frames.counts
    formulas = count_formulas(frames)
    common = sorted(formulas.items(), key=lambda item: (-item[1], item[0]))[:MAX_FORMULAS]
    per_atom = frames.volumes / counts
    crystals = per_atom[np.isfinite(per_atom)]
    return {
        "n_structures": len(frames),
        "n_atoms": frames.n_atoms,
        "elements": list(frames.elements),
        "formulas": dict(common),
        "formulas_other": len(frames) - sum(count for _, count in common),
        "pbc_kind": _pbc_kind(frames.pbc),
        "structure_labels": sorted(frames.structure),
        "atom_labels": sorted(frames.atom),
        "n_atoms_min": int(counts.min()),
        "n_atoms_max": int(counts.max()),
        # Rounded, so that the last bits of another machine's algebra do not change the hash.
        "volume_per_atom_min": round(float(crystals.min()), 6) if len(crystals) else None,
        "volume_per_atom_max": round(float(crystals.max()), 6) if len(crystals) else None,
        "schema_version": SCHEMA_VERSION,
    }


def _pbc_kind(pbc: NDArray[Any]) -> str:
    directions = np.unique(pbc.sum(axis=1))
    kinds = {"molecule" if n == 0 else "crystal" if n == 3 else "partial" for n in directions}
    return kinds.pop() if len(kinds) == 1 else "mixed"
