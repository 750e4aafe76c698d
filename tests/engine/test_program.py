"""The program as a job calls it: real processes, real files, and what people get wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aiida_rm.engine import files, tasks, ticker
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.labels import COMMITTEE, GENERATED
from aiida_rm.engine.neighbors import build_graph
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.potential.environments import Environments
from aiida_rm.engine.relaxation import relax
from aiida_rm.engine.settings import GenerateSettings
from tests.engine.program import TRAIN, metrics, prepare, results

PERTURB = {"samples": 40, "seed": 1}
GENERATE = {
    "n_structures": 6,
    "n_atoms": [2, 3],
    "threads": 1,
    "stages": [{"cell": "shape", "max_steps": 15}],
}


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, diamond_frames: Frames) -> Path:
    """All tasks, one after the other, each in its folder."""
    top = tmp_path_factory.mktemp("chain")
    perturb, train, generate, score, relax, doctor = (top / task for task in files.TASKS)
    file = prepare(perturb, "perturb", PERTURB)
    diamond_frames.save(perturb / files.INPUT_FRAMES)
    assert main(["perturb", str(file)]) == 0
    file = prepare(train, "train", TRAIN)
    shutil.copytree(perturb / files.OUTPUT_FRAMES, train / files.INPUT_FRAMES)
    assert main(["train", str(file)]) == 0
    file = prepare(generate, "generate", GENERATE)
    shutil.copy(train / files.OUTPUT_POTENTIAL, generate / files.INPUT_POTENTIAL)
    assert main(["generate", str(file)]) == 0
    file = prepare(score, "score", {"processes": 1})
    shutil.copytree(generate / files.OUTPUT_FRAMES, score / files.INPUT_FRAMES)
    diamond_frames.save(score / files.KNOWN_FRAMES)
    shutil.copytree(generate / files.OUTPUT_FRAMES, score / files.NULL_FRAMES)
    assert main(["score", str(file)]) == 0
    file = prepare(relax, "relax", {"calculator": "ase.calculators.emt:EMT", "max_steps": 2})
    shutil.copytree(generate / files.OUTPUT_FRAMES, relax / files.INPUT_FRAMES)
    assert main(["relax", str(file)]) == 0
    assert main(["doctor", str(prepare(doctor, "doctor", {}))]) == 0
    return top


def test_every_task_leaves_results_metrics_and_its_output(chain: Path) -> None:
    for task in files.TASKS:
        found = results(chain / task)
        assert (found["task"], found["status"], found["error"]) == (task, "finished", None)
        assert found["engine"]["torch"]
        assert metrics(chain / task) or task == "doctor"
        assert not list((chain / task).glob("*.tmp"))
    assert results(chain / "perturb")["summary"]["n_structures"] == 40
    assert results(chain / "train")["summary"]["epochs"] == 3
    made = Frames.load(chain / "generate" / files.OUTPUT_FRAMES).structure
    assert {name: array.dtype.kind for name, array in made.items()} == GENERATED
    # One stable structure: a new one is below it, or above.
    finite = np.isfinite(made["energy"])
    assert finite.any()
    assert set(made["energy_percentile"][finite]) <= {0.0, 100.0}
    assert [line["epoch"] for line in metrics(chain / "train")] == [1, 2, 3]
    for line in metrics(chain / "train"):
        assert {"clipped", "waiting", "structures_per_second"} <= set(line)
    trained = results(chain / "train")["summary"]
    assert trained["processes"] == 1
    assert 0 <= trained["waiting"] < 1
    assert trained["clipped"] == pytest.approx(
        np.mean([line["clipped"] for line in metrics(chain / "train")])
    )
    assert not (chain / "train" / files.OUTPUT_STATE).exists()
    # Of the one stable cell behind all copies.
    notes = Potential.load(chain / "train" / files.OUTPUT_POTENTIAL).notes
    assert notes["pair_distances"] == {"C C": 1.545}
    assert notes["formulas"] == {"C2": 1}
    summary = results(chain / "generate")["summary"]
    assert summary["n_structures"] == 6
    assert summary["converged"] + summary["unconverged"] + summary["exploded"] == 6
    assert (summary["batch_halved"], summary["too_large"]) == (0, 0)
    scored = Frames.load(chain / "score" / files.OUTPUT_FRAMES)
    assert {"valid", "energy_per_atom", "match", "index"} <= set(scored.structure)
    recognition = results(chain / "score")["summary"]["crystals"]["recognition"]
    assert recognition["match"]["beside_null"]["ratio"]["per_sample"] in (None, 1)


def test_a_second_run_gives_the_same_bytes(chain: Path, tmp_path: Path) -> None:
    """In a fresh process, from the installed program."""
    again = tmp_path / "train"
    shutil.copytree(chain / "train", again)
    (again / files.OUTPUT_POTENTIAL).unlink()
    command = [sys.executable, "-m", "aiida_rm.engine", "train", str(again / files.SETTINGS)]
    subprocess.run(command, check=True, capture_output=True)
    assert "predicted_force" in Frames.load(chain / "train" / files.OUTPUT_FRAMES).atom
    first = (chain / "train" / files.OUTPUT_POTENTIAL).read_bytes()
    assert (again / files.OUTPUT_POTENTIAL).read_bytes() == first


def test_walltime_and_resume(chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    file = prepare(folder, "train", TRAIN, walltime_seconds=1e-3)
    shutil.copytree(chain / "train" / files.INPUT_FRAMES, folder / files.INPUT_FRAMES)
    segments = 0
    while True:
        assert main(["train", str(file)]) == 0
        segments += 1
        if results(folder)["status"] == "finished":
            break
        assert results(folder)["stop_reason"] == "walltime"
        assert Potential.load(folder / files.OUTPUT_POTENTIAL).elements == ("C",)
        (folder / files.OUTPUT_STATE).replace(folder / files.INPUT_STATE)
        if segments == 2:
            file = prepare(folder, "train", TRAIN)
    assert segments == 3
    assert [line["epoch"] for line in metrics(folder)] == [1, 2, 3]
    whole = (chain / "train" / files.OUTPUT_POTENTIAL).read_bytes()
    assert (folder / files.OUTPUT_POTENTIAL).read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_ends_in_order(chain: Path, tmp_path: Path, number: signal.Signals) -> None:
    folder = tmp_path / "train"
    file = prepare(folder, "train", {**TRAIN, "epochs": 100_000})
    shutil.copytree(chain / "train" / files.INPUT_FRAMES, folder / files.INPUT_FRAMES)
    command = [sys.executable, "-m", "aiida_rm.engine", "train", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            lines = folder / files.METRICS
            if lines.exists() and lines.stat().st_size:
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 0
    assert results(folder)["stop_reason"] == "signal"
    assert (folder / files.OUTPUT_STATE).exists()


def test_killed_without_warning_leaves_a_valid_checkpoint(chain: Path, tmp_path: Path) -> None:
    folder = tmp_path / "train"
    file = prepare(folder, "train", {**TRAIN, "epochs": 100_000, "checkpoint_seconds": 0})
    shutil.copytree(chain / "train" / files.INPUT_FRAMES, folder / files.INPUT_FRAMES)
    command = [sys.executable, "-m", "aiida_rm.engine", "train", str(file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (folder / files.OUTPUT_STATE).exists():
            time.sleep(0.05)
        process.kill()
    assert not (folder / files.RESULTS).exists()
    (folder / files.OUTPUT_STATE).replace(folder / files.INPUT_STATE)
    prepare(folder, "train", {**TRAIN, "epochs": 100_000}, walltime_seconds=0.5)
    assert main(["train", str(file)]) == 0
    assert results(folder)["stop_reason"] == "walltime"


def test_a_penalty_is_part_of_the_job(chain: Path, tmp_path: Path) -> None:
    folder = bad(tmp_path / "penalty", "generate", chain)
    spoil_settings(
        folder,
        penalty="tests.engine.relaxation.penalties:flat",
        penalty_arguments='{"height": 1.0}',
        batch_edges=2000,
    )
    assert main(["generate", str(folder / files.SETTINGS)]) == 0
    made = Frames.load(folder / files.OUTPUT_FRAMES).structure
    assert (made["penalty"] > 0).all()
    assert set(GENERATED) < set(made)


def test_labels_of_what_the_potential_remembers(chain: Path, tmp_path: Path) -> None:
    alone = Frames.load(chain / "generate" / files.OUTPUT_FRAMES).structure
    assert np.isnan(alone["latent_distance"]).all()
    np.testing.assert_array_equal(alone["ranking"], alone["energy_per_atom"])
    folder = bad(tmp_path / "aware", "generate", chain)
    path = folder / files.INPUT_POTENTIAL
    potential = Potential.load(path)
    trained = Frames.load(chain / "train" / files.INPUT_FRAMES)
    graph = build_graph(trained, potential.cutoff, dtype=torch.float32)
    potential.environments = Environments.of(potential.hidden(graph), graph.numbers)
    potential.notes |= {"latent_percentiles": np.linspace(0, 1, 101).tolist()}
    potential.save(path)
    spoil_settings(folder, ranking_weight=0.5)
    assert main(["generate", str(folder / files.SETTINGS)]) == 0
    made = Frames.load(folder / files.OUTPUT_FRAMES).structure
    assert {name: array.dtype.kind for name, array in made.items()} == GENERATED
    np.testing.assert_array_equal(made["energy"], alone["energy"])
    sound = np.isfinite(made["energy"])
    apart = made["latent_distance"][sound]
    assert (apart > 0).all()
    np.testing.assert_allclose(
        made["ranking"][sound], made["energy_per_atom"][sound] + 0.5 * apart, rtol=1e-12
    )
    percents = np.minimum(100 * apart, 100)
    np.testing.assert_allclose(made["latent_percentile"][sound], percents, atol=1e-6)
    assert np.isnan(made["latent_distance"][~sound]).all()


@pytest.fixture(scope="module")
def committee(chain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generation of the chain, judged by a potential of another seed, too."""
    top = tmp_path_factory.mktemp("committee")
    train = top / "train"
    file = prepare(train, "train", {**TRAIN, "seed": 1})
    shutil.copytree(chain / "train" / files.INPUT_FRAMES, train / files.INPUT_FRAMES)
    assert main(["train", str(file)]) == 0
    generate = bad(top / "generate", "generate", chain)
    (generate / files.INPUT_COMMITTEE).mkdir()
    member = generate / files.INPUT_COMMITTEE / "second.safetensors"
    shutil.copy(train / files.OUTPUT_POTENTIAL, member)
    assert main(["generate", str(generate / files.SETTINGS)]) == 0
    return generate


