"""Folders of retrieved files, and what a parser makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from aiida.plugins import ParserFactory

from tests.jobs import job_node


class Job:
    """The files of a job, to be filled by a test, and their parsing."""

    def __init__(self, task: str, computer: Any, inputs: dict[str, Any], root: Path) -> None:
        self.task, self.computer, self.inputs = task, computer, inputs
        self.retrieved, self.temporary = root / "retrieved", root / "temporary"
        self.retrieved.mkdir()
        self.temporary.mkdir()

    def parse(self, exit_status: int | None = None) -> tuple[dict[str, Any], Any]:
        """Outputs by label, and the exit code that the engine would take."""
        node = job_node(self.task, self.computer, self.inputs, self.retrieved, exit_status)
        parser = ParserFactory(f"rm.{self.task}")(node)
        code = parser.parse(
            **parser.get_outputs_for_parsing(), retrieved_temporary_folder=str(self.temporary)
        )
        for output in parser.outputs.values():
            output.store()
        return dict(parser.outputs), code


@pytest.fixture
def make_job(aiida_localhost: Any, tmp_path: Path) -> Any:
    """``make_job(task, inputs)``"""

    def make(task: str, inputs: dict[str, Any]) -> Job:
        return Job(task, aiida_localhost, inputs, tmp_path)

    return make
