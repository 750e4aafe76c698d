"""Parser of rm.doctor."""

from __future__ import annotations

from pathlib import Path

from aiida_rm.parsers.base import EngineParser


class DoctorParser(EngineParser):
    """The results are all there is."""

    TASK = "doctor"

    def collect(self, folder: Path) -> str | None:  # noqa: ARG002
        """Nothing to attach."""
        return None
