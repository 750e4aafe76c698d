"""pw: crystals by pw.x of Quantum ESPRESSO, through the work chains of aiida-quantumespresso."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from aiida.engine import CalcJob
from aiida.engine.processes.ports import PortNamespace
from aiida.orm import AbstractCode, Group, QueryBuilder

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.elements import SYMBOLS
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.referee_settings import PwSettings
from aiida_rm.engine.settings import to_plain
from aiida_rm.referees.base import FAILED, Referee, RefereeError, RefereeJob
from aiida_rm.workflows.judge_pw import PwJudgeWorkChain

PLUGIN = "quantumespresso.pw"
_MISSING = (
    "aiida-quantumespresso is not installed; `pip install 'aiida-rm[qe]'` where the daemon runs"
)
_INSTALL = (
    "`aiida-pseudo install sssp -v 1.3 -x PBEsol -p efficiency` installs the default one of the "
    "protocols, `aiida-pseudo install family FOLDER LABEL -F pseudo.family.cutoffs -P pseudo.upf` "
    "one of your own"
)


class PwReferee(Referee):
    """Relax crystals with pw.x, or take their energies; one work chain each."""

    SETTINGS = PwSettings
    PROCESS = PwJudgeWorkChain
    PROGRAM = "pw.x"
    OPTIONS = MappingProxyType({"environment_variables": {"OMP_NUM_THREADS": "1"}})

    def ports(self) -> PortNamespace:
        """Those of any job."""
        found: PortNamespace = CalcJob.spec().inputs["metadata"]["options"]
        return found

    def inputs(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The options go through the work chain; one process needs no launcher."""
        chosen = given["code"].with_mpi
        own = {"withmpi": _processes(options) > 1 if chosen is None else chosen}
        return {**given, "options": {**own, **options}}

    def check_code(self, code: AbstractCode) -> None:
        """Refuse what is no pw.x, or cannot be run without its plugin."""
        _plugin()
        if code.default_calc_job_plugin != PLUGIN:
            raise RefereeError(
                f"the code '{code.label}' is for '{code.default_calc_job_plugin or 'nothing'}'; "
                "make one of pw.x: `verdi code create core.code.installed "
                f"--default-calc-job-plugin {PLUGIN} ...`"
            )

    def check(self, frames: Frames) -> None:
        """Refuse a set without a crystal that has pseudopotentials, or elements without cutoffs."""
        family = load_family(family_label(self.settings))
        unfit = _unfit(frames, family)
        if unfit and len(unfit) == len(frames):
            row = min(unfit)
            raise RefereeError(f"structure {row} ({frames.formula(row)}) {unfit[row]}")
        _check_format(family)
        if not self.settings.ecutwfc:
            fit = [row for row in range(len(frames)) if row not in unfit]
            _check_cutoffs(family, frames.select(np.array(fit, int)).elements)

    def refuse(self, frames: Frames) -> dict[int, str]:
        """Molecules, slabs, elements without pseudopotentials, and atoms that are much too near."""
        limit = self.settings.min_distance
        unfit = _unfit(frames, load_family(family_label(self.settings)))
        verdicts = {row: f"{FAILED}{frames.formula(row)} {why}" for row, why in unfit.items()}
        for row in (row for row in range(len(frames)) if row not in unfit):
            distance = frames.minimum_distance(row, limit) if limit else np.inf
            if distance < limit:
                verdicts[row] = (
                    f"{FAILED}two atoms are {distance:.2f} angstrom apart, less than "
                    f"'min_distance', {limit:g}; discard it, or relax it with another referee first"
                )
        return verdicts

    def jobs(self, frames: FramesData, rows: Sequence[int], code: AbstractCode) -> list[RefereeJob]:
        """One work chain a structure: none can end another one."""
        settings = to_plain(self.settings)
        return [
            RefereeJob((row,), {"code": code, "frames": frames, "row": row, "settings": settings})
            for row in rows
        ]


def _unfit(frames: Frames, family: Any) -> dict[int, str]:
    """Why structures are not for pw.x with this family, by row."""
    known = np.isin(SYMBOLS, list(family.elements))
    found = {}
    for row in range(len(frames)):
        numbers = np.unique(frames.numbers[frames.ptr[row] : frames.ptr[row + 1]])
        lacking = [SYMBOLS[number] for number in numbers if not known[number]]
        if not frames.pbc[row].all():
            found[row] = (
                "is not periodic in all directions, and pw.x judges crystals; take the referee "
                "'xtb' for molecules, or give it a cell with a vacuum"
            )
        elif lacking:
            found[row] = (
                f"holds {', '.join(lacking)}, of which the family '{family.label}' has no "
                f"pseudopotential; name one that has it in 'pseudo_family' ({_listed()})"
            )
    return found


def family_label(settings: PwSettings) -> str:
    """The family that is asked for, or that of the protocol."""
    if settings.pseudo_family:
        return settings.pseudo_family
    return str(_plugin().get_protocol_inputs(settings.protocol)["pseudo_family"])


def load_family(label: str) -> Any:
    """The family of pseudopotentials of this label.

    Raises:
        RefereeError: there is none; says which there are.
    """
    found = [group for group in _families() if group.label == label]
    if not found:
        raise RefereeError(
            f"there is no family of pseudopotentials '{label}'; name another one in "
            f"'pseudo_family' ({_listed()}), or install it: {_INSTALL}"
        )
    return found[0]


def _check_format(family: Any) -> None:
    from aiida.plugins import DataFactory

    allowed = (DataFactory("pseudo.upf"), DataFactory("core.upf"))
    other = [one for one in family.pseudos.values() if not isinstance(one, allowed)]
    if other:
        raise RefereeError(
            f"the family '{family.label}' holds {type(other[0]).__name__}, which pw.x cannot read "
            "as such; install its UPF files anew, with `-P pseudo.upf`"
        )


def _check_cutoffs(family: Any, elements: tuple[str, ...]) -> None:
    from aiida_pseudo.groups.mixins import RecommendedCutoffMixin

    problem = "it is no family with cutoffs"
    if isinstance(family, RecommendedCutoffMixin):
        try:
            family.get_recommended_cutoffs(elements=elements, unit="Ry")
        except ValueError as error:
            problem = str(error)
        else:
            return
    raise RefereeError(
        f"the family '{family.label}' recommends no cutoffs ({problem.rstrip('.')}); give "
        "'ecutwfc' and 'ecutrho', or set its own: `aiida-pseudo family cutoffs set "
        f"'{family.label}' FILE.json -s normal -u Ry`"
    )


def _families() -> list[Any]:
    from aiida_pseudo.groups.family import PseudoPotentialFamily

    query = QueryBuilder().append(PseudoPotentialFamily)
    return sorted(query.all(flat=True), key=lambda group: str(group.label))


def _listed() -> str:
    labels = [str(group.label) for group in _families() if isinstance(group, Group)]
    return f"installed: {', '.join(labels) or 'none'}"


def _plugin() -> Any:
    try:
        from aiida_quantumespresso.workflows.pw.base import PwBaseWorkChain
    except ImportError as error:
        raise RefereeError(_MISSING) from error
    return PwBaseWorkChain


def _processes(options: Mapping[str, Any]) -> int:
    resources = options["resources"]
    machines = resources.get("num_machines", 1)
    return int(
        resources.get("tot_num_mpiprocs") or machines * resources.get("num_mpiprocs_per_machine", 1)
    )
