"""What a potential says of the structures kept for validation."""

from __future__ import annotations

import numpy as np
import pytest

from aiida_rm.engine.training import held_out as module
from aiida_rm.engine.training.trainer import Trainer
from tests.engine.training.test_trainer import SETTINGS, crystals, molecules


@pytest.mark.parametrize("mixed", [False, True])
def test_predictions_stand_beside_the_targets(mixed: bool) -> None:
    trainer = Trainer(molecules() if mixed else crystals(), SETTINGS)
    outcome = trainer.run()
    found = trainer.held_out(outcome.potential)
    assert found is not None
    wanted = trainer.data.frames.select(trainer.validation_rows)
    np.testing.assert_array_equal(found.positions, wanted.positions)
    np.testing.assert_array_equal(found.atom["force"], wanted.atom["force"])
    away = found.atom["predicted_force"] - found.atom["force"]
    errors = trainer.evaluate(trainer.validation_rows)
    # The potential that is handed out is that of the best epoch; here it is the last.
    assert trainer.progress.best_epoch == trainer.progress.epoch
    assert np.sqrt((away**2).mean()) == pytest.approx(errors["force_rmse"], rel=1e-5)
    stress = (found.structure["predicted_stress"] - found.structure["stress"])[
        found.pbc.all(axis=1)
    ]
    rmse = np.sqrt((stress**2).mean()) if len(stress) else 0.0
    assert rmse == pytest.approx(errors["stress_rmse"], rel=1e-5, abs=1e-12)
    assert np.isfinite(found.structure["predicted_energy"]).all()


def test_large_sets_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(crystals(), SETTINGS)
    rows = trainer.train_rows
    most = int(trainer.data.counts[rows].sum()) // 3
    monkeypatch.setattr(module, "MOST_ATOMS", most)
    found = module.held_out(trainer.average, trainer.data, rows, SETTINGS.batch_atoms)
    assert 1 <= len(found) <= len(rows) // 3 + 1
    assert found.n_atoms <= most + int(trainer.data.counts.max())


def test_nothing_is_kept_for_validation() -> None:
    settings = SETTINGS.__class__(**{**SETTINGS.__dict__, "validation_fraction": 0.0})
    trainer = Trainer(crystals(), settings)
    assert trainer.held_out(trainer.average) is None
