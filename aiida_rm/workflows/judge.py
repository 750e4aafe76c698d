"""rm.judge: one referee on a set of structures, a verdict each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from shlex import quote
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessSpec, ToContext, WorkChain, while_

from aiida_rm.calculations.base import check_walltime
from aiida_rm.data.frames import FramesData
from aiida_rm.engine.errors import EngineError
from aiida_rm.referees.base import (
    FAILED,
    RESOURCES,
    Referee,
    RefereeError,
    RefereeJob,
    load_referee,
)
from aiida_rm.referees.functions import check_judged, gather_verdicts, is_judged, row_key
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, unlucky, verdict
from aiida_rm.workflows.protocols import check_names

MAX_STRUCTURES = 10_000
#: What the names of a referee's labels begin with.
LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")

#: More phases are judged in a run of their own, whose output is given.
MAX_REFERENCES = 100
#: What the call links of their runs begin with.
_REFERENCE = "reference_"


class JudgeWorkChain(CleaningMixin, WorkChain):
    """Give structures to a referee; what fails for one of them leaves the others alone."""

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Structures, the referee's name, its program and settings; verdicts out."""
        super().define(spec)
        spec.input("frames", valid_type=FramesData, help="The structures to judge.")
        spec.input(
            "referee",
            valid_type=orm.Str,
            serializer=orm.to_aiida_type,
            validator=_check_referee,
            help="Name of the referee: `xtb`, `pw`, `ase`, `shell`, or another entry point of the "
            "group aiida_rm.referees.",
        )
        spec.input(
            "references",
            valid_type=FramesData,
            required=False,
            help="Phases to measure energies against. They are judged as well, but for a set that "
            "carries `LABEL_energy_per_atom` and `LABEL_verdict`.",
        )
        spec.input(
            "code",
            valid_type=orm.AbstractCode,
            help="The program of the referee: xtb, pw.x, aiida-rm-engine (for ase), any command.",
        )
        spec.input(
            "settings",
            valid_type=orm.Dict,
            default=lambda: orm.Dict({}),
            serializer=orm.to_aiida_type,
            help="Knobs of the referee; what is not given has its default. `aiida-rm knobs xtb` "
            "(pw, shell; relax for ase) lists them with units.",
        )
        spec.input(
            "label",
            valid_type=orm.Str,
            required=False,
            serializer=orm.to_aiida_type,
            validator=_check_label,
            help="What the names of the new labels begin with; without it, the referee's name.",
        )
        spec.input(
            "max_structures",
            valid_type=orm.Int,
            default=lambda: orm.Int(100),
            serializer=orm.to_aiida_type,
            validator=_check_max_structures,
            help="More structures than this are refused: a guard, for a referee takes its time.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            default=lambda: orm.Int(8),
            serializer=orm.to_aiida_type,
            validator=_check_max_concurrent,
            help="So many jobs run at a time at most.",
        )
        spec.input(
            "options",
            valid_type=orm.Dict,
            default=lambda: orm.Dict({}),
            serializer=orm.to_aiida_type,
            help="`metadata.options` of every job, such as `max_wallclock_seconds`.",
        )
        spec.inputs.validator = _check_together
        spec.output(
            "frames",
            valid_type=FramesData,
            required=False,
            help="The structures, relaxed, row by row, with `LABEL_energy` (eV), "
            "`LABEL_energy_per_atom` (eV), `LABEL_above_hull` (eV per atom), `LABEL_rmsd` "
            "(angstrom), `LABEL_verdict`, `LABEL_note` and `LABEL_row`.",
        )
        spec.output(
            "references",
            valid_type=FramesData,
            required=False,
            help="The references, judged: give them again, and they are not judged again.",
        )
        spec.output(
            "results",
            valid_type=orm.Dict,
            required=False,
            help="How many structures ended with which verdict.",
        )
        spec.outline(
            cls.setup,
            while_(cls.should_run_jobs)(cls.run_jobs, cls.inspect_jobs),
            cls.gather,
        )
        spec.exit_code(
            331, "ERROR_NOT_PREPARED", message="The jobs could not be prepared: {message}"
        )
        spec.exit_code(
            332, "ERROR_NOT_GATHERED", message="The verdicts could not be gathered: {message}"
        )
        spec.exit_code(
            704,
            "WARNING_NOTHING_CONVERGED",
            message="None of {count} structures was judged well; the first is '{verdict}'. All "
            "verdicts are in the output `frames`.",
        )

    def setup(self) -> ExitCode | None:
        """Ask the referee which runs there are to be."""
        self.ctx.jobs, self.ctx.rows, self.ctx.judged, self.ctx.launched = {}, {}, {}, []
        self.ctx.again = []
        self.ctx.verdicts = {"frames": {}, "references": {}}
        try:
            self._prepare("frames")
            if self._judges_references():
                self._prepare("references")
        except (EngineError, RefereeError) as error:
            return exit_with(self, "ERROR_NOT_PREPARED", message=str(error))
        self.ctx.waiting = self._in_order()
        return None

    def _in_order(self) -> list[str]:
        """References first, then the largest: those that run together are then about as long."""
        names = {_set_of(key) for key in self.ctx.jobs}
        counts = {name: self.inputs[name].get_frames().counts for name in names}

        def place(key: str) -> tuple[bool, int, str]:
            name = _set_of(key)
            return name == "frames", -int(counts[name][self.ctx.rows[key]].sum()), key

        return sorted(self.ctx.jobs, key=place)

    def _prepare(self, name: str) -> None:
        """Ask the referee which runs the structures of an input need."""
        referee, node = _referee_of(self.inputs), self.inputs[name]
        frames = node.get_frames()
        refused = referee.refuse(frames)
        rows = [row for row in range(len(frames)) if row not in refused]
        jobs = referee.jobs(node, rows, self.inputs.code) if rows else []
        prefix = _REFERENCE if name == "references" else ""
        for job in jobs:
            self.ctx.jobs[prefix + _key(job)] = job.inputs
            self.ctx.rows[prefix + _key(job)] = list(job.rows)
        self.ctx.verdicts[name] = {str(row): text for row, text in refused.items()}
        self.report(
            f"{len(frames)} {'references' if prefix else 'structures'} for "
            f"'{self.inputs.referee.value}' in {len(jobs)} jobs; {len(refused)} need none"
        )

    def _judges_references(self) -> bool:
        if "references" not in self.inputs:
            return False
        return not is_judged(self.inputs.references.get_frames(), _label_of(self.inputs))

    def should_run_jobs(self) -> bool:
        """Whether a job waits."""
        return bool(self.ctx.waiting)

    def run_jobs(self) -> Any:
        """Submit as many of the waiting jobs as may run together."""
        limit = self.inputs.max_concurrent.value
        batch, self.ctx.waiting = self.ctx.waiting[:limit], self.ctx.waiting[limit:]
        referee = _referee_of(self.inputs)
        options = referee.options(self.inputs.options.get_dict())
        self.ctx.launched = []
        launched = {}
        for key in batch:
            inputs = AttributeDict(referee.inputs(self.ctx.jobs[key], options))
            inputs.setdefault("metadata", AttributeDict())["call_link_label"] = key
            try:
                node = self.submit(referee.PROCESS, **inputs)
            except ValueError as error:
                self._fail(key, f"its inputs were refused: {error}")
                continue
            self.ctx.launched.append(key)
            launched[key] = node
        return ToContext(**launched)

    def inspect_jobs(self) -> None:
        """Keep what came back; a run that brought nothing is a verdict as well."""
        for key in self.ctx.launched:
            node = self.ctx[key]
            if unlucky(node) and key not in self.ctx.again:
                self.ctx.again.append(key)
                self.ctx.waiting.insert(0, key)
                self.report(f"{key} <{node.pk}> ended with {verdict(node)}; once more")
                continue
            if "frames" not in node.outputs:
                self._fail(key, f"the job ended with {verdict(node)}")
                continue
            problem = check_judged(node.outputs.frames.get_frames(), len(self.ctx.rows[key]))
            if problem is not None:
                self._fail(key, problem)
                continue
            self.ctx.judged[key] = node.outputs.frames
            if not node.is_finished_ok:
                self.report(f"{key} <{node.pk}> ended with {verdict(node)}; its verdict is kept")

    def gather(self) -> ExitCode | None:
        """All verdicts in one set; the references first, for the others are measured by them."""
        label = self.inputs.get("label") or orm.Str(_label_of(self.inputs))
        further = {}
        if "references" in self.inputs:
            references = self.inputs.references
            if self._judges_references():
                made, node = self._gather("references", label)
                if not node.is_finished_ok:
                    return exit_with(self, "ERROR_NOT_GATHERED", message=verdict(node))
                references = made["frames"]
            self.out("references", references)
            further = {"references": references}
        made, node = self._gather("frames", label, **further)
        if not node.is_finished_ok:
            return exit_with(self, "ERROR_NOT_GATHERED", message=verdict(node))
        self.out("frames", made["frames"])
        self.out("results", made["results"])
        found = made["results"].get_dict()
        self.report(f"{found['converged']} of {found['n_structures']} structures are judged well")
        for text, count in found["notes"]:
            self.report(f"{count} x {text}")
        if not found["converged"]:
            first = str(made["frames"].get_frames().structure[f"{label.value}_verdict"][0])
            return exit_with(
                self, "WARNING_NOTHING_CONVERGED", count=found["n_structures"], verdict=first
            )
        return None

    def _gather(self, name: str, label: orm.Str, **further: Any) -> Any:
        rows = {key: rows for key, rows in self.ctx.rows.items() if _set_of(key) == name}
        judged = {key: node for key, node in self.ctx.judged.items() if key in rows}
        told = orm.Dict({"rows": rows, "verdicts": self.ctx.verdicts[name]})
        return call(gather_verdicts, self.inputs[name], label, told, **further, **judged)

    def _fail(self, key: str, reason: str) -> None:
        self.report(f"{key}: {reason}")
        for row in self.ctx.rows[key]:
            self.ctx.verdicts[_set_of(key)][str(row)] = f"{FAILED}{reason}"


