"""What ``aiida-rm doctor`` looks at, in order: the code, its computer, a tiny job, its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from shlex import quote
from typing import Any

from aiida import orm
from aiida.common import exceptions
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from aiida_rm import __version__
from aiida_rm.cli.codes import known_codes
from aiida_rm.cli.running import GaveUpError, run_job, without_broker

FINE, NOTE, MEND = "fine", "note", "mend"
_COLOURS = {FINE: "green", NOTE: "yellow", MEND: "red"}
#: Free room below which a job is likely to fail, in GB.
_ROOM = 1.0
_NEEDED = ("torch-geometric", "numpy", "safetensors")
#: What an absent library is for, and what brings it.
_OPTIONAL = {
    "ase": ("the calculator and rm.relax", "ase"),
    "pymatgen": ("scores of crystals", "pymatgen"),
    "rdkit": ("scores of molecules", "rdkit"),
    "posebusters": ("PoseBusters' checks of molecules", "aiida-rm[molecules]"),
    "smact": ("validity of compositions", "aiida-rm[crystals]"),
    "matminer": ("COV-R and COV-P", "aiida-rm[coverage]"),
    "pyxtal": ("random starts with space groups", "aiida-rm[symmetry]"),
    "tblite": ("the referee tblite", "aiida-rm[tblite]"),
}


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: fine, note (it may be meant so) or mend.
        found: what was found.
        remedy: what to do about it.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


@dataclass
class Report:
    """All checks of one code."""

    code: str
    checks: list[Check] = field(default_factory=list)
    job: int | None = None

    def add(self, name: str, status: str, found: Any, remedy: str = "") -> None:
        """One more; line breaks go."""
        line = " ".join(str(found).split())
        self.checks.append(Check(name, status, line[:300], remedy))

    @property
    def well(self) -> bool:
        """Whether nothing has to be mended."""
        return all(check.status != MEND for check in self.checks)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "code": self.code,
            "well": self.well,
            "job": self.job,
            "checks": [vars(check) for check in self.checks],
        }

    def show(self, console: Console) -> None:
        """Print a table."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for check in self.checks:
            colour = _COLOURS[check.status]
            text = escape(check.found)
            if check.remedy:
                text += f"\n-> {escape(check.remedy)}"
            table.add_row(f"[{colour}]{check.status}[/]", check.name, text)
        console.print(table)
        count = sum(check.status == MEND for check in self.checks)
        console.print(f"{count} to mend" if count else "all is well")


def examine(
    label: str,
    *,
    gpus: int | None,
    queue: str | None,
    account: str | None,
    walltime: int,
    patience: float,
) -> Report:
    """Look at everything until something hopeless comes.

    Args:
        label: label, PK or UUID of the engine's code.
        gpus: ask for so many.
        queue: of the job.
        account: of the job.
        walltime: of the job, in seconds.
        patience: seconds until the job is given up.
    """
    without_broker()
    report = Report(label)
    code = _find_code(report, label)
    if code is None or not _reach(report, code):
        return report
    options: dict[str, Any] = {"max_wallclock_seconds": walltime}
    options |= {"queue_name": queue} if queue else {}
    options |= {"account": account} if account else {}
    if gpus:
        from aiida_rm.workflows.hardware import Hardware

        try:
            options |= Hardware(code, None, gpus, None).asking(gpus, 1, 1)
        except ValueError as error:
            report.add("GPUs", MEND, error)
            return report
    node = _run(report, code, options, patience)
    if node is not None:
        _judge(report, node.outputs.results.get_dict(), gpus or 0)
    return report


def _find_code(report: Report, label: str) -> orm.AbstractCode | None:
    try:
        code = orm.load_code(label)
    except exceptions.MultipleObjectsError:
        report.add("code", MEND, f"several codes are called '{label}'", "say LABEL@COMPUTER")
    except (exceptions.NotExistent, ValueError):
        names = ", ".join(known_codes()) or "no codes"
        remedy = f"there are {names}; make one with `verdi code create` (docs/setup.md)"
        report.add("code", MEND, f"there is no code '{label}'", remedy)
    else:
        if code.computer is None:
            report.add(
                "code",
                MEND,
                f"{label} belongs to no computer",
                "examine an installed or containerized code of the computer",
            )
            return None
        report.code = str(code.full_label)
        report.add("code", FINE, f"{code.full_label} <{code.pk}>")
        return code
    return None


