"""Every knob of every task: type, default, unit, range and meaning, once.

CalcJobs, protocols, the command line and the docs derive from these dataclasses, and
:func:`parse_settings` refuses bad values with the same words on both sides of the door.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.knobs import describe, knob, parse, to_plain
from aiida_rm.engine.referee_settings import RelaxSettings
from aiida_rm.engine.score_settings import CHEMISTRY, ScoreSettings
from aiida_rm.engine.settings_checks import check_starts
from aiida_rm.engine.stages import (
    CELL_MODES,
    MOVES,
    OPTIMIZERS,
    STAGE_KINDS,
    Stage,
    check_penalty,
    check_stages,
)

__all__ = [
    "CELL_MODES",
    "CHEMISTRY",
    "MODES",
    "MOVES",
    "OPTIMIZERS",
    "SETTINGS",
    "STAGE_KINDS",
    "DoctorSettings",
    "GenerateSettings",
    "PerturbSettings",
    "RelaxSettings",
    "ScoreSettings",
    "Settings",
    "Stage",
    "TrainSettings",
    "describe",
    "parse_settings",
    "to_plain",
]

T = TypeVar("T")
#: Problems of settings that one message tells.
_TOLD = 10
#: Processes of one training that make its batches.
MAX_WORKERS = 256


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
    young_modulus: float = knob(1.0, "Young's modulus of the fictitious cell", low=0)
    poisson_ratio: float = knob(0.3, "Poisson's ratio of the fictitious cell", low=0, high=0.49)


@dataclass(frozen=True)
class TrainSettings:
    """Perturbed structures to a potential."""

    seed: int = knob(0, "seed of the initial weights, the split and the batches", low=0)
    architecture: str = knob(
        "local",
        "local: body-ordered invariants, for few data; equivariant: message passing, for many",
        choices=("local", "equivariant"),
    )
    cutoff: float = knob(
        4.5, "atoms further apart do not feel each other", unit="angstrom", low=1, high=12
    )
    channels: int = knob(8, "local: radial channels of the neighbour density", low=1, high=512)
    radial: int = knob(6, "Bessel functions of the distance", low=1, high=64)
    l_max: int = knob(3, "local: largest angular momentum of the neighbour density", low=0, high=3)
    hidden: tuple[int, ...] = knob((24, 12), "local: widths of the hidden layers", low=1, high=4096)
    element_channels: int = knob(
        4,
        "local: components of an element's embedding (one element alone takes one)",
        low=1,
        high=64,
    )
    features: int = knob(64, "equivariant: features of an atom", low=1, high=1024)
    layers: int = knob(2, "equivariant: rounds of messages", low=1, high=12)
    epochs: int = knob(12, "passes through the training set", low=1)
    draw: str = knob(
        "stored",
        "stored: train on the given copies; fresh: each epoch makes new copies by 'recipe'",
        choices=("stored", "fresh"),
    )
    recipe: PerturbSettings = knob(  # noqa: RUF009 - a field, as all knobs
        PerturbSettings(), "fresh: how the given stable structures are perturbed for an epoch"
    )
    batch_atoms: int = knob(320, "atoms in a batch, at most (one structure at least)", low=1)
    batch_edges: int = knob(
        0,
        "pairs of neighbours at once, at most; a batch with more is summed in parts; 0: no limit",
        low=0,
    )
    batch_parts: int = knob(
        1, "parts in which a batch is summed: less memory, the same steps to rounding", low=1
    )
    learning_rate: float = knob(1e-2, "largest step of Adam", low=1e-8, high=1)
    final_rate: float = knob(0.01, "last step over the largest one (cosine)", low=0, high=1)
    warmup_steps: int = knob(50, "steps of linear warm-up", low=0)
    clip_norm: float = knob(10.0, "gradients are scaled down to this norm", low=1e-6)
    rescues: int = knob(
        2,
        "times that a loss or gradient which is no number leads back to the best weights so far "
        "and to half the learning rate; after that the training has diverged",
        low=0,
        high=20,
    )
    ema_decay: float = knob(0.99, "decay of the average of the weights", low=0, high=0.99999)
    force_weight: float = knob(1.0, "weight of the squared error of the forces", low=0)
    stress_weight: float = knob(1.0, "weight of the squared error of the stress", low=0)
    energy_weight: float = knob(
        0.0, "weight of the squared relative error of E~ per atom, which is to rank", low=0
    )
    noise_weight: float = knob(
        0.0, "structures weigh by their noise to the power of minus this", low=0, high=2
    )
    validation_fraction: float = knob(
        0.1, "share of the structures held out to watch the error", low=0, high=0.9
    )
    patience: int = knob(0, "epochs without a better validation before stopping; 0: never", low=0)
    weights: str = knob(
        "best",
        "which average of the weights is handed out: of the best epoch, or the last",
        choices=("best", "last"),
    )
    environments: int = knob(
        4000,
        "atoms of the stable structures that the potential remembers, to tell how far others are "
        "from them; none with fewer than 100 structures or four atoms an element",
        low=0,
        high=1_000_000,
    )
    workers: int = knob(
        0,
        "processes that make graphs and copies ahead; 0: none, as they are needed",
        low=0,
        high=MAX_WORKERS,
    )
    compile: bool = knob(
        False,
        "compile the gradient of a step: same numbers to rounding, a minute or more once, needs a "
        "C++ compiler; pays for an equivariant network and thousands of steps",
    )
    checkpoint_seconds: float = knob(60.0, "time between checkpoints on disk", unit="s", low=0)
    dtype: str = knob("float32", "number format", choices=("float32", "float64"))
    device: str = knob("auto", "where it runs; auto takes a GPU", choices=("auto", "cpu", "cuda"))
    threads: int = knob(1, "processor threads; 0: as many as torch finds", low=0, high=1024)


MODES = ("auto", "random", "composition", "molecule", "seeded")


@dataclass(frozen=True)
class GenerateSettings:
    """A potential to new structures: random starts, relaxed in batches."""

    seed: int = knob(0, "structure i of a seed is the same in any job", low=0)
    first_index: int = knob(0, "index of the first structure (jobs share a seed)", low=0)
    n_structures: int = knob(100, "how many random starts", low=1, high=10_000_000)
    indices: tuple[int, ...] = knob(
        (),
        "which starts of the seed, 'n_structures' of them; none: those from 'first_index' on",
        low=0,
    )
    periodic: bool = knob(True, "crystals (true) or molecules (false)")
    mode: str = knob(
        "auto",
        "random: compositions are drawn; composition: crystals of 'formulas'; molecule: molecules "
        "of 'formulas'; seeded: from given structures; auto: what the other knobs say",
        choices=MODES,
    )
    formulas: tuple[str, ...] = knob(
        (), "formulas to draw from, such as C4; none: compositions are drawn, see 'composition'"
    )
    formula_weights: tuple[float, ...] = knob(
        (), "how often each of 'formulas' is drawn, relative to the others; none: alike", low=0
    )
    composition: str = knob(
        "training_elements",
        "without 'formulas', as in the training set: how many elements and which "
        "(training_elements), or whole formulas (training_formulas)",
        choices=("training_elements", "training_formulas"),
    )
    n_atoms: tuple[int, ...] = knob(
        (2, 4, 6, 8, 12),
        "training_elements: numbers of atoms to draw from; none: as in the training set",
        low=1,
        high=10_000,
    )
    atoms_range: tuple[int, ...] = knob(
        (),
        "smallest and largest number of atoms; in place of 'n_atoms', and for training_formulas",
        low=1,
        high=10_000,
    )
    elements: tuple[str, ...] = knob((), "elements that may be drawn; none: all that are known")
    without: tuple[str, ...] = knob((), "elements that may not be drawn")
    volume_scale: tuple[float, ...] = knob(
        (0.9, 1.3),
        "range of the volume over that of the training set; none: by its spread there",
        low=0.05,
        high=20,
    )
    volume_per_atom: tuple[float, ...] = knob(
        (), "range of the volume of a crystal, instead", unit="angstrom^3", low=0.1, high=1000
    )
    cell_distortion: float = knob(0.5, "random part of the cell, next to a cube", low=0, high=1)
    min_distance: float = knob(
        0.7, "atoms of a random start are at least so far apart", unit="angstrom", low=0, high=5
    )
    distance_scale: float = knob(
        0.0,
        "pairs of elements are at least this share of their distance in the training set apart; "
        "less where there is no room",
        low=0,
        high=1.2,
    )
    symmetry: float = knob(
        0.0, "share of the crystals that get a space group (needs pyxtal)", low=0, high=1
    )
    space_groups: tuple[int, ...] = knob(
        (), "which of them; none: any that the composition can have", low=2, high=230
    )
    rattle: float = knob(
        0.0,
        "standard deviation of a displacement of every coordinate; breaks symmetry",
        unit="angstrom",
        low=0,
        high=5,
    )
    box: tuple[float, ...] = knob(
        (10.0, 5.0, 5.0),
        "edges of the box for molecules; none: by the sizes in the training set",
        unit="angstrom",
        low=0.5,
        high=1000,
    )
    seeding: str = knob(
        "mutate",
        "given structures are taken as they are (repair), strained, displaced and swapped "
        "(mutate), get other species on their sites (decorate), or each of 'formulas' takes the "
        "sites of those most like it (substitute)",
        choices=("repair", "mutate", "decorate", "substitute"),
    )
    displacement: float = knob(
        0.3,
        "mutate: standard deviation of a displacement of every coordinate",
        unit="angstrom",
        low=0,
        high=5,
    )
    strain: float = knob(0.1, "mutate: largest component of the strain", low=0, high=0.4)
    substitution_spread: float = knob(
        0.0,
        "substitute: random part of how unlike a formula a given structure is, in places on the "
        "scale of elements; 0: the most similar ones first",
        low=0,
        high=100,
    )
    swaps: int = knob(1, "mutate: exchanges of two unlike atoms", low=0, high=10_000)
    stages: tuple[Stage, ...] = knob((Stage(),), "the way from start to structure, in order")
    batch_atoms: int = knob(
        0,
        "atoms relaxed together, at most (one structure at least); 0: 1024 on a processor, as many "
        "as fit on a GPU",
        low=0,
    )
    batch_edges: int = knob(0, "pairs of neighbours relaxed together, at most; 0: no limit", low=0)
    penalty: str = knob(
        "",
        "added to E~: a torch function of the graph, or a class of ASE calculators, as "
        "'package.module:name'",
    )
    penalty_weight: float = knob(1.0, "multiplies the penalty")
    penalty_arguments: str = knob("{}", "keyword arguments of the penalty, as JSON")
    floor: float = knob(
        -0.5,
        "E~ per atom of a structure that falls lower is not believed, for no response is below 0: "
        "it exploded",
        unit="angstrom^2",
        high=0,
    )
    ranking_weight: float = knob(
        0.03,
        "the label 'ranking' is E~ per atom and this times the latent distance from the training "
        "set; E~ per atom alone where the potential remembers no environments",
        unit="angstrom^2",
        low=0,
    )
    skin: float = knob(
        0.5,
        "neighbour lists serve until an atom has moved half of it",
        unit="angstrom",
        low=0,
        high=5,
    )
    checkpoint_seconds: float = knob(
        60.0, "finished structures are on disk after so long", unit="s", low=0
    )
    dtype: str = knob("float32", "number format", choices=("float32", "float64"))
    device: str = knob("auto", "where it runs; auto takes a GPU", choices=("auto", "cpu", "cuda"))
    threads: int = knob(1, "processor threads; 0: as many as torch finds", low=0, high=1024)

    @property
    def all_indices(self) -> Sequence[int]:
        """Which structures of the seed are to be made."""
        return self.indices or range(self.first_index, self.first_index + self.n_structures)


@dataclass(frozen=True)
class DoctorSettings:
    """What there is on a machine; nothing to choose but where to look."""

    device: str = knob("auto", "where it runs; auto takes a GPU", choices=("auto", "cpu", "cuda"))


SETTINGS: dict[str, type] = {
    "perturb": PerturbSettings,
    "train": TrainSettings,
    "generate": GenerateSettings,
    "score": ScoreSettings,
    "relax": RelaxSettings,
    "doctor": DoctorSettings,
}

Settings = (
    PerturbSettings
    | TrainSettings
    | GenerateSettings
    | ScoreSettings
    | RelaxSettings
    | DoctorSettings
)


def parse_settings(cls: type[T], values: Mapping[str, Any]) -> T:
    """Make settings of plain values (JSON, YAML or the content of a Dict node).

    Raises:
        SettingsError: every unknown name, wrong type and value out of range, in one message.
    """
    problems: list[str] = []
    settings = parse(cls, values, "", problems)
    if problems:
        more = [f"and {len(problems) - _TOLD} more"] if len(problems) > _TOLD else []
        raise SettingsError("; ".join(problems[:_TOLD] + more))
    assert settings is not None
    _check_together(settings)
    return settings


def _check_together(settings: Any) -> None:
    """What one value alone cannot show."""
    if callable(check := getattr(settings, "check", None)):
        check()
    if isinstance(settings, PerturbSettings) and not settings.displacement_levels:
        raise SettingsError("'displacement_levels' is empty; give at least one level")
    if isinstance(settings, TrainSettings):
        _check_together(settings.recipe)
        if settings.draw == "stored" and settings.recipe != PerturbSettings():
            raise SettingsError(
                "'recipe' is for fresh copies, but 'draw' is stored; set 'draw' to fresh, or leave "
                "'recipe' out: the copies are those of the given set"
            )
        if settings.force_weight == 0 and settings.stress_weight == 0:
            raise SettingsError("'force_weight' and 'stress_weight' are both 0: nothing to learn")
        if settings.patience and not settings.validation_fraction:
            raise SettingsError("'patience' needs a 'validation_fraction' above 0")
    if isinstance(settings, GenerateSettings):
        check_starts(settings)
        check_stages(settings)
        check_penalty(settings)
