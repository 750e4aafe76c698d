"""Crystals of given compositions, learnt from a file of known ones: rm.loop through AiiDA.

    python examples/mp_compositions.py mp_20.csv --formulas Sr1Ti1O3 Sr2Ti2O6
    python examples/mp_compositions.py known.extxyz --formulas Na4Cl4 --potential mp.safetensors
    python examples/mp_compositions.py known.extxyz --formulas SrTiO3 Ti2O4 --substitute

A formula is what one cell holds: Sr2Ti2O6 makes cells of ten atoms. The file is whatever ``rm``
reads (extxyz, CIF, csv with a column ``cif``, JSON of pymatgen, ASE db...). Those in it that have
one of the compositions are recognised and are not novel. A training on 14,000 crystals takes five
minutes; with ``--potential`` (``examples/potentials/mp.safetensors``) there is none. With
``--substitute`` the starts are the crystals of the file that are most like a formula, with its
elements: far more often right, and never of a new kind. Everything is stored under ``.demo``
beside this folder; your own AiiDA is not touched.
"""

from __future__ import annotations

import sys
from typing import Any

import study


def main() -> int:
    """Train (or take a potential), generate, compare with what is known, show."""
    parser = study.options(
        __doc__,
        "known crystals, in a file that rm reads",
        "what a cell holds, such as Sr1Ti1O3 or Na4Cl4",
    )
    parser.add_argument(
        "--symmetry",
        type=float,
        default=0.0,
        help="share of the starts with a space group (pip install 'aiida-rm[symmetry]')",
    )
    parser.add_argument(
        "--substitute",
        action="store_true",
        help="begin with the crystals of the file that are most like each formula",
    )
    given = parser.parse_args()
    settings: dict[str, Any] = {"periodic": True, "symmetry": given.symmetry}
    if given.substitute:
        # Beside similarity E~ knows the volume; with all free it moves more of them away than home.
        stages = [{"kind": "relax", "cell": "hydrostatic"}]
        settings |= {"seeding": "substitute", "stages": stages}
    return study.main(parser.prog, given, settings)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        study.console.print("\nstopped; what was stored so far stays in", str(study.FOLDER))
        sys.exit(130)
