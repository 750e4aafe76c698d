"""Knobs of the task ``score``."""

from __future__ import annotations

from dataclasses import dataclass

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.knobs import knob

SMACT = ("auto", "off", "on")
SMACT_STATES = ("smact14", "icsd24")
COVERAGE = ("off", "auto", "on")
CHEMISTRY = ("auto", "off", "perceive", "posebusters")


@dataclass(frozen=True)
class ScoreSettings:
    """Generated structures to verdicts."""

    min_distance: float = knob(
        0.5, "valid: no two atoms nearer, own images included", unit="angstrom", low=0, high=5
    )
    min_volume: float = knob(0.1, "valid: volume per atom of a crystal", unit="angstrom^3", low=0)
    require_converged: bool = knob(True, "valid: the relaxation converged")
    bond_length: float = knob(
        1.85,
        "neighbours for the coordination numbers are nearer",
        unit="angstrom",
        low=0.1,
        high=10,
    )
    coordination: tuple[int, ...] = knob(
        (), "valid: every atom has one of these numbers of neighbours; none: any", low=0, high=64
    )
    strict_ratio: float = knob(
        0.7, "strict: no pair nearer than this share of its covalent radii's sum", low=0, high=2
    )
    strict_volume: tuple[float, ...] = knob(
        (5.0, 120.0), "strict: range of the volume per atom", unit="angstrom^3", low=0
    )
    symprec: float = knob(0.05, "tolerance of the space group", unit="angstrom", low=1e-6, high=1)
    symprec_loose: float = knob(
        0.1, "tolerance of the second, looser one", unit="angstrom", low=1e-6, high=1
    )
    ltol: float = knob(0.2, "StructureMatcher: fractional length tolerance", low=0, high=1)
    stol: float = knob(0.3, "StructureMatcher: site tolerance", low=0, high=2)
    angle_tol: float = knob(5.0, "StructureMatcher: angle tolerance", unit="degree", low=0, high=45)
    loose_ltol: float = knob(
        0.3, "the field's looser match with known structures: as 'ltol'", low=0, high=1
    )
    loose_stol: float = knob(0.5, "the same, as 'stol'", low=0, high=2)
    loose_angle_tol: float = knob(10.0, "the same, as 'angle_tol'", unit="degree", low=0, high=45)
    rdf_max: float = knob(
        6.0, "radial distribution up to this distance", unit="angstrom", low=0.5, high=20
    )
    rdf_bins: int = knob(120, "bins of the radial distribution", low=1, high=10_000)
    chemistry: str = knob(
        "auto",
        "molecules: perceive: bonds by RDKit; posebusters: its checks of sound ones, too; auto: "
        "perceive where RDKit is installed",
        choices=CHEMISTRY,
    )
    chemistry_atoms: int = knob(
        200, "molecules of more atoms are not perceived: too large", low=1, high=100_000
    )
    chemistry_seconds: float = knob(
        60.0,
        "processor time after which RDKit, or a check of PoseBusters, gives a molecule up",
        unit="s",
        low=0.01,
    )
    smact: str = knob(
        "auto",
        "crystals: validity of compositions by SMACT; auto: where the pinned version is installed",
        choices=SMACT,
    )
    smact_states: str = knob(
        "smact14", "its set of oxidation states; the field's is smact14", choices=SMACT_STATES
    )
    coverage: str = knob(
        "off",
        "crystals: COV-R and COV-P against the references, a tenth of a second a structure; auto: "
        "where the pinned matminer is installed and references are given",
        choices=COVERAGE,
    )
    coverage_structure: float = knob(
        0.4, "near: fingerprints of structures; MP-20 0.4, Perov-5 and Carbon-24 0.2", low=0
    )
    coverage_composition: float = knob(
        10.0, "near: fingerprints of compositions; MP-20 10, Perov-5 and Carbon-24 4", low=0
    )
    nearest: int = knob(
        100,
        "uniqueness and novelty of crystals: matched with so many of one composition and size, the "
        "nearest in fingerprint; 0: with all (match to known structures always is)",
        low=0,
    )
    processes: int = knob(0, "processes that share the work; 0: one a core", low=0, high=1024)

    def check(self) -> None:
        """Refuse what one value alone cannot show.

        Raises:
            SettingsError: naming the knob, and what it must be.
        """
        ends = self.strict_volume
        if len(ends) != 2 or ends[0] > ends[1]:
            raise SettingsError("'strict_volume' must be two numbers, the smaller one first")
