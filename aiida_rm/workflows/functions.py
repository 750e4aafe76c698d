"""Calcfunctions by which the work chains change settings and sum up, so that no link breaks."""

from __future__ import annotations

from typing import Any

from aiida.engine import ExitCode, calcfunction
from aiida.orm import Dict

from aiida_rm.data.frames import FramesData
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


@calcfunction
def describe_round(
    dataset: FramesData,
    scored: FramesData,
    training: Dict,
    scores: Dict,
    accepted: FramesData | None = None,
) -> Dict:
    """What one round of a loop found, as one flat row.

    Args:
        dataset: the structures that the round began with.
        scored: the generated structures with their verdicts.
        training: results of the training.
        scores: results of the scoring.
        accepted: the structures that joined the dataset, if any.
    """
    row: dict[str, Any] = {"dataset": len(dataset), "generated": len(scored)}
    told = scores.get_dict().get("summary") or {}
    for name in ("converged", "valid", "unique", "novel"):
        row[name] = told.get(name)
    row["accepted"] = len(accepted) if accepted is not None else 0
    if "energy_per_atom" in scored.structure_labels:
        energies = scored.get_frames().structure["energy_per_atom"]
        finite = energies[energies == energies]  # noqa: PLR0124 - not NaN
        row["lowest_energy_per_atom"] = float(finite.min()) if len(finite) else None
    validation = (training.get_dict().get("summary") or {}).get("validation") or {}
    row["force_error"] = validation.get("force_error")
    row["matches"] = told.get("matches") or {}
    return Dict(row)
