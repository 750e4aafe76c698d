"""What went wrong with pw.x, in plain words and with a remedy."""

from __future__ import annotations

import re

from aiida import orm
from aiida.common.exceptions import NotExistent

from aiida_rm.engine.referee_settings import PwSettings
from aiida_rm.parsers.base import SCHEDULER_MEMORY, SCHEDULER_WALLTIME
from aiida_rm.parsers.reading import plain
from aiida_rm.workflows.common import verdict

#: Exit codes of PwCalculation after which its steps can be used: cut short, or not relaxed.
_USABLE = (0, 400, 500, 501, 502, 503, 520)
_WALLTIME = "its walltime was over; give a longer `max_wallclock_seconds`, or raise 'max_runs'"
_NO_SCF = (
    "its electronic structure did not converge; raise 'max_runs', set 'spin_type' or "
    "'electronic_type', or discard it"
)
_STEPS = "not at rest after {runs} x {steps} steps; raise 'max_steps' or 'max_runs'"
_DIAGONAL = "its wave functions could not be found; raise the cutoffs, or discard it"
#: By exit code of PwCalculation.
_REASONS: dict[int | None, str] = {
    SCHEDULER_MEMORY: "the memory did not suffice; ask for more of it, or use more processes",
    SCHEDULER_WALLTIME: _WALLTIME,
    340: _WALLTIME,
    400: _WALLTIME,
    **dict.fromkeys((410, 510, 511, 521), _NO_SCF),
    **dict.fromkeys((462, 463, 464, 465, 466, 467, 468), _DIAGONAL),
    481: "there are fewer k-points than 'npool'; lower it",
    **dict.fromkeys((500, 502, 503, 520), _STEPS),
    501: "its cell did not come to rest within five relaxations; raise the cutoffs",
    531: "its charge went wrong; set 'electronic_type' to metal",
    541: "its cell lost the symmetry of the k-points; relax it with another referee first",
    542: "its cell shrank by far; relax it with another referee first, or discard it",
}
_ERROR = re.compile(r"Error in routine\s+(\S+)\s+\(\s*-?\d+\s*\):\s*\n\s*(\S.*)")
_NOT_STARTED = ("no such file or directory", "command not found", "permission denied")
_MAX_BYTES = 16 * 1024 * 1024


def runs_of(node: orm.ProcessNode) -> list[orm.CalcJobNode]:
    """The runs of pw.x below a work chain, in the order of time."""
    runs = [one for one in node.called_descendants if isinstance(one, orm.CalcJobNode)]
    return sorted(runs, key=lambda run: (run.ctime, run.pk))


def last_usable(runs: list[orm.CalcJobNode]) -> orm.CalcJobNode | None:
    """The last run that left a whole step of a relaxation."""
    for run in reversed(runs):
        if run.exit_status in _USABLE and "output_trajectory" in run.outputs:
            names = run.outputs.output_trajectory.get_arraynames()
            if "energy" in names and "positions" in names and "cells" in names:
                return run
    return None


def why_it_failed(node: orm.ProcessNode, runs: list[orm.CalcJobNode], settings: PwSettings) -> str:
    """Why there is no verdict, with a remedy."""
    if not runs:
        return f"pw.x never ran ({verdict(node)}); look at the report of the process {node.pk}"
    run = runs[-1]
    status = run.exit_status
    if status in _REASONS:
        return _REASONS[status].format(steps=settings.max_steps, runs=settings.max_runs)
    if status == 0:  # all runs were good, but the relaxation as a whole did not end
        return "its cell did not come to rest within five relaxations; raise the cutoffs"
    name = run.computer.label if run.computer else "the computer"
    errors = _file(run, run.get_option("scheduler_stderr")).lower()
    if any(words in errors for words in _NOT_STARTED):
        return (
            f"pw.x did not start on {name}; install it there, and mend the path or the prepend "
            "text of the code, or the option `withmpi`"
        )
    said = _ERROR.search(_file(run, run.get_option("output_filename")))
    if said is not None:
        words = plain(f"{said[1]}: {said[2].strip()}"[:160])
        return f"pw.x stopped with '{words}'; mend the settings, or discard it"
    return f"pw.x ended with {verdict(run)} (process {run.pk}); give it more time or memory"


def _file(run: orm.CalcJobNode, name: str | None) -> str:
    try:
        with run.outputs.retrieved.base.repository.open(name, "rb") as stream:
            return bytes(stream.read(_MAX_BYTES)).decode("utf-8", "replace")
    except (OSError, NotExistent, AttributeError, TypeError):
        return ""
