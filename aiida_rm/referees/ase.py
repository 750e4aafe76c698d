"""ase: any ASE calculator that is named by its import path, all structures in one job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida.orm import AbstractCode

from aiida_rm.calculations.relax import RelaxCalculation, unmovable
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.referee_settings import RelaxSettings
from aiida_rm.engine.settings import to_plain
from aiida_rm.referees.base import Referee, RefereeError, RefereeJob


class AseReferee(Referee):
    """Relax structures, or take their energies, with a calculator by the engine's task relax."""

    SETTINGS = RelaxSettings
    PROCESS = RelaxCalculation
    PROGRAM = "aiida-rm-engine"

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """As of any referee; libraries other than torch hear of the threads by the environment."""
        threads = str(self.settings.threads)
        name = "environment_variables"
        own = {"OMP_NUM_THREADS": threads} if threads != "0" else {}
        return super().options({**given, name: {**own, **given.get(name, {})}})

    def check(self, frames: Frames) -> None:
        """Refuse slabs whose cell should move."""
        message = unmovable(frames, self.settings.cell)
        if message:
            raise RefereeError(message)

    def jobs(self, frames: FramesData, rows: Sequence[int], code: AbstractCode) -> list[RefereeJob]:
        """One job: a potential is loaded once for all structures."""
        inputs = {"code": code, "frames": frames, "settings": to_plain(self.settings)}
        return [RefereeJob(tuple(rows), inputs)]
