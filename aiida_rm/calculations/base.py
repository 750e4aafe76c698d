"""What all jobs share: the code, the settings file, the files that come back, exit codes."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from aiida import orm
from aiida.common.datastructures import CalcInfo, CodeInfo
from aiida.common.folders import Folder
from aiida.engine import CalcJob, CalcJobProcessSpec
from aiida.engine.processes.calcjobs.calcjob import validate_calc_job

from aiida_rm.engine import files
from aiida_rm.engine.errors import EngineError
from aiida_rm.engine.settings import SETTINGS, describe, parse_settings, to_plain

#: Share of the scheduler's walltime after which the engine stops by itself and saves its state.
WALLTIME_MARGIN = 0.9

#: The `code` of an engine error (engine/errors.py) and the exit code that stands for it.
EXIT_CODE_OF_ERROR: dict[str, str] = {
    "bad_settings": "ERROR_BAD_SETTINGS",
    "bad_frames": "ERROR_BAD_FRAMES",
    "bad_potential": "ERROR_BAD_POTENTIAL",
    "bad_state": "ERROR_BAD_STATE",
    "bad_search": "ERROR_SEARCH_IMPOSSIBLE",
    "disk": "ERROR_DISK_FULL",
    "out_of_memory": "ERROR_OUT_OF_MEMORY",
    "diverged": "ERROR_DIVERGED",
    "internal": "ERROR_ENGINE_DIED",
}


class EngineCalculation(CalcJob):
    """A job that runs ``aiida-rm-engine TASK settings.json``.

    A subclass names its ``TASK`` and adds its input nodes, what they send to the job's folder
    and what comes back.
    """

    #: 2: potentials remember their training set, generated structures have a `ranking`.
    CACHE_VERSION = 2
    TASK: ClassVar[str]
    #: Files and folders that become output nodes; not kept a second time in `retrieved`.
    TEMPORARY: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def define(cls, spec: CalcJobProcessSpec) -> None:
        """Inputs, outputs and exit codes that all jobs have."""
        super().define(spec)
        spec.inputs["code"].required = True
        spec.input(
            "settings",
            valid_type=orm.Dict,
            default=lambda: orm.Dict({}),
            serializer=orm.to_aiida_type,
            validator=cls.validate_settings,
            help=_about_settings(cls.TASK),
        )
        options = spec.inputs["metadata"]["options"]
        options["parser_name"].default = f"rm.{cls.TASK}"
        options["resources"].default = lambda: {"num_machines": 1, "num_mpiprocs_per_machine": 1}
        options["max_wallclock_seconds"].validator = check_walltime
        spec.inputs.validator = cls._validate_inputs
        spec.output(
            "results",
            valid_type=orm.Dict,
            required=False,
            help="What the engine says of the run: status, reason of stopping, summary.",
        )
        spec.default_output_node = "results"
        _define_exit_codes(spec)

    @classmethod
    def validate_settings(cls, value: orm.Dict, _: Any) -> str | None:
        """Refuse unknown names, wrong types and values out of range, by the engine's own code."""
        try:
            parse_settings(SETTINGS[cls.TASK], value.get_dict())
        except EngineError as error:
            return f"settings of '{cls.TASK}': {error}"
        return None

    @classmethod
    def _validate_inputs(cls, inputs: Mapping[str, Any], ctx: Any) -> str | None:
        message = validate_calc_job(inputs, ctx)
        if message is not None:
            return message
        try:
            return cls.validate_together(inputs)
        except (EngineError, OSError, ValueError, KeyError, AttributeError, TypeError) as error:
            return f"the inputs of '{cls.TASK}' cannot be used: {error}"

    @classmethod
    def validate_together(cls, inputs: Mapping[str, Any]) -> str | None:  # noqa: ARG003
        """Check inputs against each other; any may be absent when a work chain exposes some."""
        return None

    @classmethod
    def settings_of(cls, inputs: Mapping[str, Any]) -> Any:
        """The complete settings of a set of inputs, as the engine's dataclass."""
        node = inputs.get("settings")
        return parse_settings(SETTINGS[cls.TASK], node.get_dict() if node is not None else {})

    @abstractmethod
    def copies(self) -> list[tuple[str, str, str]]:
        """Content of input nodes for the job's folder: (uuid, path in the node, target)."""

    def with_mpi(self) -> bool | None:
        """Whether the computer's mpirun or srun starts the engine; None leaves it to the code."""
        return False

    def processes(self) -> int:
        """How many processes do the task together."""
        return 1

    def parameters(self) -> list[str]:
        """What follows the name of the settings file on the command line."""
        return []

    def prepare_for_submission(self, folder: Folder) -> CalcInfo:
        """Write settings.json with every knob, and say what goes and what comes back."""
        limit = self.inputs.metadata.options.get("max_wallclock_seconds")
        content: dict[str, Any] = {
            "schema": files.SCHEMA_VERSION,
            "task": self.TASK,
            "settings": to_plain(self.settings_of(self.inputs)),
            "run": {"walltime_seconds": WALLTIME_MARGIN * limit if limit else None},
        }
        if self.processes() > 1:
            content["run"]["processes"] = self.processes()
        text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False)
        with folder.open(files.SETTINGS, "w", encoding="utf-8") as handle:
            handle.write(text + "\n")

        code = CodeInfo()
        code.code_uuid = self.inputs.code.uuid
        code.cmdline_params = [self.TASK, files.SETTINGS, *self.parameters()]
        # Apart from the scheduler's streams: it looks for its own verdict in the first line there.
        code.stdout_name = files.STDOUT
        code.stderr_name = files.STDERR
        code.withmpi = self.with_mpi()

        info = CalcInfo()
        info.codes_info = [code]
        info.local_copy_list = self.copies()
        info.retrieve_list = [files.RESULTS, files.METRICS, files.STDOUT, files.STDERR]
        info.retrieve_temporary_list = list(self.TEMPORARY)
        return info


