"""What a referee is, and how it is found by its name."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, ClassVar

from aiida.engine import Process
from aiida.engine.processes.ports import PortNamespace
from aiida.orm import AbstractCode

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.settings import parse_settings

#: The entry point group whose names are those of the referees.
GROUP = "aiida_rm.referees"
#: One process on one machine.
RESOURCES = {"num_machines": 1, "num_mpiprocs_per_machine": 1}
#: The verdict of a structure that was judged and, if asked for, relaxed.
CONVERGED = "converged"
#: What all other verdicts begin with.
FAILED = "failed: "


class RefereeError(ValueError):
    """A referee is unknown, or cannot judge these structures. The message has the remedy."""


@dataclass(frozen=True)
class RefereeJob:
    """A process that judges some structures.

    Its output `frames` is a FramesData with the labels of ``labels.JUDGED``: ``row`` counts
    within ``rows``.

    Attributes:
        rows: of the structures in the set.
        inputs: of the process, without `metadata.options`.
    """

    rows: tuple[int, ...]
    inputs: dict[str, Any] = field(default_factory=dict)


class Referee(ABC):
    """An outside judge of structures.

    A subclass names its knobs and the process that it runs, and says which structures each run
    gets; an entry point of the group ``aiida_rm.referees`` makes it known.
    """

    #: A dataclass of knobs (aiida_rm.engine.knobs).
    SETTINGS: ClassVar[type]
    #: The process that judges.
    PROCESS: ClassVar[type[Process]]
    #: What the code is, for messages.
    PROGRAM: ClassVar[str]
    #: Options of the process that this referee needs; the user's win, or join them where several
    #: things can stand together.
    OPTIONS: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Take the settings.

        Raises:
            SettingsError: a name is unknown or a value is refused.
        """
        self.settings: Any = parse_settings(self.SETTINGS, values)

    def options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """`metadata.options` of the jobs: what the user says wins over what the referee needs."""
        needed = self.needed_options()
        options = {"resources": RESOURCES, **needed, **given}
        name = "environment_variables"
        if name in options:  # one of the user's own leaves the others
            options[name] = {**needed.get(name, {}), **options[name]}
        name = "additional_retrieve"
        if name in options:
            files = (*needed.get(name, ()), *given.get(name, ()))
            options[name] = list(dict.fromkeys(files))
        return options

    def needed_options(self) -> dict[str, Any]:
        """What this referee needs of them, with these settings."""
        return dict(self.OPTIONS)

    def ports(self) -> PortNamespace:
        """What `metadata.options` may hold.

        Raises:
            RefereeError: the process is no CalcJob, and the referee does not say where its are.
        """
        metadata = self.PROCESS.spec().inputs["metadata"]
        if "options" not in metadata:
            raise RefereeError(
                f"{self.PROCESS.__name__} is no CalcJob; override `ports` and `inputs` of the "
                "referee, which say where the options of its jobs go (aiida_rm/referees/pw.py)"
            )
        found: PortNamespace = metadata["options"]
        return found

    def inputs(self, given: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
        """The inputs of a run with the options of its jobs."""
        return {**given, "metadata": {"options": dict(options)}}

    def check_code(self, code: AbstractCode) -> None:  # noqa: B027 - most know it by running it
        """Refuse, before anything runs, a code that cannot be the referee's program.

        Raises:
            RefereeError: saying what it must be.
        """

    def check(self, frames: Frames) -> None:  # noqa: B027 - not every referee is choosy
        """Refuse, before anything runs, a set of which no structure is for this referee.

        Raises:
            RefereeError: saying which one, and what to do.
        """

    def refuse(self, frames: Frames) -> dict[int, str]:  # noqa: ARG002
        """Verdicts that need no job, by row; the other structures go on."""
        return {}

    @abstractmethod
    def jobs(self, frames: FramesData, rows: Sequence[int], code: AbstractCode) -> list[RefereeJob]:
        """The runs that judge these rows; called within a work chain, may call calcfunctions."""


def known_referees() -> list[str]:
    """Names of all referees that are installed."""
    return sorted({point.name for point in entry_points(group=GROUP)})


def load_referee(name: str) -> type[Referee]:
    """The class of a referee.

    Raises:
        RefereeError: there is none of this name, or its package cannot be imported.
    """
    found = [point for point in entry_points(group=GROUP) if point.name == name]
    if not found:
        known = known_referees()
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        raise RefereeError(f"'{name}' is no referee; {hint}known: {', '.join(known) or 'none'}")
    try:
        cls = found[0].load()
    except (ImportError, AttributeError) as error:
        raise RefereeError(
            f"the referee '{name}' ({found[0].value}) cannot be imported: {error}; install or mend "
            "its package"
        ) from error
    if not (isinstance(cls, type) and issubclass(cls, Referee)):
        raise RefereeError(f"the referee '{name}' ({found[0].value}) is no subclass of Referee")
    return cls
