"""rm.pbspro: AiiDA's core.pbspro with GPUs."""

from __future__ import annotations

import re

from aiida.schedulers.datastructures import JobTemplate
from aiida.schedulers.plugins.pbspro import PbsproScheduler

_GPUS = re.compile(r"^#PBS -l ngpus=([0-9]+) *\n?", re.MULTILINE)
_SELECT = re.compile(r"^#PBS -l select=\S+", re.MULTILINE)


class GpuPbsproScheduler(PbsproScheduler):
    """PBS Pro takes GPUs within `select` alone, and of several `select` lines only the first.

    AiiDA writes the first one, and knows no GPUs. Here a line ``#PBS -l ngpus=N`` of
    `custom_scheduler_commands` goes into it: N of each machine.
    """

    def _get_submit_script_header(self, job_tmpl: JobTemplate) -> str:
        header = super()._get_submit_script_header(job_tmpl)
        found = _GPUS.search(header)
        if found is None:
            return header
        return _SELECT.sub(rf"\g<0>:ngpus={found.group(1)}", _GPUS.sub("", header), count=1)