def check_walltime(value: int | None, _: Any) -> str | None:
    """Validator of `max_wallclock_seconds`."""
    if value is not None and value < 1:
        return f"`max_wallclock_seconds` is {value}, must be at least 1; leave it out for no limit"
    return None


def _about_settings(task: str) -> str:
    """Every knob of a task with its unit."""
    knobs = [
        f"`{row['name']}`" + (f" ({row['unit']})" if row["unit"] else "")
        for row in describe(SETTINGS[task])
    ]
    return (
        f"Knobs; what is not given has its default. `aiida-rm knobs {task}` tells defaults, ranges "
        f"and what they mean. There are {', '.join(knobs)}."
    )


def _define_exit_codes(spec: CalcJobProcessSpec) -> None:
    """1xx engine, 2xx bad input, 3xx bad output, 4xx cut short: a restart may help."""
    again = {"invalidates_cache": True}
    spec.exit_code(
        102,
        "ERROR_ENGINE_NOT_FOUND",
        message="The engine did not start on {computer}: {message}. Install aiida-rm there "
        "(`pip install aiida-rm`), check that `aiida-rm-engine --help` answers after the "
        "prepend text of the code, and that the code's path, or its image, is right.",
        **again,
    )
    spec.exit_code(
        103,
        "ERROR_ENGINE_DIED",
        message="The engine ended without results: {message}. Look into "
        f"`verdi calcjob outputcat PK {files.STDERR}`; run the job again, with more memory or "
        "disk if it was killed.",
        **again,
    )
    spec.exit_code(
        201, "ERROR_BAD_SETTINGS", message="The settings were refused: {message}. Mend them."
    )
    spec.exit_code(
        202, "ERROR_BAD_FRAMES", message="The structures were refused: {message}. Mend them."
    )
    spec.exit_code(
        203,
        "ERROR_BAD_POTENTIAL",
        message="The potential was refused: {message}. Give one that fits the settings and the "
        "elements, or train anew.",
    )
    spec.exit_code(
        204,
        "ERROR_BAD_STATE",
        message="The training state was refused: {message}. Leave `state` out to begin anew.",
    )
    spec.exit_code(
        205,
        "ERROR_SEARCH_IMPOSSIBLE",
        message="No sensible random structure was found: {message}. Give more volume or a smaller "
        "`min_distance`.",
    )
    spec.exit_code(
        303,
        "ERROR_RESULTS_UNREADABLE",
        message=f"{files.RESULTS} cannot be used: {{message}}. Run the job again; check that the "
        "engine on the computer has the version of this plugin.",
        **again,
    )
    spec.exit_code(
        304,
        "ERROR_FRAMES_MISSING",
        message="The structures that the job should have written are missing or not valid: "
        "{message}. Run the job again; check the disk of the computer.",
        **again,
    )
    spec.exit_code(
        305,
        "ERROR_POTENTIAL_MISSING",
        message="The potential that the job should have written is missing or not valid: "
        "{message}. Run the job again; check the disk of the computer.",
        **again,
    )
    spec.exit_code(
        306,
        "ERROR_DISK_FULL",
        message="The results could not be written: {message}. Make room or change the work "
        "directory of the computer, then run the job again.",
        **again,
    )
    spec.exit_code(
        307,
        "ERROR_STATE_MISSING",
        message="The training was cut short and left no valid state: {message}. Run it again with "
        "a longer walltime or a smaller `checkpoint_seconds`.",
        **again,
    )
    spec.exit_code(
        410,
        "ERROR_OUT_OF_MEMORY",
        message="The memory did not suffice: {message}. Ask for more memory, or make smaller what "
        "is in it at once: `batch_atoms` of rm.train and rm.generate, `min_atoms` of rm.perturb.",
        **again,
    )
    spec.exit_code(
        411,
        "ERROR_DIVERGED",
        message="The training diverged: {message}. Make `learning_rate` or `clip_norm` smaller.",
    )


def define_cut_short(spec: CalcJobProcessSpec, *, resumable: bool) -> None:
    """Exit codes of a job that was stopped.

    A segment of a training that left its state is as good from the cache as from the machine;
    any other job that was cut short would give more when it runs again.
    """
    again = {"invalidates_cache": not resumable}
    remedy = (
        "Give the output `state` as input to go on, or let rm.train do so"
        if resumable
        else "Give it a longer `max_wallclock_seconds`, or less to do"
    )
    spec.exit_code(
        400,
        "ERROR_WALLTIME",
        message=f"The job stopped itself before its walltime, {{message}}. {remedy}.",
        **again,
    )
    spec.exit_code(
        403,
        "ERROR_SIGNAL",
        message=f"The job was told to stop by a signal, {{message}}. {remedy}.",
        **again,
    )
    spec.exit_code(
        404,
        "ERROR_KILLED",
        message=f"The job was killed, {{message}}. {remedy}.",
        **again,
    )
