"""Verdicts: validity, duplicates, novelty, recognition."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, make_supercell, molecule

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import FramesError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.labels import SCORED
from aiida_rm.engine.scoring.known import carbon_allotropes
from aiida_rm.engine.scoring.molecules import distance_fingerprint
from aiida_rm.engine.scoring.task import score
from aiida_rm.engine.settings import ScoreSettings

#: Molecules are compared by distances; test_judging.py has those with bonds.
ONE = ScoreSettings(processes=1, chemistry="off")


def lonsdaleite() -> Atoms:
    return Atoms(
        "C4",
        cell=[2.508, 2.508, 4.183, 90, 90, 120],
        pbc=True,
        scaled_positions=[
            [1 / 3, 2 / 3, 0.05995],
            [2 / 3, 1 / 3, 0.55995],
            [2 / 3, 1 / 3, 0.94005],
            [1 / 3, 2 / 3, 0.44005],
        ],
    )


def disguise(atoms: Atoms, seed: int) -> Atoms:
    """The same structure, rotated, moved, permuted and (when periodic) in a skewed supercell."""
    rng = np.random.default_rng(seed)
    copy = atoms.copy()
    if copy.pbc.all():
        copy = make_supercell(copy, [[1, 1, 0], [0, 1, 0], [0, -1, 2]])
    copy.rotate(rng.uniform(0, 180), rng.normal(size=3), rotate_cell=True)
    copy.positions += rng.uniform(-3, 3, 3)
    return copy[rng.permutation(len(copy))]


def stirred(atoms: Atoms, width: float, seed: int = 0) -> Atoms:
    copy = atoms.copy()
    copy.positions += np.random.default_rng(seed).uniform(-width, width, copy.positions.shape)
    return copy


def verdicts(atoms: list[Atoms], settings: ScoreSettings = ONE, **labels) -> dict:
    scored, _ = score(from_ase(atoms).with_labels(structure=labels), settings)
    return scored.structure


@pytest.fixture(scope="module")
def diamond() -> Atoms:
    return bulk("C", "diamond", a=3.567)


def test_labels_and_summary(diamond: Atoms) -> None:
    frames = from_ase([diamond, lonsdaleite()]).with_labels(
        structure={"seed": [7, 8]}, atom={"force": np.zeros((6, 3))}
    )
    scored, summary = score(frames, ONE, known=carbon_allotropes())
    kinds = {"seed": "i", "rdf": "f", **SCORED}
    assert {name: array.dtype.kind for name, array in scored.structure.items()} == kinds
    assert scored.structure["rdf"].shape == (2, ONE.rdf_bins)
    assert scored.structure["rdf"].dtype == np.float32
    assert scored.structure["spacegroup"].dtype == np.int16
    assert scored.structure["duplicate_of"].dtype == np.int64
    assert scored.atom["coordination"].tolist() == [4] * 6
    assert scored.structure["spacegroup"].tolist() == [227, 194]
    assert scored.structure["match"].tolist() == ["diamond", "lonsdaleite"]
    assert summary.pop("crystals")["n_crystals"] == 2
    assert summary == {
        "n_structures": 2,
        "converged": 2,
        "valid": 2,
        "unique": 2,
        "novel": 2,
        "matches": {"diamond": 1, "lonsdaleite": 1},
    }


def test_scored_frames_survive_the_disk(diamond: Atoms, tmp_path) -> None:
    scored, _ = score(from_ase([diamond, Atoms("C")]), ONE)
    back = Frames.load(scored.save(tmp_path / "scored"))
    for name, array in scored.structure.items():
        np.testing.assert_array_equal(back.structure[name], array)


@pytest.mark.parametrize("make", [lambda: bulk("C", "diamond", a=3.567), lonsdaleite])
def test_copies_are_duplicates(make) -> None:
    copies = [make(), *(disguise(make(), seed) for seed in range(4))]
    assert verdicts(copies)["duplicate_of"].tolist() == [0] * 5
    assert len(set(verdicts(copies)["spacegroup"].tolist())) == 1


def test_compression_is_no_new_structure(diamond: Atoms) -> None:
    small = diamond.copy()
    small.set_cell(diamond.cell * 0.9, scale_atoms=True)
    assert verdicts([diamond, small])["duplicate_of"].tolist() == [0, 0]


def test_rattled_diamond_is_diamond_but_not_symmetric(diamond: Atoms) -> None:
    scored, _ = score(
        from_ase([stirred(diamond.repeat((2, 1, 1)), 0.02), stirred(diamond, 0.1)]),
        ONE,
        known=carbon_allotropes(),
    )
    assert scored.structure["match"].tolist() == ["diamond", "diamond"]
    assert scored.structure["match_rmsd"][1] > 0.01
    assert scored.structure["spacegroup"][1] != 227


def test_composition_separates(diamond: Atoms) -> None:
    silicon = diamond.copy()
    silicon.numbers[:] = 14
    carbide = diamond.copy()
    carbide.numbers[1] = 14
    found = verdicts([diamond, silicon, carbide])
    assert found["duplicate_of"].tolist() == [0, 1, 2]
    assert found["spacegroup"].tolist() == [227, 227, 216]


def test_the_lowest_energy_represents(diamond: Atoms) -> None:
    atoms = [diamond, lonsdaleite(), disguise(diamond, 0), disguise(diamond, 1)]
    per_atom = verdicts(atoms, energy_per_atom=[0.0, 1.0, -1.0, np.nan])
    assert per_atom["duplicate_of"].tolist() == [2, 1, 2, 2]
    assert per_atom["unique"].tolist() == [False, True, True, False]
    # 2 atoms at -3 are lower than 4 atoms at -4.
    total = verdicts(atoms, energy=[-3.0, -1.0, -4.0, -3.5])
    assert total["duplicate_of"].tolist() == [0, 1, 0, 0]


def test_the_most_similar_substitute_represents(diamond: Atoms) -> None:
    """Or a sorting by similarity would lose the first one to an equal one of lower energy."""
    atoms = [lonsdaleite(), disguise(diamond, 0), diamond, disguise(diamond, 1)]
    found = verdicts(
        atoms,
        energy_per_atom=[1.0, -1.0, 0.0, -2.0],
        substitution_distance=np.array([0.5, np.nan, 0.5, 9.0]),
    )
    assert found["duplicate_of"].tolist() == [0, 2, 2, 2]


def test_an_invalid_one_never_represents(diamond: Atoms) -> None:
    found = verdicts([diamond, disguise(diamond, 0)], status=np.array([1, 0], np.int8))
    assert found["converged"].tolist() == [False, True]
    assert found["valid"].tolist() == [False, True]
    assert found["duplicate_of"].tolist() == [-1, 1]
    assert found["unique"].tolist() == [False, True]
    lenient = ScoreSettings(processes=1, chemistry="off", require_converged=False)
    found = verdicts([diamond, diamond], lenient, status=np.array([1, 0], np.int8))
    assert found["valid"].tolist() == [True, True]
    assert found["duplicate_of"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("settings", "valid"),
    [
        ({}, [True, True, True]),
        ({"min_distance": 1.6}, [False, False, False]),
        ({"min_distance": 1.535}, [True, False, False]),
        ({"min_volume": 6.0}, [False, False, True]),
        ({"coordination": (4,)}, [True, True, True]),
        ({"coordination": (1, 3)}, [False, False, False]),
        ({"bond_length": 1.0, "coordination": (0,)}, [True, True, True]),
    ],
)
def test_limits_of_validity(diamond: Atoms, settings, valid) -> None:
    ethane = molecule("C2H6")[:2]  # two carbons 1.53 A apart, no cell
    atoms = [diamond, lonsdaleite(), ethane]
    if "coordination" in settings:
        atoms[2] = diamond
    chosen = ScoreSettings(processes=1, chemistry="off", **settings)
    assert verdicts(atoms, chosen)["valid"].tolist() == valid


def test_a_self_image_too_near_is_invalid() -> None:
    thin = Atoms("C", cell=[0.4, 4, 4], pbc=True)
    assert verdicts([thin])["valid"].tolist() == [False]


def test_bad_structures_never_stop_the_batch(diamond: Atoms) -> None:
    broken = [diamond.copy() for _ in range(4)]
    broken[0].positions[0, 0] = np.nan
    broken[1].cell[0, 0] = np.inf
    broken[2].cell[2] = broken[2].cell[1]
    broken[3].positions[1] = broken[3].positions[0]
    scored, summary = score(
        from_ase([*broken, diamond]), ONE, from_ase([lonsdaleite()]), carbon_allotropes()
    )
    assert scored.structure["valid"].tolist() == [False] * 4 + [True]
    assert scored.structure["match"].tolist() == [""] * 4 + ["diamond"]
    assert scored.structure["duplicate_of"].tolist() == [-1] * 4 + [4]
    assert scored.structure["spacegroup"].tolist() == [0] * 4 + [227]
    assert scored.structure["novel"].tolist() == [False] * 4 + [True]
    assert np.isnan(scored.structure["min_distance"][:3]).all()
    assert scored.structure["min_distance"][3] == 0
    assert summary["valid"] == 1


def test_novelty(diamond: Atoms) -> None:
    frames = from_ase([disguise(diamond, 0), lonsdaleite()])
    scored, summary = score(frames, ONE, references=from_ase([bulk("Cu"), stirred(diamond, 0.02)]))
    assert scored.structure["novel"].tolist() == [False, True]
    assert summary["novel"] == 1


def test_the_nearest_known_structure_wins(diamond: Atoms) -> None:
    names = from_ase([stirred(diamond, 0.15), diamond, diamond]).with_labels(
        structure={"name": ["bent", "first", "second"]}
    )
    scored, _ = score(from_ase([stirred(diamond, 0.01, seed=1)]), ONE, known=names)
    assert scored.structure["match"].tolist() == ["first"]
    assert 0 < scored.structure["match_rmsd"][0] < 0.05


def test_molecules() -> None:
    ethanol, ether = molecule("CH3CH2OH"), molecule("CH3OCH3")
    mirrored = disguise(ethanol, 3)
    mirrored.positions[:, 0] *= -1
    atoms = [ethanol, disguise(ethanol, 0), ether, stirred(ethanol, 0.01), mirrored]
    known = from_ase([ether, ethanol]).with_labels(structure={"name": ["ether", "ethanol"]})
    scored, summary = score(from_ase(atoms), ONE, from_ase([ether]), known)
    found = scored.structure
    assert found["valid"].all()
    assert found["duplicate_of"].tolist() == [0, 0, 2, 0, 0]
    assert found["novel"].tolist() == [True, True, False, True, True]
    assert found["match"].tolist() == ["ethanol", "ethanol", "ether", "ethanol", "ethanol"]
    assert found["spacegroup"].tolist() == [0] * 5
    assert not found["rdf"].any()
    assert np.isnan(found["volume_per_atom"]).all()
    assert summary["matches"] == {"ethanol": 4, "ether": 1}


def test_a_stretched_bond_is_another_molecule() -> None:
    water, far = molecule("H2O"), molecule("H2O")
    far.positions[1] += 0.3
    assert verdicts([water, far])["duplicate_of"].tolist() == [0, 1]


def test_fingerprint_keeps_elements_apart() -> None:
    positions = np.array([[0.0, 0, 0], [1.0, 0, 0], [3.0, 0, 0]])
    one = distance_fingerprint(np.array([6, 6, 8]), positions)
    two = distance_fingerprint(np.array([6, 8, 6]), positions)
    assert one.tolist() == [1.0, 2.0, 3.0]
    assert two.tolist() == [3.0, 1.0, 2.0]


def test_layers_and_chains() -> None:
    sheet = Atoms(
        "C2", [[0, 0, 0], [0, 1.42, 0]], cell=[[2.46, 0, 0], [1.23, 2.13, 0], [0, 0, 0]],
        pbc=(True, True, False),
    )  # fmt: skip
    shifted = sheet.copy()
    shifted.positions += [0.4, 0.2, 5.0]
    chain = Atoms("C", cell=[1.3, 0, 0], pbc=(True, False, False))
    found = verdicts([sheet, shifted, chain])
    assert found["valid"].all()
    assert found["coordination_mean"].tolist() == [3, 3, 2]
    assert found["duplicate_of"].tolist() == [0, 0, 2]
    assert found["spacegroup"].tolist() == [0, 0, 0]


def test_no_structures() -> None:
    scored, summary = score(from_ase([]), ONE)
    assert summary == {
        "n_structures": 0, "converged": 0, "valid": 0, "unique": 0, "novel": 0, "matches": {},
    }  # fmt: skip
    assert scored.structure["rdf"].shape == (0, ONE.rdf_bins)


def test_unusable_references_and_known(diamond: Atoms) -> None:
    frames = from_ase([diamond])
    with pytest.raises(FramesError, match="lack the label 'name'"):
        score(frames, ONE, known=frames)
    broken = diamond.copy()
    broken.positions[0] = np.nan
    with pytest.raises(FramesError, match="the references: structure 0 has a position"):
        score(frames, ONE, references=from_ase([broken]))


@pytest.mark.parametrize("chunk", [1, 4])
def test_waves_say_the_same(diamond: Atoms, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    rng = np.random.default_rng(2)
    atoms = [disguise(stirred(diamond, 0.5, seed % 5), seed) for seed in range(14)]
    frames = from_ase(atoms).with_labels(structure={"energy": rng.normal(size=14)})
    whole, _ = score(frames, ONE)
    monkeypatch.setattr("aiida_rm.engine.scoring.pool.CHUNK", chunk)
    steps: list[dict] = []
    waves, _ = score(frames, ONE, progress=steps.append)
    found = waves.structure["duplicate_of"]
    np.testing.assert_array_equal(found, whole.structure["duplicate_of"])
    assert 1 < len(set(found.tolist())) < 14
    counted = [step["finished"] for step in steps if step["stage"] == "unique"]
    assert counted == sorted(counted)
    assert counted[-1] == np.count_nonzero(waves.structure["valid"]) > 8


def test_two_processes_say_the_same_as_one(diamond: Atoms) -> None:
    rng = np.random.default_rng(5)
    atoms = [diamond, lonsdaleite(), molecule("H2O")] * 20
    atoms = [disguise(item, seed) for seed, item in enumerate(atoms)]
    atoms[7].positions[0] = np.nan
    frames = from_ase(atoms).with_labels(structure={"energy": rng.normal(size=len(atoms))})
    steps: list[dict] = []
    others = from_ase([lonsdaleite()]), carbon_allotropes().select([0, 1])
    two, summary_two = score(
        frames, ScoreSettings(processes=2, chemistry="off"), *others, progress=steps.append
    )
    one, summary_one = score(frames, ONE, *others)
    assert summary_one == summary_two
    for name, array in concatenate([one, two]).structure.items():
        np.testing.assert_array_equal(array[: len(one)], array[len(one) :], err_msg=name)
    assert {step["stage"] for step in steps} >= {"measure", "unique", "compare"}
    measured = [step["finished"] for step in steps if step["stage"] == "measure"]
    assert measured == sorted(measured)
    assert measured[-1] == steps[0]["total"] == 60
