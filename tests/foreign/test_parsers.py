"""A whole job whose files were tampered with: a known exit code, and outputs that are whole."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.engine import ExitCode
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aiida_rm.data.frames import FramesData
from aiida_rm.engine import files
from aiida_rm.engine.frames import Frames
from tests.foreign import mutations
from tests.foreign.test_readers import ROOM, Real, real
from tests.foreign.watch import watched
from tests.jobs import perturbed, results

__all__ = ["real"]

QUICK, SLOW = 5, 250


def fill_train(draw: Any, real: Real, job: Any) -> None:
    for name, source in (
        (files.OUTPUT_POTENTIAL, files.OUTPUT_POTENTIAL),
        (files.OUTPUT_STATE, files.OUTPUT_STATE),
        (files.PREVIOUS_STATE, files.OUTPUT_STATE),
    ):
        content = real.read(source)
        changed = mutations.safetensors_bytes(draw, content) if draw(st.booleans()) else content
        (job.temporary / name).write_bytes(changed)
    if draw(st.booleans()):
        _frames(draw, real, job.temporary / files.OUTPUT_FRAMES)


def fill_generate(draw: Any, real: Real, job: Any) -> None:
    if draw(st.booleans()):
        _frames(draw, real, job.temporary / files.OUTPUT_FRAMES)
    for part in range(draw(st.integers(0, 2))):
        _frames(draw, real, job.temporary / files.FINISHED_FRAMES / f"part_{part}")


def _frames(draw: Any, real: Real, folder: Path) -> None:
    real.frames.save(folder)
    if draw(st.booleans()):
        mutations.change_folder(draw, folder, real.folder.parent / "outside.npy")


@pytest.fixture(params=["train", "generate"])
def job(request: Any, make_job: Any, diamond_frames: Frames, potential_data: Any) -> Any:
    if request.param == "train":
        return make_job("train", {"frames": FramesData(perturbed(diamond_frames))})
    settings = orm.Dict({"n_structures": 1})
    return make_job("generate", {"potential": potential_data, "settings": settings})


def fuzz(job: Any, real: Real, count: int, *, derandomize: bool) -> None:
    fill = {"train": fill_train, "generate": fill_generate}[job.task]

    @hypothesis_settings(
        max_examples=count,
        derandomize=derandomize,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate,),  # a case tells enough; making it smaller takes minutes
    )
    @given(st.data())
    def case(data: Any) -> None:
        for folder in (job.retrieved, job.temporary):
            shutil.rmtree(folder)
            folder.mkdir()
        fill(data.draw, real, job)
        status, reason = data.draw(
            st.sampled_from([("finished", "completed"), ("stopped", "walltime"), ("failed", None)])
        )
        error = {"code": "internal", "message": "x"} if status == "failed" else None
        said = results(job.task, status=status, stop_reason=reason, error=error)
        if data.draw(st.booleans()):
            content = json.dumps(said).encode()
        else:
            content = mutations.json_bytes(data.draw, said)
        (job.retrieved / files.RESULTS).write_bytes(content)
        for name in (files.METRICS, files.STDERR, "_scheduler-stderr.txt"):
            content = mutations.any_bytes(data.draw, real.read(files.METRICS))
            (job.retrieved / name).write_bytes(content)
        verdict = data.draw(st.sampled_from([None, 110, 120, 140]))
        # AiiDA's own storage is at work as well.
        with watched(5 * ROOM):
            outputs, code = job.parse(verdict)
        if code is None:
            assert verdict is not None
            return
        assert isinstance(code, ExitCode)
        assert code.status in KNOWN
        assert len(code.message or "") < 4000
        assert code.status or set(outputs) >= {"results", *WHOLE[job.task]}
        for node in outputs.values():
            orm.load_node(node.pk)

    case()


KNOWN = {0, 102, 103, 201, 202, 203, 204, 205, 303, 304, 305, 306, 307, 400, 403, 404, 410, 411}
#: Outputs without which no job is finished.
WHOLE = {"train": {"potential"}, "generate": {"frames"}}


def test_a_few_cases(job: Any, real: Real) -> None:
    fuzz(job, real, QUICK, derandomize=True)


@pytest.mark.slow
def test_many_cases(job: Any, real: Real) -> None:
    fuzz(job, real, SLOW, derandomize=False)


def test_links_are_not_followed(make_job: Any, tmp_path: Path, diamond_frames: Frames) -> None:
    """Whatever a transport makes of them."""
    job = make_job("train", {"frames": FramesData(perturbed(diamond_frames))})
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"a secret")
    (job.temporary / files.OUTPUT_POTENTIAL).symlink_to(elsewhere)
    (job.temporary / files.OUTPUT_STATE).symlink_to(elsewhere)
    outputs, code = job.parse()
    assert code.status == 102
    assert not outputs
