"""What a potential remembers of its training set, and how far others are from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from safetensors.torch import load_file

from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.environments import Environments
from aiida_rm.engine.potential.potential import read_safetensors, write_safetensors
from aiida_rm.engine.relaxation import latent_distances
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import Knowledge
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.ranking import _equal_shares, environments_of
from aiida_rm.engine.training.trainer import Trainer

TRAIN = TrainSettings(epochs=1, cutoff=3.0, channels=2, hidden=(4,), environments=50)


@pytest.fixture(scope="module")
def stable() -> Frames:
    """120 crystals of carbon and of SiC, no two alike."""
    rng = np.random.default_rng(0)
    crystals = []
    for number in range(120):
        kind, edge = (("SiC", 4.36), ("C", 3.567))[number % 5 == 0]
        one = bulk(
            kind, "zincblende" if kind == "SiC" else "diamond", edge * rng.uniform(0.95, 1.1)
        )
        one.rattle(0.05, rng=rng)
        crystals.append(one)
    return from_ase(crystals)


@pytest.fixture(scope="module", params=["local", "equivariant"])
def potential(request: pytest.FixtureRequest, stable: Frames) -> Potential:
    copies = perturb(stable, PerturbSettings(samples=120))
    return Trainer(copies, replace(TRAIN, architecture=request.param)).run().potential


def hidden_of(potential: Potential, frames: Frames) -> torch.Tensor:
    return potential.hidden(build_graph(frames, potential.cutoff, dtype=torch.float32))


def test_distances_by_hand() -> None:
    """Carbon at 0 and 2, hydrogen at 10 and 14: from their means 1, 1, 2 and 2; two are free."""
    numbers = torch.tensor([6, 6, 1, 1])
    known = Environments.of(torch.tensor([[0.0], [2.0], [10.0], [14.0]]), numbers)
    scale = 5**0.5
    torch.testing.assert_close(known.scale, torch.tensor([scale]))
    assert known.counts == {1: 2, 6: 2}
    apart = known.distances(torch.tensor([[2.5], [10.0], [3.0], [1.0]]), torch.tensor([6, 1, 1, 8]))
    torch.testing.assert_close(apart[:3], torch.tensor([0.5, 0.0, 7.0]) / scale, atol=2e-3, rtol=0)
    assert apart[3].isinf()


def test_a_company_changes_no_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 16, generator=generator)
    numbers = torch.arange(300) % 3 + 6
    known = Environments.of(hidden[:200], numbers[:200])
    together = known.distances(hidden, numbers)
    alone = torch.cat(
        [known.distances(h[None], n[None]) for h, n in zip(hidden, numbers, strict=True)]
    )
    assert torch.equal(together, alone)
    assert (together[:200] < 0.01).all()
    assert (together[200:] > 0.1).all()


def test_as_many_of_each_element_as_there_are() -> None:
    numbers = np.array([6] * 50 + [1] * 3 + [8] * 30 + [9] * 2)
    aside = np.zeros(85, bool)
    aside[:10] = aside[83:] = True
    chosen = _equal_shares(numbers, aside, 30)
    assert np.bincount(numbers[chosen])[[1, 6, 8, 9]].tolist() == [3, 13, 12, 2]
    # Fluorine is nowhere else.
    assert set(np.flatnonzero(aside)) & set(chosen) == {83, 84}
    assert len(_equal_shares(numbers, aside, 1000)) == 85 - 10


def test_a_training_remembers_its_stable_structures(stable: Frames, potential: Potential) -> None:
    known = potential.environments
    assert known is not None
    assert len(known.numbers) == 50
    assert set(known.numbers.tolist()) == {6, 14}
    percents = potential.notes["latent_percentiles"]
    assert len(percents) == 101
    assert percents == sorted(percents)
    assert percents[0] > 0
    # Its atoms are those of the stable structures, however often their cells were repeated.
    again, others = environments_of(potential, stable, 50, 64)
    assert again is not None
    assert np.median(others) == pytest.approx(np.median(percents), rel=0.3)
    kind = list(known.counts).index(6)
    carbon = torch.as_tensor(stable.numbers == 6)
    places = (hidden_of(potential, stable)[carbon] - known.means[kind]) / known.scale
    apart = torch.cdist(known.features[known.numbers == 6], places)
    # But for the digits that a file keeps.
    assert float(apart.amin(1).max()) < 2e-3 * float(known.features.abs().max())
    assert potential.notes["environments"] == {"C": 25, "Si": 25}


def test_what_is_unlike_the_training_set_is_far_from_it(
    stable: Frames, potential: Potential
) -> None:
    rng = np.random.default_rng(1)
    odd = stable.select(range(20))
    spoilt = replace(odd, positions=odd.positions + rng.normal(0, 0.4, odd.positions.shape))
    near, far = (latent_distances(frames, [potential])[0] for frames in (odd, spoilt))
    ranks = Knowledge.from_notes(potential.notes)
    assert np.median(ranks.latent_percentile(far)) > 90
    assert np.median(far) > 2 * np.median(near)
    one = latent_distances(spoilt, [potential], np.arange(20) == 3, batch_atoms=1)[0]
    assert one[3] == pytest.approx(far[3], rel=1e-5)
    assert np.isnan(np.delete(one, 3)).all()


def test_few_structures_and_none_asked_for(stable: Frames) -> None:
    few = perturb(stable.select(range(99)), PerturbSettings(samples=99))
    for copies, settings in (
        (few, TRAIN),
        (perturb(stable, PerturbSettings(samples=120)), replace(TRAIN, environments=0)),
    ):
        found = Trainer(copies, settings).run().potential
        assert found.environments is None
        assert found.notes["latent_percentiles"] == []
        with pytest.raises(PotentialError, match="holds no environments"):
            found.energies_and_distances(build_graph(stable, found.cutoff))


@pytest.mark.parametrize("count", [8, 9, 1000])
def test_structures_that_are_nearly_one(count: int, tmp_path: Path) -> None:
    """Nothing that is remembered differs from the others: distances stay numbers."""
    rng = np.random.default_rng(0)
    for rattle in (0.0, 1e-4):
        salt = from_ase([bulk("NaCl", "rocksalt", 5.6)] * 120)
        noise = rng.normal(0, rattle, salt.positions.shape) if rattle else 0
        salt = replace(salt, positions=salt.positions + noise)
        copies = perturb(salt, PerturbSettings(samples=120))
        for architecture in ("local", "equivariant"):
            settings = replace(TRAIN, architecture=architecture, environments=count)
            found = Trainer(copies, settings).run().potential
            found.save(tmp_path / "p.safetensors")
            again = Potential.load(tmp_path / "p.safetensors")
            assert again.environments is not None
            assert np.isfinite(latent_distances(salt, [again])).all()
            odd = replace(salt, positions=salt.positions + rng.normal(0, 0.4, salt.positions.shape))
            far, near = (latent_distances(frames, [again])[0].mean() for frames in (odd, salt))
            assert np.isfinite(far)
            assert far > near


def test_too_few_atoms_of_an_element_are_none(stable: Frames, potential: Potential) -> None:
    least = 4 * len(stable.elements)
    assert environments_of(potential, stable, least - 1, 1000) == (None, [])
    assert environments_of(potential, stable, least, 1000)[0] is not None


def test_a_part_that_hardly_differs_does_not_decide() -> None:
    """One of three parts of the hidden layer is all but the same in the training set."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(100, 3, generator=generator) * torch.tensor([1.0, 1.0, 1e-5])
    known = Environments.of(hidden, torch.full((100,), 6))
    other = hidden[:1] + torch.tensor([0.0, 0.0, 1.0])
    assert 5 < float(known.distances(other, torch.tensor([6]))) < 20


