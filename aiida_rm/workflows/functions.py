"""Calcfunctions by which the work chains change settings, so that no link breaks."""

from __future__ import annotations

from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict

from aiida_rm.engine.settings import MAX_WORKERS, TrainSettings, parse_settings

ERROR_SMALLEST_PARTS = ExitCode(
    210, "'batch_parts' is as large as 'batch_atoms', and no part smaller; ask for more memory."
)


@calcfunction
def with_twice_the_parts(settings: Dict) -> Dict | ExitCode:
    """Settings of a training with twice `batch_parts`: the same steps, in less memory."""
    values = settings.get_dict()
    now = parse_settings(TrainSettings, values)
    if now.batch_parts >= now.batch_atoms:
        return ERROR_SMALLEST_PARTS
    return Dict({**values, "batch_parts": 2 * now.batch_parts})


@calcfunction
def with_more_workers(settings: Dict) -> Dict:
    """Settings of a training with twice the `workers`, two at least; the result is the same."""
    values = settings.get_dict()
    twice = 2 * parse_settings(TrainSettings, values).workers
    return Dict({**values, "workers": min(MAX_WORKERS, max(2, twice))})


@calcfunction
def with_half_learning_rate(settings: Dict) -> Dict:
    """Settings of a training with half of `learning_rate`; this changes the result."""
    values = settings.get_dict()
    return Dict(
        {**values, "learning_rate": parse_settings(TrainSettings, values).learning_rate / 2}
    )
