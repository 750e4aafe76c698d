"""Every reader of files that a job brings back, given real files that were tampered with.

Each case ends with what the reader makes of it or with an error of its own, whatever was changed:
nothing is unpickled or run, no file beside those given is opened, and no header is believed
about how much there is to come.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from aiida_rm import monitors
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.data.safetensors_header import HeaderError
from aiida_rm.data.training_state import TrainingStateData
from aiida_rm.engine import files
from aiida_rm.engine.__main__ import main
from aiida_rm.engine.errors import FramesError, PotentialError, SettingsError, StateError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.potential import Potential
from aiida_rm.engine.response import perturb
from aiida_rm.engine.settings import (
    SETTINGS,
    PerturbSettings,
    TrainSettings,
    parse_settings,
    to_plain,
)
from aiida_rm.engine.training.state import load_state
from aiida_rm.engine.training.trainer import Trainer
from aiida_rm.parsers.reading import UnreadableError, read_metrics, read_results
from tests.engine.program import TRAIN, prepare
from tests.foreign import mutations
from tests.foreign.watch import peak_memory, watched
from tests.jobs import generated

#: Cases for each reader.
QUICK, SLOW = 40, 1700
#: Bytes that reading may take beside a multiple of what is read.
ROOM = 30_000_000
_NAME = re.compile(r"(numbers|positions|cells|pbc|ptr|(structure|atom)_[A-Za-z][A-Za-z0-9_]*)\.npy")


@dataclass(frozen=True)
class Real:
    """What an undisturbed job left, and where the files of a case go."""

    folder: Path
    frames: Frames
    trainer: Trainer
    case: Path

    def read(self, name: str) -> bytes:
        return (self.folder / name).read_bytes()

    def document(self, name: str) -> Any:
        return json.loads(self.read(name))

    def write(self, name: str, content: bytes) -> Path:
        (self.case / name).write_bytes(content)
        return self.case / name


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, diamond_frames: Frames) -> Real:
    """Files of a training that ended, with the state of one that was cut short."""
    root = tmp_path_factory.mktemp("real")
    settings = parse_settings(PerturbSettings, {"samples": 4, "min_atoms": 4})
    copies = perturb(diamond_frames, settings)
    for name, run in (("cut", {"walltime_seconds": 1e-6}), ("whole", {})):
        file = prepare(root / name, "train", TRAIN, **run)
        copies.save(root / name / files.INPUT_FRAMES)
        assert main(["train", str(file)]) == 0
    shutil.copy(root / "cut" / files.OUTPUT_STATE, root / "whole")
    np.save(root / "outside.npy", np.arange(3.0))
    trainer = Trainer(copies, parse_settings(TrainSettings, TRAIN))
    return Real(root / "whole", generated(diamond_frames), trainer, root / "case")


def attempt(reader: Callable[[], Any], refusal: type[Exception]) -> Any:
    """What a reader makes of a file, or None where it says, in few words, why it refuses it."""
    try:
        return reader()
    except refusal as error:
        message = str(error)
    assert 0 < len(message) < 5000
    return None


def read_frames(draw: Any, real: Real) -> None:
    folder = real.frames.save(real.case / files.OUTPUT_FRAMES)
    mutations.change_folder(draw, folder, real.folder.parent / "outside.npy")
    for mmap in (True, False):
        attempt(lambda: Frames.load(folder, mmap=mmap).check(), FramesError)  # noqa: B023
    node = attempt(lambda: FramesData.from_folder(folder), FramesError)
    if node is None:
        return
    node._validate()
    assert len(node.get_frames()) == len(node) > 0
    assert all(_NAME.fullmatch(name) for name in node.base.repository.list_object_names())
    _check_attributes(node)


def read_potential(draw: Any, real: Real) -> None:
    name = files.OUTPUT_POTENTIAL
    file = real.write(name, mutations.safetensors_bytes(draw, real.read(name)))
    attempt(lambda: Potential.load(file), PotentialError)
    node = attempt(lambda: PotentialData(file), HeaderError)
    if node is not None:
        assert node.filename == name
        _check_attributes(node)


def read_state(draw: Any, real: Real) -> None:
    name = files.OUTPUT_STATE
    file = real.write(name, mutations.safetensors_bytes(draw, real.read(name)))
    trainer = real.trainer
    progress = attempt(
        lambda: load_state(file, trainer.digest, trainer._models(), trainer.optimizer), StateError
    )
    assert progress is None or min(progress.epoch, progress.batch, progress.step) >= 0
    node = attempt(lambda: TrainingStateData(file), HeaderError)
    if node is not None:
        assert node.filename == name
        _check_attributes(node)


def read_the_results(draw: Any, real: Real) -> None:
    content = mutations.json_bytes(draw, real.document(files.RESULTS))
    results = attempt(lambda: read_results(content, "train"), UnreadableError)
    if results is None:
        return
    text = json.dumps(results, allow_nan=False, ensure_ascii=False)
    assert "\\u0000" not in text
    text.encode("utf-8")


def read_the_metrics(draw: Any, real: Real) -> None:
    lines = [json.loads(line) for line in real.read(files.METRICS).splitlines()]
    how = draw(st.integers(0, 3))
    if how == 0:
        content = mutations.changed_bytes(draw, real.read(files.METRICS))
    elif how == 1:
        content = mutations.any_bytes(draw, real.read(files.METRICS))
    else:
        content = b"\n".join(mutations.json_bytes(draw, line) for line in lines) + b"\n"
    curves = read_metrics(content)
    assert all(array.dtype == np.float64 for array in curves.values())
    assert len({len(array) for array in curves.values()}) <= 1
    for row in monitors._rows(content.decode("utf-8", "replace")):
        assert all(value is None or isinstance(value, float) for value in row.values())


def read_the_settings(draw: Any, real: Real) -> None:
    task = mutations.pick(draw, SETTINGS)
    needed = {"calculator": "ase.calculators.emt:EMT"} if task == "relax" else {}
    plain = to_plain(parse_settings(SETTINGS[task], needed))
    document = {"schema": 1, "task": task, "settings": plain, "run": {"walltime_seconds": 60.0}}
    file = real.write(files.SETTINGS, mutations.json_bytes(draw, document))
    job = attempt(lambda: Job(file, task), SettingsError)
    if job is not None:
        job.close()
        assert type(job.settings) is SETTINGS[task]


READERS: dict[str, Callable[[Any, Real], None]] = {
    "frames": read_frames,
    "potential": read_potential,
    "state": read_state,
    "results": read_the_results,
    "metrics": read_the_metrics,
    "settings": read_the_settings,
}


def _check_attributes(node: Any) -> None:
    """What would go into the database is plain, finite and small."""
    text = json.dumps(node.base.attributes.all, allow_nan=False, ensure_ascii=False)
    assert len(text.encode("utf-8")) < 1_000_000
    assert "\\u0000" not in text
    numbers: list[str] = []
    json.loads(text, parse_int=lambda digits: numbers.append(digits) or 0)
    assert all(-(2**63) <= int(digits) < 2**63 for digits in numbers)


def fuzz(name: str, real: Real, count: int, *, derandomize: bool) -> None:
    """So many cases of one reader."""
    done = 0

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
        nonlocal done
        done += 1
        shutil.rmtree(real.case, ignore_errors=True)
        real.case.mkdir()
        with watched(ROOM):
            READERS[name](data.draw, real)

    case()
    assert done >= count


@pytest.mark.parametrize("name", READERS)
def test_a_few_cases(name: str, real: Real) -> None:
    fuzz(name, real, QUICK, derandomize=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_cases(name: str, real: Real) -> None:
    before = peak_memory()
    fuzz(name, real, SLOW, derandomize=False)
    assert peak_memory() - before < 500_000_000


def test_the_watch_sees(tmp_path: Path) -> None:
    """Or nothing above would fail."""
    outside = tmp_path / "outside.npy"
    outside.write_bytes(b"")
    for forbidden in (
        lambda: np.load(_pickled(tmp_path), allow_pickle=True),
        outside.read_bytes,
        lambda: np.ones(10_000_000),
        lambda: Path("/etc/hostname").exists() and Path("/etc/hostname").read_text(),
    ):
        with pytest.raises(AssertionError), watched(ROOM):
            forbidden()
    with watched(ROOM), tempfile.TemporaryFile() as handle:
        handle.write(b"fine")


def _pickled(folder: Path) -> Path:
    np.save(folder / "objects.npy", np.array([Path("x")], object), allow_pickle=True)
    return folder / "objects.npy"
