"""rm.train: a training that goes on until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import (
    BaseRestartWorkChain,
    ExitCode,
    ProcessBuilder,
    ProcessHandlerReport,
    ProcessSpec,
    process_handler,
    while_,
)

from aiida_rm.calculations.train import TrainCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.monitors import EXPLODING, SILENT, UNUSED, ended_by
from aiida_rm.workflows.common import call, exit_with, unlucky, verdict
from aiida_rm.workflows.functions import (
    with_half_learning_rate,
    with_more_workers,
    with_twice_the_parts,
)
from aiida_rm.workflows.hardware import Hardware
from aiida_rm.workflows.protocols import ProtocolMixin, given, kinds_of, merge, need

#: The job was cut short (400 walltime, 403 signal, 404 killed; 110, 120, 140 by the scheduler).
CUT_SHORT = (400, 403, 404)
SCHEDULER_STOPS = (110, 120, 140)
OUT_OF_MEMORY = (410, 110)
#: It ended in time, but its state did not come back whole.
STATE_MISSING = 307
DIVERGED = (411,)
MAX_HALVINGS = 2
#: Workers were doubled so often: a GPU that still waits is left to it.
MAX_DOUBLINGS = 2


class TrainWorkChain(ProtocolMixin, BaseRestartWorkChain):
    """Train, going on after each walltime; what made progress is no iteration that counts."""

    PROTOCOL_FILE = "train"
    _process_class = TrainCalculation

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Inputs of the job under `train`; outputs of the last segment."""
        super().define(spec)
        spec.expose_inputs(
            TrainCalculation,
            namespace="train",
            namespace_options={
                "help": "Inputs of the job (`verdi plugin list aiida.calculations rm.train`)."
            },
        )
        spec.expose_outputs(
            TrainCalculation,
            include=("results", "potential", "state", "learning_curves", "validation"),
        )
        spec.outline(
            cls.setup,
            while_(cls.should_run_process)(cls.run_process, cls.inspect_process),
            cls.results,
        )
        spec.exit_code(
            310,
            "ERROR_NO_PROGRESS",
            message="Two segments of the training ended at the same step, {step}: the walltime is "
            "too short, or the engine hangs. Give a longer `max_wallclock_seconds`; the output "
            "`state` can be given as `train.state` to go on.",
        )
        spec.exit_code(
            311,
            "ERROR_JOB_FAILED",
            message="The training job <{pk}> ended with [{status}] {message}",
        )
        spec.exit_code(
            312,
            "ERROR_DIVERGED",
            message="The training diverged again after its learning rate was halved {count} times. "
            "Look at the data, or make 'learning_rate' and 'clip_norm' smaller.",
        )
        spec.exit_code(
            313,
            "ERROR_OUT_OF_MEMORY",
            message="The training did not fit into the memory: {message}",
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        frames: FramesData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        options: Mapping[str, Any] | None = None,
        potential: PotentialData | None = None,
        computer: orm.Computer | None = None,
        gpus: int | None = None,
        nodes: int | None = None,
    ) -> ProcessBuilder:
        """A builder that is ready to run.

        Args:
            code: the engine.
            frames: perturbed structures, the output of rm.perturb.
            protocol: fast, balanced or stringent; None takes the default.
            overrides: inputs that replace the protocol's.
            options: `metadata.options` of the job.
            potential: begin with its weights.
            computer: where a code runs that belongs to no computer.
            gpus: of each machine, one process on each (docs/setup.md); `options` win.
            nodes: machines.
        """
        need(frames, FramesData, "frames")
        need(code, orm.AbstractCode, "code")
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds_of(frames))
        inputs = merge(inputs, {"train": given(frames=frames, potential=potential)})
        hardware = Hardware(code, computer, gpus, nodes)
        inputs = hardware.on_gpu(inputs, ("train",))
        asked = {"train": hardware.of_training()}
        return cls._build(code, inputs, options, computer, asked)

    def setup(self) -> None:
        """Begin with the inputs as they are."""
        super().setup()
        self.ctx.inputs = AttributeDict(self.exposed_inputs(TrainCalculation, "train"))
        self.ctx.segments = []
        self.ctx.halvings = 0
        self.ctx.doublings = 0
        self.ctx.unlucky = False

    def run_process(self) -> Any:
        """Run the next segment, counted among all jobs for its link and the report."""
        counted = self.ctx.iteration
        self.ctx.iteration = counted + len(self.ctx.segments)
        waiting = super().run_process()
        self.ctx.iteration = counted + 1
        return waiting

    def inspect_process(self) -> ExitCode | None:
        """Let the handlers look at the job; keep its outputs whatever they decide."""
        node = self.ctx.children[self.ctx.iteration - 1]
        self._last_word: ExitCode | None = None
        exit_code: ExitCode | None = super().inspect_process()
        if exit_code is not None and exit_code.status:
            # AiiDA would say only that there were too many iterations, if this was the last one.
            exit_code = self._last_word or exit_code
            self._attach_outputs(node)
            if "state" not in node.outputs and "state" in self.ctx.inputs:
                self.out("state", self.ctx.inputs.state)
        return exit_code

    @process_handler(priority=500)
    def handle_cut_short(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Go on from the state of a segment that was cut short."""
        short = node.exit_status in (*CUT_SHORT, *SCHEDULER_STOPS) or ended_by(node, SILENT)
        if not short or "state" not in node.outputs or node.exit_status in OUT_OF_MEMORY:
            return None
        state = node.outputs.state
        before = self.ctx.inputs.get("state")
        if before is not None and state.step <= before.step:
            self.report(f"{_name(node)} made no progress beyond step {state.step}; stopping")
            return self._stop(exit_with(self, "ERROR_NO_PROGRESS", step=state.step))
        self.ctx.inputs.state = state
        self.ctx.unlucky = False  # long trainings meet bad luck more than once
        self._do_not_count()
        self.report(
            f"{_name(node)} was cut short{_monitor(node)} at epoch {state.epoch}, "
            f"step {state.step}; going on there"
        )
        return ProcessHandlerReport(True)

    @process_handler(priority=450)
    def handle_walltime_without_state(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """The walltime did not suffice for a single checkpoint: more of the same is no use."""
        if node.exit_status not in (120, STATE_MISSING) or "state" in node.outputs:
            return None
        if node.exit_status == STATE_MISSING and not self.ctx.unlucky:
            return None  # it was written, and damaged since
        before = self.ctx.inputs.get("state")
        step = before.step if before is not None else 0
        self.report(f"{_name(node)} left no state; stopping")
        return self._stop(exit_with(self, "ERROR_NO_PROGRESS", step=step))

    @process_handler(priority=400)
    def handle_out_of_memory(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Sum each batch in twice as many parts, from the last state on if there is one."""
        if node.exit_status not in OUT_OF_MEMORY:
            return None
        settings, made = call(with_twice_the_parts, self.ctx.inputs.settings)
        if not made.is_finished_ok:
            self.report(f"{_name(node)} ran out of memory with the smallest parts; stopping")
            code = exit_with(self, "ERROR_OUT_OF_MEMORY", message=made.exit_message)
            return self._stop(code)
        # Should this have been the last try.
        self._last_word = exit_with(self, "ERROR_OUT_OF_MEMORY", message=node.exit_message)
        self.ctx.inputs.settings = settings
        if "state" in node.outputs:
            self.ctx.inputs.state = node.outputs.state
        self.report(
            f"{_name(node)} ran out of memory; going on with each batch summed in "
            f"{settings['batch_parts']} parts, which takes the same steps"
        )
        return ProcessHandlerReport(True)

    @process_handler(priority=395)
    def handle_gpu_unused(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """More workers make the batches, from the last state on; twice, then it may wait."""
        if not ended_by(node, UNUSED):
            return None
        if "state" in node.outputs:
            self.ctx.inputs.state = node.outputs.state
        if self.ctx.doublings < MAX_DOUBLINGS:
            self.ctx.doublings += 1
            self.ctx.inputs.settings, _ = call(with_more_workers, self.ctx.inputs.settings)
            remedy = f"with {self.ctx.inputs.settings['workers']} workers"
        else:
            monitors = self.ctx.inputs.monitors
            self.ctx.inputs.monitors = AttributeDict(
                {k: v for k, v in monitors.items() if v["entry_point"] != "rm.gpu_unused"}
            )
            remedy = "without this monitor"
        self._do_not_count()
        self.report(f"{_name(node)} ended{_monitor(node)}; going on {remedy}")
        return ProcessHandlerReport(True)

    @process_handler(priority=390)
    def handle_diverged(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Halve the learning rate, twice at most, and begin again."""
        if node.exit_status not in DIVERGED and not ended_by(node, EXPLODING):
            return None
        if self.ctx.halvings >= MAX_HALVINGS:
            self.report(f"{_name(node)} diverged again; stopping")
            code = exit_with(self, "ERROR_DIVERGED", count=self.ctx.halvings)
            return self._stop(code)
        settings, _ = call(with_half_learning_rate, self.ctx.inputs.settings)
        self.ctx.halvings += 1
        self._begin_again_with(settings)
        self.report(
            f"{_name(node)} diverged{_monitor(node)}; beginning again with a 'learning_rate' of "
            f"{settings['learning_rate']:g}, which changes the result"
        )
        return ProcessHandlerReport(True)

    @process_handler(priority=300)
    def handle_unlucky(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Outputs are missing and nobody knows why: run the same again, once without progress."""
        lost = node.exit_status == STATE_MISSING or ended_by(node, SILENT)
        if not (unlucky(node) or lost) or self.ctx.unlucky:
            return None
        self.ctx.unlucky = True
        self.report(f"{_name(node)} ended with {verdict(node)}; running it once more")
        return ProcessHandlerReport(True)

    @process_handler(priority=0)
    def handle_failure(self, node: orm.CalcJobNode) -> ProcessHandlerReport | None:
        """Everything else is for the user; hand on what the job said."""
        if node.is_finished_ok:
            return None
        self.report(f"{_name(node)} ended with {verdict(node)}; nothing here can mend that")
        code = exit_with(
            self,
            "ERROR_JOB_FAILED",
            pk=node.pk,
            status=node.exit_status,
            message=node.exit_message,
        )
        return self._stop(code)

    def _stop(self, code: ExitCode) -> ProcessHandlerReport:
        """Nothing more can be done; this is why."""
        self._last_word = code
        return ProcessHandlerReport(True, code)

    def _do_not_count(self) -> None:
        """Take the last segment off the count that AiiDA compares with `max_iterations`."""
        self.ctx.segments.append(self.ctx.children.pop())
        self.ctx.iteration -= 1

    def _begin_again_with(self, settings: orm.Dict) -> None:
        """Other settings: a state belongs to the settings it came from, so it goes."""
        self.ctx.inputs.settings = settings
        if self.ctx.inputs.pop("state", None) is not None:
            self.report("the state belongs to the former settings and is left out")


def _name(node: orm.CalcJobNode) -> str:
    return f"the training job <{node.pk}>"


def _monitor(node: orm.CalcJobNode) -> str:
    """What a monitor said of a job that it ended, in brackets."""
    ended = any(ended_by(node, why) for why in (EXPLODING, SILENT, UNUSED))
    return f" ({node.exit_message})" if ended else ""
