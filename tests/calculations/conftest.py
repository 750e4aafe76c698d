"""Jobs as they would be submitted, without running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from aiida import orm
from aiida.common.folders import SandboxFolder
from aiida.engine.utils import instantiate_process
from aiida.manage import get_manager
from aiida.plugins import CalculationFactory


@pytest.fixture
def installed(aiida_code_installed: Any) -> orm.InstalledCode:
    return aiida_code_installed(label="engine", filepath_executable="/opt/bin/aiida-rm-engine")


@pytest.fixture
def instantiate(aiida_profile: Any) -> Any:
    """``instantiate(task, inputs)``: the process, all its validators passed."""

    def make(task: str, inputs: dict[str, Any]) -> Any:
        process = CalculationFactory(f"rm.{task}")
        return instantiate_process(get_manager().get_runner(), process, **inputs)

    return make


@pytest.fixture
def prepare(instantiate: Any) -> Any:
    """``prepare(task, inputs)``: what would go to the computer, and the settings file."""

    def make(task: str, inputs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        process = instantiate(task, inputs)
        with SandboxFolder() as folder:
            info = process.prepare_for_submission(folder)
            content = json.loads(Path(folder.get_abs_path("settings.json")).read_text())
            assert folder.get_content_list() == ["settings.json"]
        return info, content

    return make