def test_a_committee_judges_the_same_structures(chain: Path, committee: Path) -> None:
    made = Frames.load(committee / files.OUTPUT_FRAMES)
    alone = Frames.load(chain / "generate" / files.OUTPUT_FRAMES)
    np.testing.assert_array_equal(made.positions, alone.positions)
    kinds = {name: array.dtype.kind for name, array in made.structure.items()}
    assert kinds == {**GENERATED, **COMMITTEE}
    values, sound = made.structure["uncertainty"], np.isfinite(alone.structure["energy"])
    assert (values[sound] > 0).all()
    np.testing.assert_array_equal(np.isfinite(values), sound)
    assert made.atom["force_deviation"].shape == (made.n_atoms,)
    told = results(committee)["summary"]["committee"]
    assert (told["potentials"], told["not_judged"]) == (2, 0)
    assert told["uncertainty_median"] == pytest.approx(np.median(values[sound]))
    assert told["uncertainty_max"] == values[sound].max()
    assert "judging" in {line["stage"] for line in metrics(committee)}
    assert "committee" not in results(chain / "generate")["summary"]


def test_a_committee_judges_hops(committee: Path, tmp_path: Path) -> None:
    hop = {"kind": "hop", "cell": "shape", "max_steps": 10, "amplitude": 0.6, "cycles": 3}
    stages = [hop, {"cell": "shape", "max_steps": 10}]
    folder = bad(tmp_path / "hop", "generate", committee.parent)
    spoil_settings(folder, stages=stages)
    assert main(["generate", str(folder / files.SETTINGS)]) == 0
    made = Frames.load(folder / files.OUTPUT_FRAMES)
    job = Job(folder / files.SETTINGS, "generate")
    settings = job.settings
    assert isinstance(settings, GenerateSettings)
    potential, members = tasks._load_potentials(job, settings)
    starts, _ = tasks._make_starts(job, settings, potential)
    judged = relax(starts, potential, settings.stages, floor=settings.floor, members=members)
    np.testing.assert_array_equal(made.positions, judged.positions)
    alone = relax(starts, potential, settings.stages, floor=settings.floor)
    assert np.abs(alone.positions - made.positions).max() > 0.1