def _referee_of(inputs: Mapping[str, Any]) -> Referee:
    return load_referee(inputs["referee"].value)(inputs["settings"].get_dict())


def _label_of(inputs: Mapping[str, Any]) -> str:
    return str(inputs["label" if "label" in inputs else "referee"].value)


def _set_of(key: str) -> str:
    return "references" if key.startswith(_REFERENCE) else "frames"


def _key(job: RefereeJob) -> str:
    first = row_key(job.rows[0])
    return first if len(job.rows) == 1 else f"{first}_{job.rows[-1]:06d}"


def _check_referee(value: orm.Str, _: Any) -> str | None:
    try:
        load_referee(value.value)
    except RefereeError as error:
        return f"`referee`: {error}"
    return None


def _check_label(value: orm.Str | None, _: Any) -> str | None:
    if value is not None and not LABEL.match(value.value):
        return f"`label` is '{value.value}'; use a letter, then letters, digits and _"
    return None


def _check_max_structures(value: orm.Int, _: Any) -> str | None:
    if not 1 <= value.value <= MAX_STRUCTURES:
        return f"`max_structures` is {value.value}, must be between 1 and {MAX_STRUCTURES}"
    return None


def _check_max_concurrent(value: orm.Int, _: Any) -> str | None:
    if value.value < 1:
        return f"`max_concurrent` is {value.value}, must be at least 1"
    return None


