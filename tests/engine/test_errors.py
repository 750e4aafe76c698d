"""What is said of memory that does not suffice."""

from __future__ import annotations

from dataclasses import fields

import pytest

from aiida_rm.engine import files
from aiida_rm.engine.errors import OutOfMemoryError, recognise
from aiida_rm.engine.settings import SETTINGS

#: Every name of a knob.
KNOBS = {field.name for kind in SETTINGS.values() for field in fields(kind)}


@pytest.mark.parametrize("task", files.TASKS)
def test_the_remedy_names_knobs_of_the_task(task: str) -> None:
    error = recognise(MemoryError("Unable to allocate 3 GiB"), task)
    assert isinstance(error, OutOfMemoryError)
    named = {word for word in str(error).split("'") if word in KNOBS}
    assert named <= {field.name for field in fields(SETTINGS[task])}
    assert named or task == "doctor"