def test_a_stop_leaves_out_what_is_not_judged(
    committee: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The walltime ends while the committee judges."""
    folder = bad(tmp_path / "stopped", "generate", committee.parent)
    spoil_settings(folder, batch_atoms=1)
    shares = set()

    def should_stop(job: Job, share: float = 1.0) -> str | None:
        shares.add(share)
        return "walltime" if "judging" in (folder / files.METRICS).read_text() else None

    monkeypatch.setattr(Job, "should_stop", should_stop)
    monkeypatch.setattr(ticker, "_INTERVAL", 0.0)
    assert main(["generate", str(folder / files.SETTINGS)]) == 0
    found = results(folder)
    assert (found["status"], found["stop_reason"]) == ("stopped", "walltime")
    made = Frames.load(folder / files.OUTPUT_FRAMES).structure
    sound = np.isfinite(made["energy"])
    assert np.isfinite(made["uncertainty"]).sum() == sound.sum() == 1
    alone = Frames.load(committee / files.OUTPUT_FRAMES).structure
    total = np.isfinite(alone["energy"]).sum()
    assert found["summary"]["committee"]["not_judged"] == total - 1
    assert len(sound) == 6 - (total - 1)
    # The relaxation leaves time to judge.
    assert shares == {tasks._RELAXING, 1.0}


def test_a_share_of_the_walltime(tmp_path: Path) -> None:
    job = Job(prepare(tmp_path / "job", "generate", GENERATE, walltime_seconds=1000), "generate")
    job.began -= 970
    assert job.should_stop() is None
    assert job.should_stop(0.96) == "walltime"


@pytest.mark.parametrize("spoil", ["empty", "elements", "damaged", "twice"])
def test_bad_committees(committee: Path, tmp_path: Path, spoil: str) -> None:
    folder = bad(tmp_path / "spoilt", "generate", committee.parent)
    member = folder / files.INPUT_COMMITTEE / "second.safetensors"
    if spoil == "empty":
        member.unlink()
        says = "'input_committee' holds no potential; put files *.safetensors there"
    elif spoil == "elements":
        potential = Potential.load(member)
        potential.elements = ("Si",)
        potential.save(member)
        says = "the member 'second' of the committee never saw C"
    elif spoil == "twice":
        shutil.copy(folder / files.INPUT_POTENTIAL, member)
        says = "'second.safetensors' is the same as 'input_potential.safetensors'"
    else:
        member.write_bytes(b"no weights")
        says = "'second.safetensors' is not a potential file, or damaged"
    assert main(["generate", str(folder / files.SETTINGS)]) == 1
    error = results(folder)["error"]
    assert error["code"] == "bad_potential"
    assert says in error["message"]


def test_job_ranges_of_one_seed_make_the_whole(chain: Path, tmp_path: Path) -> None:
    parts = []
    for name, first in (("a", 0), ("b", 3)):
        folder = tmp_path / name
        file = prepare(folder, "generate", {**GENERATE, "n_structures": 3, "first_index": first})
        shutil.copy(chain / "train" / files.OUTPUT_POTENTIAL, folder / files.INPUT_POTENTIAL)
        assert main(["generate", str(file)]) == 0
        parts.append(Frames.load(folder / files.OUTPUT_FRAMES))
    whole = Frames.load(chain / "generate" / files.OUTPUT_FRAMES)
    assert [*parts[0].structure["index"], *parts[1].structure["index"]] == list(range(6))
    both = np.concatenate([part.positions for part in parts])
    np.testing.assert_allclose(both, whole.positions, atol=1e-4)


def bad(folder: Path, task: str, chain: Path) -> Path:
    """A good job of the task, to be spoilt."""
    shutil.copytree(chain / task, folder)
    (folder / files.RESULTS).unlink()
    return folder


def spoil_settings(folder: Path, **knobs: Any) -> None:
    content = json.loads((folder / files.SETTINGS).read_text())
    content["settings"].update(knobs)
    (folder / files.SETTINGS).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("task", "spoil", "code", "words"),
    [
        ("train", lambda f: spoil_settings(f, epoch=3), "bad_settings", "did you mean 'epochs'"),
        ("train", lambda f: spoil_settings(f, epochs=0), "bad_settings", "at least 1"),
        ("train", lambda f: (f / files.SETTINGS).write_text("{"), "bad_settings", "as JSON"),
        ("train", lambda f: (f / files.SETTINGS).unlink(), "bad_settings", "there is no file"),
        ("train", lambda f: shutil.rmtree(f / files.INPUT_FRAMES), "bad_frames", "not a folder"),
        (
            "train",
            lambda f: (f / files.INPUT_FRAMES / "atom_force.npy").unlink(),
            "bad_frames",
            "run perturb",
        ),
        (
            "train",
            lambda f: (f / files.INPUT_FRAMES / "cells.npy").write_bytes(b"junk"),
            "bad_frames",
            "cells.npy",
        ),
        (
            "train",
            lambda f: (f / files.INPUT_STATE).write_bytes(b"\x80\x04junk"),
            "bad_state",
            "training_state",
        ),
        (
            "generate",
            lambda f: (f / files.INPUT_POTENTIAL).write_bytes(b""),
            "bad_potential",
            "damaged",
        ),
        (
            "generate",
            lambda f: spoil_settings(f, formulas=["Si2"]),
            "bad_potential",
            "never saw Si",
        ),
        (
            "generate",
            lambda f: spoil_settings(f, volume_scale=[0.05, 0.05]),
            "bad_search",
            "do not fit",
        ),
        ("generate", lambda f: spoil_settings(f, device="cuda"), "bad_settings", "sees no GPU"),
        (
            "generate",
            lambda f: spoil_settings(f, penalty="no_such_package:flat"),
            "bad_settings",
            "installed where the engine runs",
        ),
        ("score", lambda f: shutil.rmtree(f / files.INPUT_FRAMES), "bad_frames", "not a folder"),
    ],
)
def test_bad_input_is_told_in_the_results(
    chain: Path,
    tmp_path: Path,
    task: str,
    spoil: Any,
    code: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = bad(tmp_path / task, task, chain)
    spoil(folder)
    assert main([task, str(folder / files.SETTINGS)]) == 1
    found = results(folder)
    assert found["status"] == "failed"
    assert found["error"]["code"] == code
    assert words in found["error"]["message"]
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_given_structures_by_ranges(chain: Path, tmp_path: Path) -> None:
    """Two jobs make what one does; starts, not relaxed structures, show it to the last digit."""
    found = []
    given = Frames.load(chain / "generate" / files.OUTPUT_FRAMES).without_labels()
    for first, count in ((0, 5), (3, 2)):
        folder = tmp_path / str(first)
        settings = {
            **GENERATE,
            "mode": "seeded",
            "first_index": first,
            "n_structures": count,
            "dtype": "float64",
            "stages": [{"max_steps": 0}],
        }
        file = prepare(folder, "generate", settings)
        shutil.copy(chain / "train" / files.OUTPUT_POTENTIAL, folder / files.INPUT_POTENTIAL)
        given.select([2, 0, 1]).save(folder / files.INPUT_FRAMES)
        assert main(["generate", str(file)]) == 0
        found.append(Frames.load(folder / files.OUTPUT_FRAMES))
    assert found[0].structure["start"].tolist() == [0, 1, 2, 0, 1]
    part = found[0].select([3, 4])
    assert found[1].structure["index"].tolist() == part.structure["index"].tolist() == [3, 4]
    np.testing.assert_allclose(found[1].positions, part.positions, atol=1e-12)
    # Given structures with a mode that wants none.
    folder = tmp_path / "0"
    spoil_settings(folder, mode="random")
    assert main(["generate", str(folder / files.SETTINGS)]) == 1
    assert "set it to seeded" in results(folder)["error"]["message"]


def test_settings_of_another_task_are_refused(chain: Path, tmp_path: Path) -> None:
    folder = bad(tmp_path / "x", "train", chain)
    assert main(["perturb", str(folder / files.SETTINGS)]) == 1
    assert "is for the task 'train'" in results(folder)["error"]["message"]


def test_called_wrongly(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["tarin"])
    assert stop.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_a_full_disk_is_told(chain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bad(tmp_path / "p", "perturb", chain)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert main(["perturb", str(folder / files.SETTINGS)]) == 1
    found = results(folder)
    assert found["error"]["code"] == "disk"
    assert "free some disk space" in found["error"]["message"]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_a_really_full_disk(chain: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", str(small)], check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    try:
        file = prepare(small / "p", "perturb", {"samples": 2000})
        shutil.copytree(chain / "perturb" / files.INPUT_FRAMES, small / "p" / files.INPUT_FRAMES)
        assert main(["perturb", str(file)]) == 1
        assert results(small / "p")["error"]["code"] == "disk"
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)
