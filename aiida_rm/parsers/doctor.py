"""Parser of rm.doctor."""

from __future__ import annotations

from pathlib import Path

from aiida_rm.parsers.base import EngineParser


class DoctorParser(EngineParser):
    """Attach what the engine found on its machine: the output `results`."""

    TASK = "doctor"

    def collect(self, folder: Path) -> str | None:  # noqa: ARG002
        """Nothing to attach."""
        return None