def test_an_element_that_only_every_seventh_holds_does_not_count() -> None:
    rng = np.random.default_rng(0)
    molecules = [molecule(("CH4", "CH3Cl")[number % 7 == 0]) for number in range(140)]
    stable = from_ase(molecules)
    stable = replace(
        stable, positions=stable.positions + rng.normal(0, 0.05, stable.positions.shape)
    )
    found = Trainer(perturb(stable, PerturbSettings(samples=140)), TRAIN).run().potential
    assert found.notes["environments"]["Cl"] == 16
    # Chlorine would be at a distance of 0 from itself.
    graph = build_graph(stable.select(range(0, 140, 7)), found.cutoff, dtype=torch.float32)
    assert found.environments is not None
    apart = found.environments.distances(found.hidden(graph), graph.numbers)
    counted = graph.numbers != 17
    means = torch.stack([apart[counted & (graph.batch == row)].mean() for row in range(20)])
    assert found.notes["latent_percentiles"][100] == pytest.approx(float(means.max()), rel=1e-4)


def test_molecules_and_fresh_copies() -> None:
    waters = from_ase([molecule("H2O")] * 100)
    rng = np.random.default_rng(0)
    stable = replace(
        waters, positions=waters.positions + rng.normal(0, 0.01, waters.positions.shape)
    )
    fresh = replace(TRAIN, draw="fresh", recipe=PerturbSettings(samples=100))
    found = Trainer(stable, fresh).run().potential
    assert found.environments is not None
    assert np.bincount(found.environments.numbers.numpy())[[1, 8]].tolist() == [25, 25]


def test_a_file_keeps_them(potential: Potential, stable: Frames, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    potential.save(path)
    again = Potential.load(path, dtype=torch.float64)
    assert again.environments is not None
    assert again.environments.features.dtype == torch.float64
    double = Potential.load(path, dtype=torch.float64)
    double.save(tmp_path / "double.safetensors")
    assert np.isfinite(
        latent_distances(stable, [Potential.load(tmp_path / "double.safetensors")])
    ).all()
    before, after = (latent_distances(stable, [one])[0] for one in (potential, again))
    np.testing.assert_allclose(after, before, atol=1e-4)
    Potential.load(path).save(tmp_path / "again.safetensors")
    twice = Potential.load(tmp_path / "again.safetensors")
    assert latent_distances(stable, [twice])[0] == pytest.approx(after, abs=1e-4)
    # A training that begins with it remembers its own set.
    few = perturb(stable.select(range(5)), PerturbSettings(samples=5))
    same = replace(TRAIN, architecture=potential.architecture)
    assert Trainer(few, same, Potential.load(path)).run().potential.environments is None


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda t: t.pop("environment_scale"), "not all of its environments"),
        (
            lambda t: t.update(environment_numbers=t["environment_numbers"][1:]),
            "do not fit together",
        ),
        (lambda t: t.update(environment_features=t["environment_features"][:, 1:]), "do not fit"),
        (lambda t: t.update(environment_means=t["environment_means"][1:]), "do not fit together"),
        (lambda t: t.update(environment_numbers=t["environment_numbers"].flip(0)), "not in order"),
        (lambda t: t["environment_features"].fill_(float("nan")), "not finite"),
    ],
)
def test_damaged_files_are_refused(
    potential: Potential, tmp_path: Path, damage: object, words: str
) -> None:
    path = tmp_path / "p.safetensors"
    potential.save(path)
    tensors, header = read_safetensors(path, "potential")
    assert tensors.keys() == load_file(path).keys()
    damage(tensors)  # type: ignore[operator]
    write_safetensors(path, tensors, header)
    with pytest.raises(PotentialError, match=words):
        Potential.load(path)
