"""What the tests of several processes are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from aiida_rm.engine.__main__ import main
from tests.engine.training.processes import folder


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training of one process."""
    at = tmp_path_factory.mktemp("alone")
    assert main(["train", str(folder(at))]) == 0
    return at
