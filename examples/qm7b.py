"""Molecules of given formulas, learnt from a file of stable molecules: rm.loop through AiiDA.

    python examples/qm7b.py qm7b.extxyz --formulas C7H14O C6H13NO
    python examples/qm7b.py qm7b.extxyz --formulas C7H14O --potential qm7b.safetensors
    python examples/qm7b.py ... --potential qm7b.safetensors --committee qm7b_member_*.safetensors

The file is whatever ``rm`` reads (extxyz, ASE db...); what has no cell is a molecule. Those in it
that have one of the formulas are recognised and are not novel. The trainings on the 7,211 molecules
of QM7b, of one potential to descend on and three that judge with it, take half an hour; with
``--potential`` (``examples/potentials/qm7b.safetensors``) there is none. Everything is stored under
``.demo`` beside this folder; your own AiiDA is not touched.
"""

from __future__ import annotations

import sys

import study


def main() -> int:
    """Train (or take a potential), generate, judge by a chemist's rules, show."""
    parser = study.options(
        __doc__,
        "stable molecules, in a file that rm reads",
        "of the molecules to make, such as C7H14O",
    )
    given = parser.parse_args()
    return study.main(parser.prog, given, {"periodic": False})


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        study.console.print("\nstopped; what was stored so far stays in", str(study.FOLDER))
        sys.exit(130)
