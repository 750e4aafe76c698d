"""Labels of molecules, and what they add up to: soundness, PoseBusters' checks, EDM's stability."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.engine.errors import SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import CHECKS, check_label
from aiida_rm.engine.scoring.chemist import REMEDY, Chemist, Opinion
from aiida_rm.engine.scoring.chemistry import CONNECTED, PERCEIVED
from aiida_rm.engine.scoring.pool import CHUNK, Runner
from aiida_rm.engine.scoring.stability import stable_atoms
from aiida_rm.engine.settings import ScoreSettings

Array = NDArray[Any]

#: Molecules in a piece of work for PoseBusters, which takes a quarter of a second for each.
_FEW = 10
#: Formulas in the summary, the most frequent ones.
_MAX_FORMULAS = 100
#: The chemist of this process, by what it was asked for.
_chemists: dict[tuple[float, bool], Chemist] = {}


@dataclass(frozen=True)
class Chemistry:
    """What molecules are judged with.

    Attributes:
        level: ``off``, ``perceive`` or ``posebusters``.
        why: who decided.
    """

    level: str
    why: str


@dataclass(frozen=True)
class Judged:
    """What was found of a set.

    Attributes:
        labels: of structures, by name.
        stable: (atoms,) bool, EDM's stable atoms.
        versions: of RDKit and PoseBusters, where they were asked.
    """

    labels: dict[str, Array]
    stable: Array
    versions: dict[str, str]


#: Frames, distances of the nearest atoms, settings, level.
_Work = tuple[Frames, Sequence[float], ScoreSettings, str]
_Found = tuple[list[Opinion], list[Array], dict[str, str]]


def is_molecule(frames: Frames) -> NDArray[np.bool_]:
    """(structures,) whether none of the directions is periodic."""
    return np.asarray(~np.asarray(frames.pbc).any(axis=1))


def choose(settings: ScoreSettings, frames: Frames) -> Chemistry:
    """Decide what molecules are judged with.

    Raises:
        SettingsError: there are molecules, and what the settings ask for is not installed.
    """
    wanted = settings.chemistry
    if wanted == "off" or not is_molecule(frames).any():
        return Chemistry("off", "by the settings")
    needed = ["rdkit", "posebusters"] if wanted == "posebusters" else ["rdkit"]
    missing = [name for name in needed if find_spec(name) is None]
    if wanted == "auto":
        if missing:
            return Chemistry("off", "auto: RDKit is missing; pip install 'aiida-rm[molecules]'")
        return Chemistry("perceive", "auto: RDKit is installed")
    if missing:
        raise SettingsError(
            f"'chemistry' is {wanted}, which needs {' and '.join(missing)}, not installed where "
            f"the job runs; {REMEDY}"
        )
    return Chemistry(wanted, "by the settings")


def judge_all(
    frames: Frames,
    distances: Array,
    settings: ScoreSettings,
    chemistry: Chemistry,
    runner: Runner,
) -> Judged:
    """Judge the molecules of a set.

    Args:
        frames: the set; what is periodic gets false, "" and NaN.
        distances: (structures,) of the two nearest atoms in angstrom, NaN without a geometry.
        settings: what is too near, too large and too slow.
        chemistry: of :func:`choose`.
        runner: that shares the work.

    Returns:
        The labels

        - ``verdict``: of :class:`scoring.chemistry.Molecule`; ``overlap`` where two atoms are
          nearer than 'min_distance', ``too large`` beyond 'chemistry_atoms', ``given up`` after
          'chemistry_seconds'; "" with chemistry off;
        - ``smiles``, ``connected``, ``perceived``, ``sound``: as the verdict says;
        - ``clean``: sound, and all checks passed; ``check_...``: each of them; ``unchecked``: how
          many of them could not be made, and count as not passed;
        - ``stable_atoms`` (share of the atoms), ``stable_molecule``: of scoring.stability.
    """
    total = len(frames)
    chosen = np.flatnonzero(is_molecule(frames)).tolist()
    opinions, stable, versions = _run(
        frames, chosen, distances, settings, chemistry.level, "molecules", runner
    )
    verdicts, smiles = [""] * total, [""] * total
    share, each = np.full(total, np.nan), np.zeros(frames.n_atoms, bool)
    checks = {name: np.zeros(total, bool) for name in CHECKS}
    unchecked = np.zeros(total, np.int16)
    for index, opinion, atoms in zip(chosen, opinions, stable, strict=True):
        verdicts[index], smiles[index] = opinion.verdict, opinion.smiles
        share[index] = atoms.mean() if len(atoms) else 0.0
        each[frames.ptr[index] : frames.ptr[index + 1]] = atoms
        if chemistry.level == "posebusters" and opinion.verdict == "sound":
            unchecked[index] = len(CHECKS) - len(opinion.checks)
        for name, passed in opinion.checks.items():
            checks[name][index] = passed
    labels: dict[str, Array] = {"verdict": _texts(verdicts), "smiles": _texts(smiles)}
    labels["connected"] = np.isin(labels["verdict"], CONNECTED)
    labels["perceived"] = np.isin(labels["verdict"], PERCEIVED)
    labels["sound"] = labels["verdict"] == "sound"
    labels["clean"] = np.all([labels["sound"], *checks.values()], axis=0)
    labels["unchecked"] = unchecked
    labels |= {check_label(name): passed for name, passed in checks.items()}
    labels |= {"stable_atoms": share, "stable_molecule": share == 1.0}
    return Judged(labels, each, versions)


def smiles_of(
    frames: Frames, settings: ScoreSettings, chemistry: Chemistry, stage: str, runner: Runner
) -> Array:
    """(structures,) canonical SMILES of the molecules whose bonds can be perceived, else ""."""
    smiles = [""] * len(frames)
    if chemistry.level != "off":
        chosen = np.flatnonzero(is_molecule(frames)).tolist()
        apart = np.full(len(frames), np.inf)
        opinions = _run(frames, chosen, apart, settings, "perceive", stage, runner)[0]
        for index, opinion in zip(chosen, opinions, strict=True):
            smiles[index] = opinion.smiles
    return _texts(smiles)


def close_chemists() -> None:
    """End the other processes that this one has started; those of a pool end with it."""
    for chemist in _chemists.values():
        chemist.close()


def summarise_molecules(
    scored: Frames, chemistry: Chemistry, versions: dict[str, str]
) -> dict[str, Any]:
    """What the labels of the molecules add up to, as plain numbers; {} without molecules.

    Shares by formula are of all structures of the formula: what is not sound passes no check.
    """
    rows = np.flatnonzero(is_molecule(scored))
    if not len(rows):
        return {}
    part = scored.select(rows)
    labels = part.structure
    stable = np.asarray(part.atom["stable"])
    found: dict[str, Any] = {
        "n_molecules": len(part),
        "chemistry": chemistry.level,
        "chosen": chemistry.why,
        **versions,
        "stable_molecule": int(np.count_nonzero(labels["stable_molecule"])),
        "stable_atoms": float(stable.mean()) if len(stable) else 0.0,
    }
    names = _names(chemistry)
    if chemistry.level != "off":
        found["verdicts"] = dict(Counter(labels["verdict"].tolist()).most_common())
        found |= {name: int(np.count_nonzero(labels[name])) for name in names}
        found["different_smiles"] = len(set(labels["smiles"].tolist()) - {""})
    formulas = np.array(part.formulas())
    counts = Counter(formulas.tolist()).most_common()
    found["n_formulas"] = len(counts)
    found["by_formula"] = {
        formula: {
            "n": count,
            **{
                name: float(np.mean(labels[name][formulas == formula] != 0))
                for name in (*names, "stable_molecule")
            },
            "stable_atoms": float(np.mean(labels["stable_atoms"][formulas == formula])),
        }
        for formula, count in counts[:_MAX_FORMULAS]
    }
    return {"molecules": found}


def _names(chemistry: Chemistry) -> list[str]:
    """The labels that mean something at this level."""
    if chemistry.level == "off":
        return []
    names = ["connected", "perceived", "sound"]
    if chemistry.level == "posebusters":
        names += ["clean", "unchecked", *map(check_label, CHECKS)]
    return names


def _run(
    frames: Frames,
    chosen: list[int],
    distances: Array,
    settings: ScoreSettings,
    level: str,
    stage: str,
    runner: Runner,
) -> _Found:
    """Opinions and stable atoms of the chosen structures, in their order."""
    size = _FEW if level == "posebusters" else CHUNK
    parts = [chosen[first : first + size] for first in range(0, len(chosen), size)]
    bare = frames.without_labels()
    work = [(bare.select(part), distances[part].tolist(), settings, level) for part in parts]
    done = runner.run(stage, _judge_chunk, work, [len(part) for part in parts])
    versions: dict[str, str] = {}
    for _, _, found in done:
        versions |= found
    return (
        [opinion for opinions, _, _ in done for opinion in opinions],
        [atoms for _, stable, _ in done for atoms in stable],
        versions,
    )


def _judge_chunk(work: _Work) -> _Found:
    frames, distances, settings, level = work
    if level == "off":
        molecules = [_atoms(frames, index) for index in range(len(frames))]
        return [Opinion("")] * len(frames), [stable_atoms(*atoms) for atoms in molecules], {}
    key = (settings.chemistry_seconds, level == "posebusters")
    chemist = _chemists.setdefault(key, Chemist(key[0], checks=key[1]))
    opinions, stable = [], []
    for index, distance in enumerate(distances):
        numbers, positions = _atoms(frames, index)
        stable.append(stable_atoms(numbers, positions))
        if np.isnan(distance):
            opinions.append(Opinion("no geometry"))
        elif distance < settings.min_distance:
            opinions.append(Opinion("overlap"))
        elif len(numbers) > settings.chemistry_atoms:
            opinions.append(Opinion("too large"))
        else:
            opinions.append(chemist.judge(numbers, positions))
    return opinions, stable, chemist.versions


def _atoms(frames: Frames, index: int) -> tuple[Array, Array]:
    """Numbers and positions of a structure."""
    atoms = slice(int(frames.ptr[index]), int(frames.ptr[index + 1]))
    return np.asarray(frames.numbers[atoms]), np.asarray(frames.positions[atoms])


def _texts(values: list[str]) -> Array:
    # An array of empty texts alone would have no width to store.
    return np.array(values, f"<U{max([1, *map(len, values)])}")
