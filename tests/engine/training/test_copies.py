"""New copies each epoch: the first ones are the stored set, none comes twice, all are in order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from aiida_rm.engine import response
from aiida_rm.engine.errors import FramesError, SettingsError
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings
from aiida_rm.engine.training.copies import Copies
from aiida_rm.engine.training.trainer import Trainer
from tests.engine.training.test_trainer import (
    SETTINGS,
    assert_same,
    crystals,
    stable_crystals,
    untimed,
)

RECIPE = PerturbSettings(samples=24, min_atoms=8)
FRESH = replace(SETTINGS, draw="fresh", recipe=RECIPE)


def assert_same_bytes(first: Frames, second: Frames) -> None:
    a, b = first.to_arrays(), second.to_arrays()
    assert set(a) == set(b)
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), name


def two_kinds() -> Frames:
    molecule = Frames.build([[8, 1, 1]], [[[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]])
    return concatenate([stable_crystals(), molecule])


def test_the_first_epoch_is_the_stored_set() -> None:
    assert_same_bytes(Copies(two_kinds(), RECIPE).all_of(0), perturb(two_kinds(), RECIPE))


def test_some_copies_are_those_of_the_whole_epoch() -> None:
    copies, rng = Copies(two_kinds(), replace(RECIPE, samples=25)), np.random.default_rng(0)
    for epoch in (0, 1, 7):
        whole = copies.all_of(epoch)
        for count in (1, 3, 11):
            rows = rng.permutation(25)[:count]
            assert_same_bytes(copies.some_of(epoch, rows), whole.select(rows))


def test_epochs_take_the_next_numbers() -> None:
    # Two epochs of 12 are the copies of one set of 24.
    copies = Copies(stable_crystals(), replace(RECIPE, samples=12))
    both = concatenate([copies.all_of(0), copies.all_of(1)])
    assert_same_bytes(both, perturb(stable_crystals(), RECIPE))
    later = perturb(stable_crystals(), replace(RECIPE, samples=12), first_copy=12)
    assert_same_bytes(copies.all_of(1), later)


def test_no_copy_comes_twice_where_shares_differ() -> None:
    copies = Copies(two_kinds(), replace(RECIPE, samples=5))
    sets = [copies.all_of(epoch) for epoch in range(3)]
    firsts = {tuple(frames.positions[frames.ptr[i]]) for frames in sets for i in range(5)}
    assert len(firsts) == 15


def test_one_epoch_of_fresh_copies_equals_one_of_stored_ones() -> None:
    stored = Trainer(crystals(), replace(SETTINGS, epochs=1)).run()
    fresh = Trainer(stable_crystals(), replace(FRESH, epochs=1)).run()
    assert_same(stored.potential, fresh.potential)
    assert untimed(stored.progress.history[0]) == untimed(fresh.progress.history[0])


def test_later_epochs_differ_and_keep_their_validation_set() -> None:
    stored = Trainer(crystals(), replace(SETTINGS, epochs=2))
    fresh = Trainer(stable_crystals(), replace(FRESH, epochs=2))
    assert np.array_equal(stored.validation_rows, fresh.validation_rows)
    held = fresh.data.frames.select(fresh.validation_rows)
    assert_same_bytes(held, stored.data.frames.select(stored.validation_rows))
    a, b = stored.run().potential, fresh.run().potential
    assert not torch.equal(a.network.mix, b.network.mix)
    # What is held out is never trained on: its numbers belong to the first epoch.
    for epoch in range(2):
        trained = fresh.copies.some_of(epoch, fresh.train_rows)
        places = {tuple(x) for x in trained.positions}
        assert not places & {tuple(x) for x in held.positions}


def test_targets_are_refused() -> None:
    with pytest.raises(FramesError, match="carry targets already, but 'draw' is 'fresh'"):
        Trainer(crystals(), FRESH)
    with pytest.raises(FramesError, match="run perturb on them first"):
        Trainer(stable_crystals(), SETTINGS)


def test_no_structures_are_refused() -> None:
    with pytest.raises(FramesError, match="no structures"):
        Trainer(stable_crystals().select([]), FRESH)


def test_without_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(response, "find_spec", lambda _name: None)
    with pytest.raises(SettingsError, match=r"'match' needs scipy.* or set 'match' to false"):
        Trainer(stable_crystals(), replace(FRESH, recipe=replace(RECIPE, match=True)))
    Trainer(stable_crystals(), replace(FRESH, recipe=replace(RECIPE, match=False)))
