"""Parsers of perturb, generate and score: good, truncated, empty and foreign outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiida import orm

from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.labels import COMMITTEE
from tests.jobs import failed, generated, perturbed, results, scored, write_results

every_task = pytest.mark.parametrize("case", ["perturb", "generate", "score"], indirect=True)


@pytest.fixture(params=["generate"])
def case(
    request: Any, make_job: Any, diamond_frames: Frames, potential_data: Any
) -> tuple[Any, Frames]:
    """A job and the frames that it should write; of one task for what all parsers share."""
    task = request.param
    if task == "perturb":
        return make_job(task, {"frames": FramesData(diamond_frames)}), perturbed(diamond_frames)
    if task == "generate":
        settings = orm.Dict({"n_structures": 1})
        job = make_job(task, {"potential": potential_data, "settings": settings})
        return job, generated(diamond_frames)
    frames = generated(diamond_frames)
    return make_job(task, {"frames": FramesData(frames)}), scored(frames)


def fill(case: tuple[Any, Frames], content: Any = None) -> Any:
    job, frames = case
    write_results(job.retrieved, results(job.task) if content is None else content)
    frames.save(job.temporary / files.OUTPUT_FRAMES)
    return job


@every_task
def test_good_outputs_become_nodes(case: tuple[Any, Frames]) -> None:
    outputs, code = fill(case).parse()
    assert code.status == 0
    assert sorted(outputs) == ["frames", "results"]
    assert outputs["results"]["status"] == "finished"
    read = outputs["frames"].get_frames()
    np.testing.assert_array_equal(read.positions, case[1].positions)
    assert sorted(read.structure) == sorted(case[1].structure)


@every_task
def test_nothing_at_all(case: tuple[Any, Frames]) -> None:
    outputs, code = case[0].parse()
    assert outputs == {}
    assert code.status == 102
    assert "the program said nothing" in code.message


@every_task
def test_started_and_never_heard_of_again(case: tuple[Any, Frames]) -> None:
    (case[0].retrieved / files.METRICS).write_bytes(b"")
    outputs, code = case[0].parse()
    assert outputs == {}
    assert code.status == 103
    assert "it was killed, or the disk is full" in code.message


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (files.STDERR, b"bash: line 1: aiida-rm-engine: command not found\n"),
        (files.STDERR, b"/opt/python: No module named aiida_rm\n"),
        ("_scheduler-stderr.txt", b"_aiidasubmit.sh: /x/engine: No such file or directory\n"),
        ("_scheduler-stderr.txt", b"_aiidasubmit.sh: line 8: /tmp: Is a directory\n"),
        (files.STDERR, b"usage: another program\n"),
    ],
)
def test_a_missing_engine_is_told_apart(case: Any, name: str, content: bytes) -> None:
    job = case[0]
    (job.retrieved / name).write_bytes(content)
    _, code = job.parse()
    assert code.status == 102
    assert "localhost" in code.message
    assert "pip install aiida-rm" in code.message
    assert content.decode().strip() in code.message


def test_a_missing_launcher_is_told(case: Any) -> None:
    said = "_aiidasubmit.sh: line 8: mpirun: command not found\n"
    (case[0].retrieved / files.STDERR).write_text(said)
    _, code = case[0].parse()
    assert code.status == 102
    assert f"{said.strip()}; where there is none, set the option `withmpi` to False" in code.message


def test_a_missing_package_is_a_missing_engine(case: Any) -> None:
    said = "ModuleNotFoundError: No module named 'torch'"
    write_results(case[0].retrieved, failed(case[0].task, "internal", said))
    _, code = case[0].parse()
    assert code.status == 102
    assert said in code.message


def test_a_trace_is_quoted(case: Any) -> None:
    (case[0].retrieved / files.METRICS).write_bytes(b"")
    (case[0].retrieved / files.STDERR).write_bytes(b"Traceback\n\xff\nKeyError: '{odd}'\n")
    _, code = case[0].parse()
    assert code.status == 103
    assert "KeyError: '{odd}'" in code.message


@pytest.mark.parametrize("content", [b"", b"{", b'{"schema": 1}', b"\x93NUMPY\x01\x00", b"[]"])
def test_bad_results_do_not_lose_the_frames(case: Any, content: bytes) -> None:
    outputs, code = fill(case, content).parse()
    assert code.status == 303
    assert list(outputs) == ["frames"]


@pytest.mark.parametrize("name", ["positions.npy", "ptr.npy"])
@pytest.mark.parametrize("content", [None, b"", b"\x93NUMPY", b"\x80\x04pickle"])
def test_damaged_frames(case: Any, name: str, content: bytes | None) -> None:
    job = fill(case)
    file = job.temporary / files.OUTPUT_FRAMES / name
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    outputs, code = job.parse()
    assert code.status == 304
    assert name.split(".", maxsplit=1)[0] in code.message
    assert list(outputs) == ["results"]


def test_truncated_array(case: Any) -> None:
    job = fill(case)
    file = job.temporary / files.OUTPUT_FRAMES / "positions.npy"
    file.write_bytes(file.read_bytes()[:-8])
    assert job.parse()[1].status == 304


def test_frames_that_are_a_file(case: Any) -> None:
    job = case[0]
    write_results(job.retrieved, results(job.task))
    (job.temporary / files.OUTPUT_FRAMES).write_text("no folder")
    _, code = job.parse()
    assert code.status == 304
    assert "did not come back" in code.message


@every_task
def test_missing_labels(case: Any) -> None:
    job, frames = case
    outputs, code = fill((job, frames.without_labels())).parse()
    assert code.status == 304
    assert "lack the labels" in code.message
    assert "frames" not in outputs


def test_a_link_is_not_followed(case: Any, tmp_path: Path) -> None:
    job = fill(case)
    file = job.temporary / files.OUTPUT_FRAMES / "positions.npy"
    file.rename(tmp_path / "elsewhere.npy")
    file.symlink_to(tmp_path / "elsewhere.npy")
    assert job.parse()[1].status == 304


def test_a_full_disk_is_told_apart(case: Any) -> None:
    job = case[0]
    write_results(job.retrieved, results(job.task))
    (job.retrieved / files.STDERR).write_text("OSError: [Errno 28] No space left on device\n")
    assert job.parse()[1].status == 306


@pytest.mark.parametrize(
    ("error", "status"),
    [
        ("bad_settings", 201),
        ("bad_frames", 202),
        ("bad_potential", 203),
        ("bad_state", 204),
        ("bad_search", 205),
        ("disk", 306),
        ("out_of_memory", 410),
        ("diverged", 411),
        ("internal", 103),
        ("from the future", 103),
    ],
)
def test_errors_of_the_engine(case: Any, error: str, status: int) -> None:
    job = case[0]
    write_results(job.retrieved, failed(job.task, error))
    outputs, code = job.parse()
    assert code.status == status
    assert "the culprit and the remedy" in code.message
    assert outputs["results"]["error"]["code"] == error


def test_every_error_of_the_engine_has_an_exit_code() -> None:
    from aiida_rm.calculations.base import EXIT_CODE_OF_ERROR
    from aiida_rm.engine import errors

    kinds = [errors.EngineError, *errors.EngineError.__subclasses__()]
    assert {kind.code for kind in kinds} <= set(EXIT_CODE_OF_ERROR)


@every_task
@pytest.mark.parametrize(("reason", "status"), [("walltime", 400), ("signal", 403)])
def test_cut_short_keeps_what_was_made(case: Any, reason: str, status: int) -> None:
    job = fill(case, results(case[0].task, status="stopped", stop_reason=reason))
    outputs, code = job.parse()
    assert code.status == status
    assert "frames" in outputs
    assert code.invalidates_cache


@every_task
@pytest.mark.parametrize(("reason", "status"), [("walltime", 400), ("signal", 403)])
def test_cut_short_before_anything_was_finished(case: Any, reason: str, status: int) -> None:
    job = case[0]
    write_results(job.retrieved, results(job.task, status="stopped", stop_reason=reason))
    outputs, code = job.parse()
    assert list(outputs) == ["results"]
    assert code.status == status
    assert "nothing was finished" in code.message


@pytest.mark.parametrize(("verdict", "status"), [(110, 410), (120, None), (140, None), (None, 103)])
def test_the_scheduler_is_heard(case: Any, verdict: int | None, status: int | None) -> None:
    (case[0].retrieved / files.METRICS).write_bytes(b"")
    _, code = case[0].parse(exit_status=verdict)
    assert (code.status if code is not None else None) == status


def test_a_finished_job_is_good_whatever_the_scheduler_says(case: Any) -> None:
    assert fill(case).parse(exit_status=120)[1].status == 0


def test_memory_errors_in_the_stream(case: Any) -> None:
    (case[0].retrieved / "_scheduler-stderr.txt").write_text("slurmstepd: oom-kill event\n")
    assert case[0].parse()[1].status == 410


def test_perturb_refuses_parents_outside_the_input(make_job: Any, diamond_frames: Frames) -> None:
    job = make_job("perturb", {"frames": FramesData(diamond_frames)})
    frames = perturbed(diamond_frames)
    wrong = frames.with_labels(structure={"parent": np.array([0, 1, 0])})
    _, code = fill((job, wrong)).parse()
    assert code.status == 304
    assert "parent" in code.message


def test_perturb_refuses_targets_that_are_not_finite(make_job: Any, diamond_frames: Frames) -> None:
    job = make_job("perturb", {"frames": FramesData(diamond_frames)})
    frames = perturbed(diamond_frames)
    wrong = frames.with_labels(atom={"force": np.full((frames.n_atoms, 3), np.nan)})
    assert fill((job, wrong)).parse()[1].status == 304


def test_generate_counts(make_job: Any, diamond_frames: Frames, potential_data: Any) -> None:
    settings = orm.Dict({"n_structures": 2})
    job = make_job("generate", {"potential": potential_data, "settings": settings})
    outputs, code = fill((job, generated(diamond_frames))).parse()
    assert code.status == 304
    assert "1 structures, 2 were asked for" in code.message
    assert "frames" not in outputs


@pytest.mark.parametrize("lacks", ["", "uncertainty_mean", "force_deviation"])
def test_what_a_committee_says_must_be_there(
    lacks: str, make_job: Any, diamond_frames: Frames, potential_data: Any, potential_file: Any
) -> None:
    nodes = {"potential": potential_data, "committee__a": PotentialData(potential_file)}
    job = make_job("generate", {**nodes, "settings": orm.Dict({"n_structures": 1})})
    labels = {name: [0.1] for name in COMMITTEE if name != lacks}
    atoms = {} if lacks == "force_deviation" else {"force_deviation": [0.1, 0.1]}
    frames = generated(diamond_frames).with_labels(structure=labels, atom=atoms)
    outputs, code = fill((job, frames)).parse()
    assert code.status == (304 if lacks else 0)
    assert ("frames" in outputs) == (not lacks)
    if lacks:
        assert "they lack what the committee had to say" in code.message


@every_task
@pytest.mark.parametrize("change", [["a word"], [[0.5, 0.5]]])
def test_labels_are_of_their_kinds(case: tuple[Any, Frames], change: list[Any]) -> None:
    """Or the next step, which computes with them, would fail for it."""
    job, frames = case
    name = {"score": "density"}.get(job.task, "energy")
    wrong = frames.with_labels(structure={name: change * len(frames)})
    outputs, code = fill((job, wrong)).parse()
    assert code.status == 304
    assert f"the labels {name} are of a wrong type" in code.message
    assert "frames" not in outputs


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"energy": [0.2]}, "the labels energy are not those of the input"),
        ({"index": ["0"]}, "the labels index are not those of the input"),
        (None, "the structures are not those of the input"),
    ],
)
def test_score_leaves_the_structures_alone(
    change: dict[str, Any] | None, says: str, make_job: Any, diamond_frames: Frames
) -> None:
    frames = generated(diamond_frames).with_labels(structure={"a": [np.nan], "valid": [False]})
    job = make_job("score", {"frames": FramesData(frames)})
    came = scored(frames)
    if change is None:
        came = Frames(came.numbers, came.positions + 1, *_rest(came))
    _, code = fill((job, came.with_labels(structure=change or {}))).parse()
    assert code.status == (304 if says else 0)
    assert says in (code.message or "")


def _rest(frames: Frames) -> tuple[Any, ...]:
    return frames.cells, frames.pbc, frames.ptr, frames.structure, frames.atom


def test_score_refuses_other_structures(make_job: Any, diamond_frames: Frames) -> None:
    job = make_job("score", {"frames": FramesData(diamond_frames)})
    other = scored(generated(diamond_frames.select([0, 0])))
    _, code = fill((job, other)).parse()
    assert code.status == 304
    assert "not those of the input" in code.message


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, ""),
        ({"row": [1]}, "row does not count within the 1 structures"),
        ({"energy": [1]}, "the labels energy are of a wrong type"),
        ({"relaxed": [1]}, "the labels relaxed are of a wrong type"),
        ({"verdict": [["converged", ""]]}, "the labels verdict are of a wrong type"),
        (None, "lack the labels row, energy, verdict, note, steps, fmax"),
    ],
)
def test_relaxed_structures(
    change: dict[str, Any] | None, says: str, make_job: Any, diamond_frames: Frames
) -> None:
    settings = orm.Dict({"calculator": "ase.calculators.emt:EMT"})
    job = make_job("relax", {"frames": FramesData(diamond_frames), "settings": settings})
    frames = diamond_frames.without_labels()
    if change is not None:
        labels = {"row": [0], "energy": [1.0], "verdict": ["converged"], "note": [""]}
        frames = frames.with_labels(structure={**labels, "steps": [3], "fmax": [0.01], **change})
    outputs, code = fill((job, frames)).parse()
    assert code.status == (304 if says else 0)
    assert ("frames" in outputs) == (not says)
    assert says in (code.message or "")


@pytest.fixture
def killed(make_job: Any, potential_data: Any, diamond_frames: Frames) -> Any:
    """A search for three structures that was killed after two."""
    settings = orm.Dict({"n_structures": 3, "first_index": 5})
    job = make_job("generate", {"potential": potential_data, "settings": settings})
    (job.retrieved / files.METRICS).write_bytes(b"")
    for place, index in enumerate((6, 5)):
        part = generated(diamond_frames, first=index)
        part.save(job.temporary / files.FINISHED_FRAMES / f"part_{place:06d}")
    return job


@pytest.mark.parametrize("verdict", [None, 120, 140])
def test_what_a_killed_search_had_finished_is_kept(killed: Any, verdict: int | None) -> None:
    outputs, code = killed.parse(verdict)
    assert code.status == 404
    assert "what it had finished is kept" in code.message
    assert outputs["frames"].get_frames().structure["index"].tolist() == [5, 6]


def test_torn_parts_are_no_structures(killed: Any) -> None:
    for file in (killed.temporary / files.FINISHED_FRAMES).glob("*/ptr.npy"):
        file.write_bytes(file.read_bytes()[:20])
    outputs, code = killed.parse()
    assert outputs == {}
    assert code.status == 103


def test_structures_of_another_search_are_refused(killed: Any, diamond_frames: Frames) -> None:
    generated(diamond_frames, first=9).save(killed.temporary / files.FINISHED_FRAMES / "part_9")
    outputs, _ = killed.parse()
    assert outputs == {}