def _reach(report: Report, code: orm.AbstractCode) -> bool:
    """Whether the computer answers and has the program."""
    computer = code.computer
    assert computer is not None  # or it had not been found
    user = orm.User.collection.get_default()
    assert user is not None  # every profile has one
    if not computer.is_configured:
        remedy = f"verdi computer configure {computer.transport_type} {quote(computer.label)}"
        report.add("computer", MEND, f"{computer.label} is not configured", remedy)
        return False
    if not computer.is_user_enabled(user):
        remedy = f"verdi computer enable {quote(computer.label)}"
        report.add("computer", MEND, f"{computer.label} is not enabled", remedy)
        return False
    remedy = f"verdi computer test {quote(computer.label)}"
    try:
        with computer.get_transport() as transport:
            transport.makedirs(_workdir(computer, transport), ignore_existing=True)
            program = getattr(code, "filepath_executable", None)
            inside = isinstance(code, orm.ContainerizedCode)
            absolute = program is not None and not inside and program.is_absolute()
            if absolute and not transport.isfile(str(program)):
                report.add(
                    "engine",
                    MEND,
                    f"{program} is no file on {computer.label}",
                    "`pip install aiida-rm` there, then give the code the path that `which "
                    "aiida-rm-engine` prints",
                )
                return False
    except Exception as error:  # noqa: BLE001 - every transport has errors of its own
        report.add("computer", MEND, f"{type(error).__name__}: {error}", remedy)
        return False
    report.add("computer", FINE, f"{computer.label} ({computer.scheduler_type}) answers")
    return True


def _workdir(computer: orm.Computer, transport: Any) -> str:
    return str(computer.get_workdir()).format(username=transport.whoami())


def _run(
    report: Report, code: orm.AbstractCode, options: Mapping[str, Any], patience: float
) -> orm.CalcJobNode | None:
    """Run the job; its node when it brought results."""
    from aiida_rm.calculations.doctor import DoctorCalculation

    inputs = {"code": code, "metadata": {"options": dict(options)}}
    try:
        node = run_job(DoctorCalculation, inputs, patience)
    except GaveUpError as error:
        report.job = error.node.pk
        report.add("job", MEND, error, f"verdi process report {report.job}")
        return None
    except (exceptions.AiidaException, ValueError) as error:
        report.add("job", MEND, error)
        return None
    report.job = node.pk
    if node.is_finished_ok:
        seconds = node.outputs.results["wall_seconds"]
        report.add("job", FINE, f"<{node.pk}> came back, {seconds:.1f} s of work")
        return node
    message = node.exit_message or ""
    if "invalid choice: 'doctor'" in message:
        report.add(
            "engine",
            MEND,
            f"the engine there is older than this plugin ({__version__})",
            f"`pip install aiida-rm=={__version__}` there",
        )
    else:
        found = f"<{node.pk}> ended with [{node.exit_status}] {message}"
        report.add("job", MEND, found, f"verdi process report {node.pk}")
    return None


def _judge(report: Report, results: Mapping[str, Any], gpus: int) -> None:
    """What the engine said of its machine."""
    engine, found = results["engine"], results["summary"]
    same = engine.get("version") == __version__
    report.add(
        "engine",
        FINE if same else MEND,
        f"aiida-rm {engine.get('version')}, Python {engine.get('python')}",
        "" if same else f"this side has {__version__}: `pip install aiida-rm=={__version__}` there",
    )
    build = found.get("cuda_build")
    kind = f"for CUDA {build}" if build else "processor build"
    report.add("torch", FINE, f"{engine.get('torch')} ({kind})")
    _judge_gpus(report, found, gpus)
    processors = found.get("processors")
    report.add("processors", FINE, f"{processors}, torch takes {found.get('threads')} threads")
    free = found.get("free_gb") or 0.0
    enough = free >= _ROOM
    remedy = "" if enough else "make room, or change the computer's work directory"
    report.add("disk", FINE if enough else MEND, f"{free:.1f} GB free", remedy)
    _judge_libraries(report, found.get("libraries") or {})


def _judge_gpus(report: Report, found: Mapping[str, Any], wanted: int) -> None:
    seen = found.get("gpus") or []
    broken = [gpu for gpu in seen if gpu["problem"]]
    names = ", ".join(f"{gpu['name']} ({gpu['memory_gb']} GB)" for gpu in seen) or "none"
    if broken:
        remedy = "install a build of torch for the CUDA version that `nvidia-smi` prints there"
        report.add("GPUs", MEND, f"{names}: {broken[0]['problem']}", remedy)
    elif len(seen) >= wanted:
        remedy = "" if seen else "for GPUs, ask with --gpus N"
        report.add("GPUs", FINE if seen else NOTE, names, remedy)
    elif not found.get("cuda_build"):
        remedy = "torch there is a processor build: install one with CUDA (pytorch.org)"
        report.add("GPUs", MEND, f"{names}, {wanted} asked for", remedy)
    else:
        remedy = (
            "look at the queue, at what the scheduler was asked (`verdi calcjob inputcat "
            f"{report.job} _aiidasubmit.sh`), at CUDA_VISIBLE_DEVICES, and in a container at --nv"
        )
        report.add("GPUs", MEND, f"{names}, {wanted} asked for", remedy)


def _judge_libraries(report: Report, libraries: Mapping[str, str | None]) -> None:
    for name in _NEEDED:
        if not libraries.get(name):
            report.add(name, MEND, "absent", f"`pip install {name}` there")
    there = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
    report.add("libraries", FINE, there or "none")
    for name, (purpose, package) in _OPTIONAL.items():
        if not libraries.get(name):
            remedy = f"for {purpose}: `pip install '{package}'` there"
            report.add(name, NOTE, "absent", remedy)
