"""Knobs of the referees: what judges a structure, and how."""

from __future__ import annotations

import json
import re
import string
from dataclasses import dataclass
from typing import Any

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.imports import is_import_path
from aiida_rm.engine.knobs import knob
from aiida_rm.engine.stages import CELL_MODES

OPTIMIZERS = ("bfgs", "lbfgs", "fire")
#: Criteria of xtb's optimiser, from loose to tight.
LEVELS = ("crude", "sloppy", "loose", "normal", "tight", "vtight", "extreme")
#: Packages whose calculators know no k-points: a small cell is another crystal for them.
GAMMA_ONLY = ("tblite", "xtb")
#: Below so many atoms GFN2-xTB is off by up to 1 eV an atom at the Gamma point alone.
GAMMA_ATOMS = 64


@dataclass(frozen=True)
class RelaxSettings:
    """Structures by any ASE calculator, one after the other in one job."""

    calculator: str = knob("", "class of ASE calculators, as 'package.module:Class'")
    arguments: dict[str, Any] = knob({}, "keyword arguments of the calculator")  # noqa: RUF009
    relax: bool = knob(True, "relax; false: the energy where it is")
    cell: str = knob(
        "fixed",
        "of crystals; fixed: as it is; shape: at constant volume; hydrostatic: at constant shape; "
        "free: shape and volume",
        choices=CELL_MODES,
    )
    fmax: float = knob(
        0.05, "relaxed when no force is larger, nor the cell's", unit="eV/angstrom", low=1e-6
    )
    optimizer: str = knob(
        "bfgs",
        "how ASE relaxes; bfgs: in the fewest steps, each costs as the cube of the atoms; lbfgs: "
        "for hundreds of atoms; fire: in two to three times as many, forgiving of rough forces",
        choices=OPTIMIZERS,
    )
    max_steps: int = knob(200, "steps of a relaxation at most", low=1, high=1_000_000)
    min_atoms: int = knob(
        0,
        "crystals are judged as supercells of so many atoms at least; 0: as they are, or 64 where "
        "the calculator knows the Gamma point alone (tblite)",
        low=0,
        high=100_000,
    )
    threads: int = knob(1, "processor threads of torch; 0: as many as it finds", low=0, high=1024)

    @property
    def gamma_only(self) -> bool:
        """Whether the calculator is known to have no k-points."""
        return self.calculator.partition(":")[0].partition(".")[0] in GAMMA_ONLY

    @property
    def supercell_atoms(self) -> int:
        """The least atoms of a crystal's supercell."""
        return max(self.min_atoms, GAMMA_ATOMS if self.gamma_only else 1)

    def check(self) -> None:
        """Refuse what can be known to be wrong without importing the calculator.

        Raises:
            SettingsError: naming the knob, and what it must be.
        """
        if not is_import_path(self.calculator):
            raise SettingsError(
                f"'calculator' is '{self.calculator}', not 'package.module:Class', such as "
                "'ase.calculators.emt:EMT' or 'tblite.ase:TBLite'; name one"
            )
        try:
            json.dumps(self.arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingsError(f"'arguments' cannot be written as JSON: {error}") from error
        if self.gamma_only and 0 < self.min_atoms < GAMMA_ATOMS:
            raise SettingsError(
                f"'min_atoms' is {self.min_atoms}, but '{self.calculator}' knows the Gamma point "
                f"alone and is off by up to 1 eV an atom in small cells; give {GAMMA_ATOMS} or "
                "more, or 0"
            )


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


@dataclass(frozen=True)
class PwSettings:
    """A crystal by pw.x of Quantum ESPRESSO (doi:10.1088/1361-648X/aa8f79).

    Protocols, and what they leave open, are those of aiida-quantumespresso.
    """

    protocol: str = knob(
        "balanced",
        "precision, from k-points to thresholds; compare energies of one protocol alone",
        choices=("fast", "balanced", "stringent"),
    )
    pseudo_family: str = knob(
        "", "label of an installed family of pseudopotentials (aiida-pseudo); empty: the protocol's"
    )
    ecutwfc: float = knob(
        0.0, "cutoff of the wave functions; 0: as the family has it", unit="Ry", low=0, high=1000
    )
    ecutrho: float = knob(
        0.0, "cutoff of the density; 0: as the family has it", unit="Ry", low=0, high=10_000
    )
    kpoints_distance: float = knob(
        0.0,
        "between k-points at most; 0: the protocol's (0.3, 0.15, 0.1)",
        unit="1/angstrom",
        low=0,
        high=10,
    )
    relax: str = knob(
        "cell",
        "none: the energy where it is; positions: in the cell as it is; cell: positions and cell",
        choices=("none", "positions", "cell"),
    )
    first_relax: bool = knob(
        True, "relax roughly first, with k-points 0.3/angstrom apart, or twice 'kpoints_distance'"
    )
    electronic_type: str = knob(
        "metal",
        "metal: occupations are smeared, right for all; insulator: fixed, cheaper where it is one",
        choices=("metal", "insulator"),
    )
    spin_type: str = knob(
        "none", "collinear: magnetic, begun as a ferromagnet", choices=("none", "collinear")
    )
    max_steps: int = knob(50, "of a relaxation, in one run of pw.x", low=1, high=100_000)
    max_runs: int = knob(
        3,
        "of pw.x at most in each stage of a relaxation: what was cut short goes on, what did not "
        "converge is tried in another way",
        low=1,
        high=100,
    )
    npool: int = knob(0, "pools of k-points, for jobs of several processes; 0: one", low=0)
    min_distance: float = knob(
        0.5, "with atoms nearer than this there is no job but the verdict", unit="angstrom", low=0
    )

    def check(self) -> None:
        """Refuse half of the cutoffs.

        Raises:
            SettingsError: naming the knobs.
        """
        if (self.ecutwfc > 0) != (self.ecutrho > 0):
            raise SettingsError(
                "'ecutwfc' and 'ecutrho' go together; give both, or none to have the family's"
            )
        if self.ecutrho < self.ecutwfc:
            raise SettingsError(
                f"'ecutrho' is {self.ecutrho:g} Ry, below 'ecutwfc'; it is 4 times as much for "
                "norm-conserving pseudopotentials, 8 to 12 times for others"
            )


#: electronvolt in a unit (CODATA 2018).
ENERGY_UNITS = {
    "eV": 1.0,
    "hartree": 27.211386245988,
    "Ry": 13.605693122994,
    "kcal/mol": 0.0433641153087705,
    "kJ/mol": 0.0103642696562302,
}
FORMATS = ("extxyz", "xyz", "cif", "poscar")
#: Endings of files of which nobody knows how large they become.
PACKED = (".gz", ".zip")
#: What aiida-shell calls its own files.
RESERVED = ("stdout", "stderr", "status")


@dataclass(frozen=True)
class ShellSettings:
    """A structure by any command: a file in, an energy out."""

    arguments: tuple[str, ...] = knob(
        ("{structure}",), "of the command; {structure} becomes the name of the file"
    )
    format: str = knob("extxyz", "of the file (ASE)", choices=FORMATS)
    stdin: bool = knob(False, "the file is given on the standard input")
    energy_pattern: str = knob(
        "", "regular expression whose first group is the energy; the last match counts"
    )
    energy_unit: str = knob("eV", "of the energy", choices=tuple(ENERGY_UNITS))
    energy_file: str = knob("", "where the energy stands; none: what the command prints")
    relaxed_file: str = knob(
        "", "where the relaxed structure stands, its name says the format; none: nothing moves"
    )
    converged_pattern: str = knob(
        "", "regular expression that must match where the energy stands; none: all is well"
    )

    def check(self) -> None:
        """Refuse what could not work for any structure.

        Raises:
            SettingsError: naming the knob, and what it must be.
        """
        if _pattern("energy_pattern", self.energy_pattern).groups < 1:
            raise SettingsError(
                f"'energy_pattern' is '{self.energy_pattern}', without a group for the energy; "
                "give one, such as 'energy: +([-+.0-9eE]+)'"
            )
        _pattern("converged_pattern", self.converged_pattern)
        self._check_arguments()
        for name in ("energy_file", "relaxed_file"):
            file = getattr(self, name)
            if file and ("/" in file or "*" in file or file.startswith(".") or file in RESERVED):
                raise SettingsError(
                    f"'{name}' is '{file}'; give the name of a file in the command's folder, other "
                    f"than {', '.join(RESERVED)}"
                )
        if self.relaxed_file.lower().endswith(PACKED):
            raise SettingsError(
                f"'relaxed_file' is '{self.relaxed_file}'; have the command write it unpacked, for "
                "what is packed may be of any size"
            )

    def _check_arguments(self) -> None:
        found = []
        for argument in self.arguments:
            try:
                fields = [name for _, name, _, _ in string.Formatter().parse(argument)]
            except ValueError as error:
                raise SettingsError(f"'arguments': '{argument}': {error}; double braces") from error
            found += [name for name in fields if name is not None]
            if argument in ("<", ">"):
                raise SettingsError(
                    f"'arguments' hold '{argument}'; set 'stdin' instead, output is always kept"
                )
        if others := [name for name in found if name != "structure"]:
            raise SettingsError(
                f"'arguments' hold '{{{others[0]}}}', but {{structure}} alone is known; double the "
                "braces where they are meant as such"
            )
        if not found and not self.stdin:
            raise SettingsError("'arguments' lack {structure}; add it, or set 'stdin'")


def _pattern(name: str, text: str) -> re.Pattern[str]:
    try:
        return re.compile(text, re.MULTILINE)
    except re.error as error:
        raise SettingsError(f"'{name}' is no regular expression: {error}") from error
