"""Calcfunctions by which the work chains change settings, so that no link breaks."""

from __future__ import annotations

from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict

from aiida_rm.engine.settings import TrainSettings, parse_settings

ERROR_SMALLEST_BATCH = ExitCode(
    210, "'batch_atoms' is 1 already and cannot be halved; ask for more memory."
)


@calcfunction
def with_half_batches(settings: Dict) -> Dict | ExitCode:
    """Settings of a training with half of `batch_atoms`; this changes the result."""
    values = settings.get_dict()
    now = parse_settings(TrainSettings, values).batch_atoms
    if now < 2:
        return ERROR_SMALLEST_BATCH
    return Dict({**values, "batch_atoms": now // 2})


@calcfunction
def with_half_learning_rate(settings: Dict) -> Dict:
    """Settings of a training with half of `learning_rate`; this changes the result."""
    values = settings.get_dict()
    return Dict(
        {**values, "learning_rate": parse_settings(TrainSettings, values).learning_rate / 2}
    )
