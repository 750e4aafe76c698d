"""Knobs of the task perturb."""

from __future__ import annotations

from dataclasses import dataclass

from aiida_rm.engine.knobs import knob


@dataclass(frozen=True)
class PerturbSettings:
    """Stable structures to perturbed ones with response targets (method: arXiv:2405.09057)."""

    seed: int = knob(0, "seed of all random numbers", low=0)
    samples: int = knob(
        4000, "perturbed structures in all; each structure gets its share, at least one", low=1
    )
    min_atoms: int = knob(
        8, "periodic structures are repeated until they hold so many atoms", low=1, high=10_000
    )
    displacement: float = knob(
        0.05, "width of the uniform displacement at level 1", unit="angstrom", low=0, high=10
    )
    displacement_levels: tuple[float, ...] = knob(
        (0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 32), "multiples of the displacement", low=0, high=1000
    )
    force_noise: float = knob(
        0.0, "noise on the target forces, times the root of the level", unit="angstrom", low=0
    )
    strain: float = knob(0.10, "largest isotropic strain of the cell", low=0, high=0.5)
    strain_levels: int = knob(11, "isotropic strains, evenly from -strain to +strain", low=1)
    shear: float = knob(0.10, "width of the uniform random part of the strain", low=0, high=0.5)
    core_scale: float = knob(
        0.5,
        "pairs nearer than this share of their covalent radii's sum repel each other",
        low=0.05,
        high=1,
    )
    core_strength: float = knob(1.0, "repulsion of two atoms on one spot", unit="angstrom^2", low=0)
    spring: float = knob(1.0, "spring constant that pulls an atom home", low=1e-6)
    distribution: str = knob(
        "uniform", "of a displacement, at the same root mean square", choices=("uniform", "normal")
    )
    saturation: float = knob(
        0.0, "the pull home grows no further beyond about this; 0: it does", unit="angstrom", low=0
    )
    match: bool = knob(
        True,
        "an atom's home is the like one that makes all ways home shortest, not where it was",
    )
    descents: float = knob(
        0.0,
        "share of the far displaced copies that first go down on the given potential, if one is "
        "given, and learn the way home from where they end",
        low=0,
        high=1,
    )
    descent_level: float = knob(8.0, "level from which on a copy is far displaced", low=0)
    descent_steps: int = knob(80, "steps of FIRE of a descent, at most", low=1, high=100_000)
    device: str = knob(
        "auto", "where descents run; auto takes a GPU", choices=("auto", "cpu", "cuda")
    )
    young_modulus: float = knob(1.0, "Young's modulus of the fictitious cell", low=0)
    poisson_ratio: float = knob(0.3, "Poisson's ratio of the fictitious cell", low=0, high=0.49)
