"""E~ of the training set in the header, and where a new structure stands among it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ase.build import bulk

from aiida_rm.engine.calculator import ResponseMatchingCalculator
from aiida_rm.engine.converters import from_ase
from aiida_rm.engine.errors import PotentialError
from aiida_rm.engine.frames import concatenate
from aiida_rm.engine.response import perturb
from aiida_rm.engine.search import Knowledge
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training.ranking import energy_percentiles
from aiida_rm.engine.training.trainer import Trainer

STABLE = [bulk("C", "diamond", edge) for edge in (3.5, 3.567, 3.7)]
TRAIN = TrainSettings(epochs=1, dtype="float64", channels=2, hidden=(4,))


def test_percentiles_are_those_of_the_stable_structures() -> None:
    stable = from_ase(STABLE)
    copies = perturb(stable, PerturbSettings(samples=30))
    potential = Trainer(copies, TRAIN).run().potential
    calculator = ResponseMatchingCalculator(potential)
    wanted = sorted(calculator.get_potential_energy(atoms) / len(atoms) for atoms in STABLE)
    noted = potential.notes["energy_percentiles"]
    assert len(noted) == 101
    assert [noted[0], noted[50], noted[100]] == pytest.approx(wanted, abs=2e-7)
    assert noted == sorted(noted)
    # The same of the stable structures themselves, and of fresh copies.
    assert energy_percentiles(potential, stable, 1) == pytest.approx(noted, abs=2e-7)
    fresh = replace(TRAIN, draw="fresh", recipe=PerturbSettings(samples=30))
    assert Trainer(stable, fresh).run().potential.notes["energy_percentiles"] == noted


def test_without_homes_there_are_none() -> None:
    copies = perturb(from_ase(STABLE), PerturbSettings(samples=6))
    atom = {name: values for name, values in copies.atom.items() if name != "home"}
    old = replace(copies, atom=atom)
    potential = Trainer(old, TRAIN).run().potential
    assert potential.notes["energy_percentiles"] == []
    assert np.isnan(Knowledge.from_notes(potential.notes).energy_percentile(np.zeros(3))).all()


def test_one_structure_and_many_give_one_answer() -> None:
    stable = concatenate([from_ase([STABLE[0]])] * 3)
    copies = perturb(stable, PerturbSettings(samples=9))
    potential = Trainer(copies, TRAIN).run().potential
    assert len(set(potential.notes["energy_percentiles"])) == 1


def test_place_among_the_training_set() -> None:
    known = Knowledge.from_notes({"energy_percentiles": np.linspace(-1, 1, 101).tolist()})
    places = known.energy_percentile(np.array([-2.0, -1.0, 0.0, 0.505, 1.0, 1.001]))
    assert places.tolist() == pytest.approx([0, 0, 50, 75.25, 100, 100])
    single = Knowledge.from_notes({"energy_percentiles": [0.25] * 101})
    assert single.energy_percentile(np.array([0.2, 0.25, 0.3])).tolist() == [0, 0, 100]


@pytest.mark.parametrize("values", [[1.0], [1.0, 0.0], [0.0, float("nan")], "high", 3])
def test_odd_percentiles_are_refused(values) -> None:
    with pytest.raises(PotentialError, match="training set cannot be read"):
        Knowledge.from_notes({"energy_percentiles": values})
