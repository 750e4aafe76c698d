"""Training: learns, resumes without a trace, guards its inputs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from aiida_rm.engine.errors import DivergenceError, FramesError, PotentialError, StateError
from aiida_rm.engine.files import PREVIOUS_STATE
from aiida_rm.engine.frames import Frames, concatenate
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import PerturbSettings, TrainSettings
from aiida_rm.engine.training import data as training_data
from aiida_rm.engine.training.data import (
    TrainingData,
    noise_weights,
    pack,
    split,
)
from aiida_rm.engine.training.loss import energy_errors, weighted_loss
from aiida_rm.engine.training.trainer import Trainer, TrainOutcome, learning_rate


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def stable_crystals() -> Frames:
    atoms = bulk("C", "diamond", a=3.567)
    return Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])


def crystals(samples: int = 24, seed: int = 0) -> Frames:
    recipe = PerturbSettings(samples=samples, min_atoms=8, seed=seed)
    return perturb(stable_crystals(), recipe)


def molecules() -> Frames:
    parts = [molecule("H2O"), molecule("CH4")]
    stable = Frames.build([a.numbers for a in parts], [a.positions for a in parts])
    return perturb(stable, PerturbSettings(samples=24, displacement=0.1))


SETTINGS = TrainSettings(
    epochs=4, batch_atoms=40, cutoff=3.5, channels=3, radial=4, l_max=2, hidden=(8,), threads=1
)


def weights(potential: torch.nn.Module) -> dict[str, torch.Tensor]:
    return potential.state_dict()


def assert_same(a: torch.nn.Module, b: torch.nn.Module) -> None:
    for name, value in weights(a).items():
        assert torch.equal(value, weights(b)[name]), name


def assert_same_run(whole: TrainOutcome, resumed: TrainOutcome, folder: Path) -> None:
    """Weights, learning curves and the bytes of the files."""
    assert_same(whole.potential, resumed.potential)
    for a, b in zip(whole.progress.history, resumed.progress.history, strict=True):
        assert untimed(a) == untimed(b)
    whole.potential.save(folder / "a.safetensors")
    resumed.potential.save(folder / "b.safetensors")
    assert (folder / "a.safetensors").read_bytes() == (folder / "b.safetensors").read_bytes()


def untimed(metrics: dict[str, float]) -> dict[str, float]:
    return {k: v for k, v in metrics.items() if "second" not in k and k != "waiting"}


@pytest.mark.parametrize("frames", [crystals(), molecules()], ids=["crystals", "molecules"])
def test_the_error_falls(frames: Frames) -> None:
    outcome = Trainer(frames, replace(SETTINGS, epochs=25)).run()
    history = outcome.progress.history
    assert outcome.stop_reason == "completed"
    assert [row["epoch"] for row in history] == list(range(1, 26))
    assert history[-1]["loss"] < 0.6 * history[0]["loss"]
    assert outcome.progress.best_error == min(row["validation_loss"] for row in history)


@pytest.mark.parametrize("interrupted_at", [1, 5, 11])
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, interrupted_at: int) -> None:
    frames, state = crystals(), tmp_path / "state.safetensors"
    whole = Trainer(frames, SETTINGS).run()
    calls = iter(range(1, 10**6))
    first = Trainer(frames, SETTINGS).run(
        lambda: "walltime" if next(calls) == interrupted_at else None, checkpoint=state
    )
    assert first.stop_reason == "walltime"
    assert first.progress.step == interrupted_at
    second = Trainer(frames, SETTINGS)
    second.restore(state)
    resumed = second.run(checkpoint=state)
    assert_same_run(whole, resumed, tmp_path)


def test_checkpoints_come_by_the_clock(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    Trainer(crystals(), replace(SETTINGS, checkpoint_seconds=0.0)).run(checkpoint=state)
    resumed = Trainer(crystals(), SETTINGS)
    resumed.restore(state)
    assert resumed.progress.epoch == 3
    assert not (tmp_path / "state.safetensors.tmp").exists()


def test_the_checkpoint_before_the_last_stays(tmp_path: Path) -> None:
    state = tmp_path / "state.safetensors"
    Trainer(crystals(), replace(SETTINGS, checkpoint_seconds=0.0)).run(checkpoint=state)
    state.write_bytes(state.read_bytes()[:-9] + bytes(9))
    resumed = Trainer(crystals(), SETTINGS)
    with pytest.raises(StateError, match="damaged: its checksum"):
        resumed.restore(state)
    resumed.restore(tmp_path / PREVIOUS_STATE)
    assert_same_run(Trainer(crystals(), SETTINGS).run(), resumed.run(), tmp_path)


def test_a_full_disk_is_no_reason_to_stop(tmp_path: Path) -> None:
    said: list[str] = []
    trainer = Trainer(crystals(), replace(SETTINGS, checkpoint_seconds=0.0))
    outcome = trainer.run(checkpoint=tmp_path / "nowhere" / "state", say=said.append)
    assert "training goes on without a checkpoint" in said[0]
    assert_same_run(Trainer(crystals(), SETTINGS).run(), outcome, tmp_path)


def test_the_last_weights_on_request() -> None:
    best, last = (Trainer(crystals(), replace(SETTINGS, weights=w)) for w in ("best", "last"))
    for trainer in (best, last):
        trainer.run()
        # As if the first epoch had been the best one.
        trainer.best.load_state_dict(Trainer(crystals(), SETTINGS).best.state_dict())
    assert torch.equal(last.finished_potential().network.mix, last.average.network.mix)
    assert torch.equal(best.finished_potential().network.mix, best.best.network.mix)
    assert not torch.equal(best.best.network.mix, last.average.network.mix)


def test_batches_are_a_function_of_seed_and_epoch() -> None:
    first, second = (Trainer(crystals(), SETTINGS) for _ in range(2))
    first.run()
    for epoch in (0, 3):
        for a, b in zip(first._batches(epoch), second._batches(epoch), strict=True):
            assert np.array_equal(a, b)
    assert not np.array_equal(first._batches(0)[0], first._batches(1)[0])


def test_another_seed_gives_other_weights_the_same_seed_the_same() -> None:
    a, b, c = (Trainer(crystals(), replace(SETTINGS, seed=s)).run().potential for s in (0, 0, 1))
    assert_same(a, b)
    assert not torch.equal(a.network.mix, c.network.mix)


@pytest.mark.parametrize(
    "other",
    [
        (crystals(), replace(SETTINGS, seed=9)),
        (crystals(), replace(SETTINGS, epochs=5)),
        (crystals(seed=1), SETTINGS),
    ],
    ids=["seed", "epochs", "data"],
)
def test_a_foreign_state_is_refused(tmp_path: Path, other: tuple[Frames, TrainSettings]) -> None:
    trainer = Trainer(crystals(), SETTINGS)
    trainer.save(tmp_path / "s.safetensors")
    with pytest.raises(StateError, match="belongs to another training"):
        Trainer(*other).restore(tmp_path / "s.safetensors")


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    trainer = Trainer(crystals(), SETTINGS)
    path = tmp_path / "s.safetensors"
    trainer.save(path)
    whole = path.read_bytes()
    for damaged in (whole[:-100], b"", whole.replace(b"model.network.mix", b"model.network.mux")):
        path.write_bytes(damaged)
        with pytest.raises(StateError):
            Trainer(crystals(), SETTINGS).restore(path)


def break_weights(trainer: Trainer) -> None:
    with torch.no_grad():
        trainer.model.network.mix.fill_(float("nan"))


def test_divergence_is_told_and_keeps_the_checkpoint(tmp_path: Path) -> None:
    settings = replace(SETTINGS, rescues=0)
    trainer = Trainer(crystals(), settings)
    state = tmp_path / "s.safetensors"
    trainer.save(state)
    break_weights(trainer)
    with pytest.raises(DivergenceError, match="after 0 rescues; lower 'learning_rate'"):
        trainer.run(checkpoint=state)
    Trainer(crystals(), settings).restore(state)


def test_a_loss_that_is_no_number_leads_back_to_the_best_weights() -> None:
    settings = replace(SETTINGS, epochs=6, draw="stored", rescues=1)
    trainer = Trainer(crystals(), settings)
    said: list[str] = []

    def fail_once(metrics: dict[str, float]) -> None:
        if metrics["epoch"] == 3:
            break_weights(trainer)

    outcome = trainer.run(on_epoch=fail_once, say=said.append)
    progress = outcome.progress
    assert progress.rescues == 1
    assert any("half the learning rate, rescue 1 of 1" in line for line in said)
    calm = Trainer(crystals(), settings).run().progress
    # The same epochs and steps, from then on at half the rate.
    assert (progress.epoch, progress.step) == (calm.epoch, calm.step)
    for row, other in zip(progress.history, calm.history, strict=True):
        share = 1 if row["epoch"] <= 3 else 0.5
        assert row["learning_rate"] == pytest.approx(share * other["learning_rate"])
        assert np.isfinite(row["loss"])
    assert progress.history[-1]["force_error"] < calm.history[0]["force_error"]


def test_huge_losses_before_a_rescue_are_not_in_the_mean() -> None:
    settings = replace(SETTINGS, epochs=3, batch_atoms=8, draw="stored", rescues=1)
    trainer = Trainer(crystals(), settings)
    steps = len(trainer._batches(0))
    assert steps > 3
    add_gradient, calls = trainer._add_gradient, 0

    def explode(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = add_gradient(*args)
        factors = {steps + 2: 1e20, steps + 3: float("nan")}
        return loss * factors.get(calls, 1.0)

    trainer._add_gradient = explode
    progress = trainer.run().progress
    assert progress.rescues == 1
    assert progress.step == 3 * steps
    assert max(row["loss"] for row in progress.history) < 100


def test_a_gradient_that_is_no_number_is_rescued_too() -> None:
    settings = replace(SETTINGS, epochs=2, draw="stored", rescues=1)
    trainer = Trainer(crystals(), settings)
    add_gradient, calls = trainer._add_gradient, 0
    said: list[str] = []

    def overflow(*args: Any) -> torch.Tensor:
        nonlocal calls
        calls += 1
        loss = add_gradient(*args)
        if calls == 2:
            trainer.weights[0].grad.fill_(float("inf"))
        return loss

    trainer._add_gradient = overflow
    outcome = trainer.run(say=said.append)
    assert outcome.progress.rescues == 1
    assert any("its gradient inf in epoch" in line for line in said)
    assert all(torch.isfinite(weight).all() for weight in outcome.potential.parameters())


def test_a_rescue_is_in_the_state(tmp_path: Path) -> None:
    """Stopped after a rescue and resumed: the same weights as in one go."""
    settings = replace(SETTINGS, epochs=6, rescues=1)

    def run(stop_after: int | None) -> dict[str, torch.Tensor]:
        trainer = Trainer(crystals(), settings)
        state = tmp_path / "s.safetensors"

        def fail_once(metrics: dict[str, float]) -> None:
            if metrics["epoch"] == 2:
                break_weights(trainer)

        def stop() -> str | None:
            return "walltime" if stop_after and trainer.progress.epoch == stop_after else None

        trainer.run(should_stop=stop, on_epoch=fail_once, checkpoint=state)
        if stop_after:
            trainer = Trainer(crystals(), settings)
            trainer.restore(state)
            assert trainer.progress.rescues == 1
            trainer.run()
        return trainer.model.state_dict()

    at_once, in_two = run(None), run(4)
    assert all(torch.equal(value, in_two[name]) for name, value in at_once.items())


def test_warm_start_begins_where_the_other_ended() -> None:
    first = Trainer(crystals(), replace(SETTINGS, epochs=60)).run()
    cold = Trainer(crystals(), replace(SETTINGS, epochs=1)).run()
    warm = Trainer(crystals(), replace(SETTINGS, epochs=1), first.potential).run()
    assert warm.progress.history[0]["loss"] < 0.8 * cold.progress.history[0]["loss"]


@pytest.mark.parametrize("knobs", [{"channels": 4}, {"architecture": "equivariant"}])
def test_unfit_warm_starts_are_refused(knobs: dict[str, Any]) -> None:
    first = Trainer(crystals(), replace(SETTINGS, epochs=1)).run().potential
    with pytest.raises(PotentialError, match="has the shape"):
        Trainer(crystals(), replace(SETTINGS, epochs=1, **knobs), first)


@pytest.mark.parametrize("architecture", ["local", "equivariant"])
def test_a_warm_start_adds_elements(architecture: str) -> None:
    settings = replace(SETTINGS, epochs=1, architecture=architecture, features=8, dtype="float64")
    first = Trainer(crystals(), settings).run().potential
    water = Frames.build([[8, 1, 1]], [molecule("H2O").positions])
    trainer = Trainer(perturb(water, PerturbSettings(samples=8)), settings, first)
    again, _ = TrainingData(crystals(), 4.0, torch.float64, torch.device("cpu")).batch(np.arange(4))
    shift = trainer.model(again).energy - first(again).energy
    # The same function of carbon, but for the constant of the gauge.
    assert float((shift / 8).std()) < 1e-6
    found = trainer.run().potential
    assert found.elements == ("H", "C", "O")


def test_a_resumed_warm_start_knows_its_elements(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1, architecture="equivariant", features=8)
    water = Frames.build([[8, 1, 1]], [molecule("H2O").positions])
    first = Trainer(perturb(water, PerturbSettings(samples=8)), settings).run().potential
    state = tmp_path / "s.safetensors"
    Trainer(crystals(), settings, first).save(state)
    resumed = Trainer(crystals(), settings)
    resumed.restore(state)
    assert resumed.finished_potential().elements == ("H", "C", "O")


def test_a_resumed_warm_start_wants_its_potential_where_that_made_it_wider(tmp_path: Path) -> None:
    settings = replace(SETTINGS, epochs=1)
    acid = Frames.build([molecule("HCOOH").numbers], [molecule("HCOOH").positions])
    first = Trainer(perturb(acid, PerturbSettings(samples=8)), settings).run().potential
    state = tmp_path / "s.safetensors"
    Trainer(crystals(), settings, first).save(state)
    with pytest.raises(StateError, match="a training that began with a potential wants that one"):
        Trainer(crystals(), settings).restore(state)
    Trainer(crystals(), settings, first).restore(state)


def test_another_core_is_refused() -> None:
    first = Trainer(crystals(), replace(SETTINGS, epochs=1)).run().potential
    atoms = bulk("C", "diamond", a=3.567)
    stable = Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])
    other = perturb(stable, PerturbSettings(samples=4, core_scale=0.6))
    with pytest.raises(PotentialError, match="another core"):
        Trainer(other, SETTINGS, first)
    with pytest.raises(FramesError, match="'core_scale' is missing or differs"):
        Trainer(concatenate([crystals(), other]), SETTINGS)


def test_frames_without_targets_are_refused() -> None:
    frames = crystals()
    with pytest.raises(FramesError, match=r"'force'.*run perturb"):
        Trainer(frames.without_labels(), SETTINGS)
    force = np.array(frames.atom["force"])
    force[3, 1] = np.nan
    with pytest.raises(FramesError, match="'force' is not a finite number everywhere; run pert"):
        Trainer(frames.with_labels(atom={"force": force}), SETTINGS)


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("energy", np.full(20, np.nan), "'energy' is not a finite number.* or leave the label out"),
        ("energy", np.zeros((20, 1)), r"no label 'energy' \(S\) of that shape"),
        ("noise", np.array(["much"] * 20), "'noise' is not a finite number everywhere"),
        ("home_cell", np.full((20, 3, 3), np.inf), "'home_cell' is not a finite number"),
        ("stress", np.zeros((20, 6)), r"no label 'stress' \(S, 3, 3\) of that shape"),
    ],
)
def test_labels_that_only_the_end_needs_are_checked_first(
    name: str, values: np.ndarray, says: str
) -> None:
    with pytest.raises(FramesError, match=says):
        Trainer(crystals(20).with_labels(structure={name: values}), SETTINGS)


def test_early_stopping() -> None:
    settings = replace(SETTINGS, epochs=50, patience=3, learning_rate=1e-8)
    outcome = Trainer(crystals(), settings).run()
    assert outcome.stop_reason in ("early_stopping", "completed")
    assert outcome.progress.epoch - outcome.progress.best_epoch <= 3


def test_the_gauge_puts_the_stable_structure_near_zero() -> None:
    potential = Trainer(crystals(60), replace(SETTINGS, epochs=40)).run().potential
    atoms = bulk("C", "diamond", a=3.567)
    frames = Frames.build([atoms.numbers], [atoms.positions], [atoms.cell.array])
    found = potential(build_graph(frames, potential.cutoff, dtype=torch.float32))
    spread = crystals(60).structure["energy"].mean() / 8
    assert abs(float(found.energy[0]) / 2) < spread


def test_validation_holds_out_families_of_many_parents() -> None:
    frames = crystals(40)
    train, held = split(frames, SETTINGS)
    assert len(held) == 4
    assert sorted([*train, *held]) == list(range(40))
    families = frames.with_labels(structure={"parent": np.arange(40) // 2})
    train, held = split(families, SETTINGS)
    parents = np.arange(40) // 2
    assert not set(parents[train]) & set(parents[held])


def test_kept_graphs_equal_fresh_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = crystals(6)
    data = TrainingData(frames, 3.5, torch.float64, torch.device("cpu"))
    first, _ = data.batch(np.array([0, 3, 5]))
    mixed, _ = data.batch(np.array([5, 1]))
    again, targets = data.batch(np.array([0, 3, 5]))
    assert torch.equal(first.edge_index, again.edge_index)
    torch.testing.assert_close(first.edge_vectors(), again.edge_vectors())
    np.testing.assert_array_equal(targets.forces, frames.select([0, 3, 5]).atom["force"])
    fresh = build_graph(frames.select([5, 1]), 3.5)
    assert torch.equal(mixed.edge_index, fresh.edge_index)
    monkeypatch.setattr(training_data, "_KEPT_EDGES", 0)
    none_kept = TrainingData(frames, 3.5, torch.float64, torch.device("cpu"))
    none_kept.batch(np.array([0]))
    assert torch.equal(none_kept.batch(np.array([5, 1]))[0].edge_index, fresh.edge_index)


def test_packing_keeps_order_and_limit() -> None:
    counts = np.array([4, 4, 9, 1, 1, 1])
    batches = pack(np.array([5, 2, 0, 1, 3, 4]), counts, 8)
    assert [list(b) for b in batches] == [[5], [2], [0, 1], [3, 4]]
    assert pack(np.array([], int), counts, 8) == []


def test_learning_rate_warms_up_and_falls() -> None:
    settings = TrainSettings(learning_rate=0.1, warmup_steps=9, final_rate=0.1)
    assert learning_rate(settings, 0, 0.0) == pytest.approx(0.01)
    assert learning_rate(settings, 9, 0.0) == pytest.approx(0.1)
    assert learning_rate(settings, 900, 1.0) == pytest.approx(0.01)


def test_structures_weigh_by_their_noise() -> None:
    frames = crystals()
    data = TrainingData(frames, 3.5, torch.float64, torch.device("cpu"), 1.0)
    weights = data.batch(np.arange(len(frames)))[1].weights.numpy()
    noise = frames.structure["noise"]
    # The same in any batch.
    np.testing.assert_allclose(data.batch(np.array([5, 2]))[1].weights, weights[[5, 2]])
    assert weights[noise.argmin()] > 10 * weights[noise.argmax()]
    assert (weights * frames.counts).sum() / frames.n_atoms == pytest.approx(1)
    assert (noise_weights(frames, 0.0) == 1).all()
    with pytest.raises(FramesError, match=r"no label 'noise'.*'noise_weight' to 0"):
        noise_weights(frames.select([0, 1]).without_labels(), 1.0)
    plain = Trainer(frames, replace(SETTINGS, epochs=1)).run().progress.history[0]["loss"]
    weighed = Trainer(frames, replace(SETTINGS, epochs=1, noise_weight=1.0))
    assert weighed.run().progress.history[0]["loss"] != plain


def test_the_best_epoch_is_that_of_the_loss_with_its_weights() -> None:
    """By noise weights, the validation loss is another than the plain errors, as the loss is."""
    frames = crystals(60)
    found = {}
    for power in (0.0, 1.0):
        settings = replace(SETTINGS, epochs=1, noise_weight=power, validation_fraction=0.3)
        (row,) = Trainer(frames, settings).run().progress.history
        found[power] = row
    plain = found[0.0]
    assert plain["validation_loss"] == pytest.approx(plain["force_error"] + plain["stress_error"])
    trainer = Trainer(
        frames, replace(SETTINGS, epochs=1, noise_weight=1.0, validation_fraction=0.3)
    )
    trainer.run()
    rows = trainer.validation_rows
    graph, targets = trainer.data.batch(rows)
    prediction = trainer.average(graph)
    factors = trainer._factors(rows)
    by_hand = float(weighted_loss(prediction, graph, targets, factors))
    assert found[1.0]["validation_loss"] == pytest.approx(by_hand, rel=1e-5)
    assert found[1.0]["validation_loss"] != pytest.approx(plain["validation_loss"], rel=0.05)


@pytest.mark.parametrize("architecture", ["local", "equivariant"])
def test_learning_the_energy_makes_its_error_smaller(architecture: str) -> None:
    frames = concatenate([crystals(60), molecules()])
    settings = replace(
        SETTINGS, architecture=architecture, features=8, epochs=15, validation_fraction=0.3
    )
    errors = {}
    for weight in (0.0, 1.0):
        trainer = Trainer(frames, replace(settings, energy_weight=weight))
        last = trainer.run().progress.history[-1]
        graph, targets = trainer.data.batch(trainer.validation_rows)
        found = energy_errors(trainer.average(graph), graph, targets)
        errors[weight] = float(found.mean())
        assert ("energy_error" in last) == bool(weight)
    assert last["energy_error"] == pytest.approx(errors[1.0], rel=1e-3)
    assert errors[1.0] < 0.8 * errors[0.0]


def test_energy_errors_are_relative_and_per_atom() -> None:
    frames = molecules()
    trainer = Trainer(frames, SETTINGS)
    graph, targets = trainer.data.batch(trainer.train_rows)
    prediction = trainer.model(graph)
    wanted = frames.structure["energy"][trainer.train_rows] / frames.counts[trainer.train_rows]
    energy = prediction.energy.detach().numpy() / frames.counts[trainer.train_rows]
    by_hand = ((energy - wanted) / (wanted + 0.02)) ** 2
    found = energy_errors(prediction, graph, targets).detach().numpy()
    np.testing.assert_allclose(found, by_hand, rtol=1e-3, atol=1e-6)


def test_frames_without_energies_are_refused_where_these_are_learnt() -> None:
    frames = crystals()
    bare = replace(frames, structure={k: v for k, v in frames.structure.items() if k != "energy"})
    Trainer(bare, SETTINGS)
    with pytest.raises(FramesError, match="no label 'energy'; run perturb again, or set"):
        Trainer(bare, replace(SETTINGS, energy_weight=0.1))
