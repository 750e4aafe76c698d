"""Knobs of the referees: what judges a structure, and how."""

from __future__ import annotations

from dataclasses import dataclass

from aiida_rm.engine.knobs import knob

#: Criteria of xtb's optimiser, from loose to tight.
LEVELS = ("crude", "sloppy", "loose", "normal", "tight", "vtight", "extreme")


@dataclass(frozen=True)
class XtbSettings:
    """A molecule by the program xtb (doi:10.1002/wcms.1493)."""

    gfn: int = knob(2, "the method: GFN0-, GFN1- or GFN2-xTB", low=0, high=2)
    relax: bool = knob(True, "relax; false: the energy where it is")
    level: str = knob("normal", "when it is relaxed", choices=LEVELS)
    max_steps: int = knob(200, "steps of the relaxation at most", low=1, high=100_000)
    charge: int = knob(0, "of every molecule", unit="e", low=-100, high=100)
    odd_electrons: str = knob(
        "doublet",
        "a molecule with an odd number of electrons has one unpaired, or gets no job",
        choices=("doublet", "refuse"),
    )