def _check_together(inputs: Mapping[str, Any], _: Any) -> str | None:
    """Find at submission what would else stop every job."""
    frames, limit = inputs.get("frames"), inputs.get("max_structures")
    given = (inputs.get("referee"), inputs.get("settings"), inputs.get("code"))
    if not isinstance(frames, FramesData) or limit is None or None in given:
        return None  # the ports say so
    if len(frames) > limit.value:
        return (
            f"`frames` holds {len(frames)} structures, more than `max_structures`, {limit.value}; "
            "choose some with rm.select_frames (rules such as sort and limit), or raise it"
        )
    name, options = inputs["referee"].value, inputs["options"].get_dict()
    try:
        referee = _referee_of(inputs)
        referee.check_code(inputs["code"])
        referee.check(frames.get_frames())
        if problem := _check_references(referee, inputs):
            return f"`references`: {problem}"
        problem = _check_options(referee, options)
    except EngineError as error:
        return f"`settings` of '{name}': {error}"
    except RefereeError as error:
        return f"'{name}': {error}"
    return problem or _check_place(referee, inputs["code"], options)


def _check_references(referee: Referee, inputs: Mapping[str, Any]) -> str | None:
    references = inputs.get("references")
    if references is None or is_judged(references.get_frames(), _label_of(inputs)):
        return None
    if len(references) > MAX_REFERENCES:
        return (
            f"{len(references)} structures, more than {MAX_REFERENCES}; give them to rm.judge as "
            "`frames` first, and then its output `frames` as `references`"
        )
    referee.check(references.get_frames())
    return None


def _check_options(referee: Referee, given: Mapping[str, Any]) -> str | None:
    ports = referee.ports()
    try:
        check_names(ports, given, "options")
    except ValueError as error:
        return str(error)
    for name, value in given.items():
        problem = ports[name].validate(value)
        if problem is not None:
            return f"`options.{name}`: {problem.message}"
    problem = check_walltime(given.get("max_wallclock_seconds"), None)
    return f"`options`: {problem}" if problem else None


def _check_place(referee: Referee, code: orm.AbstractCode, given: Mapping[str, Any]) -> str | None:
    """Computers that AiiDA cannot reach, and resources that their schedulers do not know."""
    computer = code.computer
    if computer is None:
        return f"the code '{code.label}' belongs to no computer; give one that is installed on one"
    if not computer.is_configured:
        return (
            f"the computer '{computer.label}' of the code '{code.label}' is not configured; "
            f"`verdi computer configure {computer.transport_type} {quote(computer.label)}`"
        )
    scheduler, resources = computer.get_scheduler(), dict(referee.options(given)["resources"])
    try:
        scheduler.preprocess_resources(resources, computer.get_default_mpiprocs_per_machine())
        scheduler.validate_resources(**resources)
    except (ValueError, TypeError) as error:
        return f"`options.resources`: {error}; {computer.scheduler_type} takes such as {RESOURCES}"
    return None
