"""What several potentials disagree about, in the structures of one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.settings import GenerateSettings
from aiida_rm.engine.ticker import Ticker

if TYPE_CHECKING:
    from aiida_rm.engine.potential import Potential


class Committee:
    """Potentials that judge the structures of a job, part by part."""

    def __init__(self, job: Job, s: GenerateSettings, potentials: list[Potential]) -> None:
        self.job = job
        self.settings = s
        self.potentials = potentials
        self.not_judged = 0

    def judge(self, found: Frames) -> Frames:
        """With labels of what they disagree about; without what there was no time to judge."""
        from aiida_rm.engine.relaxation import with_uncertainty

        # What has no E~ came back as it started.
        which = np.isfinite(found.structure["energy"])
        ticker = Ticker(self.job, "judging")
        judged = 0

        def on_batch(finished: int, total: int) -> None:
            nonlocal judged
            judged = finished
            ticker.count(finished, total)

        found = with_uncertainty(
            found,
            self.potentials,
            which,
            batch_atoms=self.settings.batch_atoms,
            batch_edges=self.settings.batch_edges,
            # A signal leaves time for what is relaxed already.
            should_stop=lambda: "walltime" if self.job.should_stop() == "walltime" else None,
            on_batch=on_batch,
        )
        if judged == which.sum():
            return found
        left_out = which & np.isnan(found.structure["uncertainty"])
        self.not_judged += int(left_out.sum())
        return found.select(~left_out)

    def summary(self, found: Frames) -> dict[str, Any]:
        """What the summary of the job says of them."""
        values = found.structure["uncertainty"]
        values = values[np.isfinite(values)]
        return {
            "potentials": len(self.potentials),
            "not_judged": self.not_judged,
            "uncertainty_median": float(np.median(values)) if len(values) else None,
            "uncertainty_max": float(values.max()) if len(values) else None,
        }
