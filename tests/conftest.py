"""Fixtures for all tests: an empty AiiDA profile, one diamond, and the nodes made of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

# Before numpy and torch: on small matrices threads wait for each other, for seconds if it is busy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What a terminal is like, the tests say themselves.
os.environ.pop("COLUMNS", None)
os.environ.pop("LINES", None)
os.environ.pop("NO_COLOR", None)
os.environ.pop("FORCE_COLOR", None)

import numpy as np
import pytest
from ase.build import bulk
from filelock import FileLock
from safetensors.numpy import save_file

from aiida_rm.engine.frames import Frames

# Before AiiDA is imported: the tests never see, nor make, a configuration of the user.
_HOME = tempfile.TemporaryDirectory(prefix="aiida-rm-tests-", ignore_cleanup_errors=True)
os.environ["AIIDA_PATH"] = _HOME.name

pytest_plugins = "aiida.tools.pytest_fixtures"

POTENTIAL_HEADER = {
    "schema": 1,
    "kind": "potential",
    "architecture": "local",
    "elements": ["C"],
    "cutoff": 4.5,
    "n_parameters": 12,
    "dtype": "float32",
    "hyperparameters": {"channels": 8, "hidden": [24, 12]},
    "core": {"scale": 0.5, "strength": 1.0},
    "elemental_volumes": {"C": 5.67},
    "composition": {"C": 1.0},
    "training": {"epochs": 3, "force_error": 0.125},
}
STATE_HEADER = {
    "schema": 1,
    "kind": "training_state",
    "epoch": 12,
    "step": 3400,
    "digest": "0123456789abcdef" * 4,
}


#: Seconds between two looks at a process; services/conftest.py sets another.
PAUSE = 0.02
#: Folders whose tests make nodes.
_STORING = (
    "calculations",
    "cli",
    "data",
    "examples",
    "foreign",
    "parsers",
    "queries",
    "referees",
    "services",
    "workflows",
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """With NO_SKIPS (`.ci/run`), tests skip only for data that may not be handed on."""
    report = yield
    if report.skipped and os.environ.get("NO_SKIPS") and isinstance(report.longrepr, tuple):
        reason = str(report.longrepr[2])
        if "AIIDA_RM_DATA" not in reason:
            report.outcome = "failed"
            report.longrepr = f"NO_SKIPS is set, and this was skipped: {reason}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same of a whole module, which `importorskip` leaves out."""
    report = yield
    if report.outcome == "skipped" and os.environ.get("NO_SKIPS"):
        report.outcome = "failed"
        report.longrepr = f"NO_SKIPS is set, and this module was skipped: {report.longrepr}"
    return report


@pytest.fixture(autouse=True, scope="module")
def empty_profile(request: pytest.FixtureRequest) -> None:
    """Begin each module without nodes: the session of the database slows down with them."""
    if request.path.parent.name in _STORING:
        request.getfixturevalue("aiida_profile").reset_storage()


@pytest.fixture(autouse=True, scope="session")
def patient_runner() -> Generator[None]:
    """On a test profile AiiDA asks for the ends of processes without a pause, and takes a core."""
    from aiida.engine.runners import Runner

    def keep(runner: Runner, value: float) -> None:
        runner.__dict__["_poll_interval"] = value

    with pytest.MonkeyPatch.context() as patch:
        asked = property(lambda runner: runner.__dict__["_poll_interval"] or PAUSE, keep)
        patch.setattr(Runner, "_poll_interval", asked, raising=False)
        yield


@pytest.fixture(scope="session")
def diamond_frames() -> Frames:
    """The primitive cell of diamond: one structure, two atoms, named."""
    atoms = bulk("C", "diamond", a=3.567)
    return Frames.build(
        [atoms.numbers],
        [atoms.positions],
        cells=[atoms.cell.array],
        structure={"name": ["diamond"]},
    )


@pytest.fixture(scope="session")
def molecule_frames() -> Frames:
    """Two molecules, without a cell."""
    water = [[0.0, 0.0, 0.12], [0.0, 0.76, -0.48], [0.0, -0.76, -0.48]]
    return Frames.build([[8, 1, 1], [6, 8]], [water, [[0, 0, 0], [0, 0, 1.13]]])


@pytest.fixture
def frames_data(diamond_frames: Frames) -> Any:
    """The diamond as an unstored node."""
    from aiida_rm.data.frames import FramesData

    return FramesData(diamond_frames)


@pytest.fixture(scope="session")
def write_safetensors() -> Callable[..., Path]:
    """Write a safetensors file as the engine does: ``write_safetensors(path, header)``."""

    def write(path: Path, header: dict[str, Any], seed: int = 0) -> Path:
        weights = np.random.default_rng(seed).normal(size=(3, 4)).astype(np.float32)
        tensors = {"weights": weights, "shift": np.zeros(2)}
        save_file(tensors, path, metadata={"header": json.dumps(header, sort_keys=True)})
        return path

    return write


@pytest.fixture
def potential_file(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """A small file with the header of a potential for carbon (its weights are no network)."""
    return write_safetensors(tmp_path / "some_potential.safetensors", POTENTIAL_HEADER)


@pytest.fixture
def potential_data(potential_file: Path) -> Any:
    """That file as an unstored node."""
    from aiida_rm.data.potential import PotentialData

    return PotentialData(potential_file)


@pytest.fixture
def state_file(tmp_path: Path, write_safetensors: Callable[..., Path]) -> Path:
    """A small file with the header of a training state."""
    return write_safetensors(tmp_path / "some_state.safetensors", STATE_HEADER)


@pytest.fixture
def training_state_data(state_file: Path) -> Any:
    """That file as an unstored node."""
    from aiida_rm.data.training_state import TrainingStateData

    return TrainingStateData(state_file)


@pytest.fixture(scope="session")
def loop_archive(aiida_profile: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """An archive of a loop that really ran, once for all tests; see :mod:`tests.loop`."""
    from tests import loop

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    with FileLock(shared / "loop.lock"):
        return loop.only_once(shared, tmp_path_factory.mktemp("scratch"))


@pytest.fixture(scope="module")
def loop(loop_archive: Any, aiida_profile: Any) -> Any:
    """That loop in an empty profile: its node."""
    from aiida import orm
    from aiida.tools.archive import import_archive

    aiida_profile.reset_storage()
    import_archive(loop_archive.archive)
    return orm.load_node(loop_archive.loop)
