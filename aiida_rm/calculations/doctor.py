"""rm.doctor: what the engine finds where a code runs."""

from __future__ import annotations

from aiida_rm.calculations.base import EngineCalculation


class DoctorCalculation(EngineCalculation):
    """Ask the engine what there is on its machine; `results` has it."""

    TASK = "doctor"

    def copies(self) -> list[tuple[str, str, str]]:
        """Nothing but the settings."""
        return []
