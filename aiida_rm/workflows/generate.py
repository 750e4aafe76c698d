"""rm.generate: one search, shared among jobs by ranges of random starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiida import orm
from aiida.common import AttributeDict
from aiida.engine import ExitCode, ProcessBuilder, ProcessSpec, ToContext, WorkChain, while_

from aiida_rm.calculations.functions import (
    gather_generated,
    settings_of_missing,
    split_generation,
)
from aiida_rm.calculations.generate import GenerateCalculation
from aiida_rm.data.frames import FramesData
from aiida_rm.data.potential import PotentialData
from aiida_rm.engine.search import Knowledge
from aiida_rm.workflows.common import CleaningMixin, call, exit_with, verdict
from aiida_rm.workflows.hardware import Hardware
from aiida_rm.workflows.protocols import ProtocolMixin, for_search, kinds_by, merge, need

MAX_JOBS = 1000
#: Exit status when some structures are missing.
STRUCTURES_MISSING = 701
#: Jobs without a single new structure in a row before the missing ones are given up.
MAX_TRIES = 2
#: Letters of what a job says of why it failed.
MAX_REASON = 500
#: No sensible start was found.
IMPOSSIBLE = 205
#: No engine, bad input and an impossible search end alike however often one tries.
HOPELESS = (102, 201, 202, 203, 204, IMPOSSIBLE)


class GenerateWorkChain(CleaningMixin, ProtocolMixin, WorkChain):
    """Scatter a search over jobs, make again what did not come back, gather what there is."""

    PROTOCOL_FILE = "generate"

    @classmethod
    def define(cls, spec: ProcessSpec) -> None:
        """Inputs of the jobs under `generate`; all structures in one set out."""
        super().define(spec)
        spec.expose_inputs(
            GenerateCalculation,
            namespace="generate",
            namespace_options={
                "help": "Inputs of the jobs (`verdi plugin list aiida.calculations rm.generate`)."
            },
        )
        spec.input(
            "n_jobs",
            valid_type=orm.Int,
            default=lambda: orm.Int(1),
            serializer=orm.to_aiida_type,
            validator=_check_n_jobs,
            help="How many jobs share the random starts; the structures are the same for any.",
        )
        spec.input(
            "max_concurrent",
            valid_type=orm.Int,
            required=False,
            serializer=orm.to_aiida_type,
            validator=_check_max_concurrent,
            help="So many jobs at a time at most; all at once without it.",
        )
        spec.output("frames", valid_type=FramesData, required=False, help="All structures.")
        spec.output_namespace(
            "results", dynamic=True, valid_type=orm.Dict, help="What each job said of its run."
        )
        spec.outline(
            cls.setup,
            while_(cls.should_run_jobs)(cls.run_jobs, cls.inspect_jobs),
            cls.gather,
        )
        spec.exit_code(
            314,
            "ERROR_ALL_JOBS_FAILED",
            message="No job brought any structures; the last one ended with {message}",
        )
        spec.exit_code(
            315, "ERROR_NOT_GATHERED", message="The structures could not be joined: {message}"
        )
        spec.exit_code(
            STRUCTURES_MISSING,
            "WARNING_STRUCTURES_MISSING",
            message="{missing} of {total} structures are missing ({reason}); the others are in the "
            "output `frames`.",
        )

    @classmethod
    def get_builder_from_protocol(
        cls,
        code: orm.AbstractCode,
        potential: PotentialData,
        protocol: str | None = None,
        overrides: Mapping[str, Any] | None = None,
        *,
        mode: str | None = None,
        starts: FramesData | None = None,
        committee: Sequence[PotentialData] | Mapping[str, PotentialData] = (),
        options: Mapping[str, Any] | None = None,
        computer: orm.Computer | None = None,
        gpus: int | None = None,
        nodes: int | None = None,
    ) -> ProcessBuilder:
        """A builder that is ready to run.

        Args:
            code: the engine.
            potential: the potential to relax on; one trained on molecules makes molecules.
            protocol: fast, balanced or stringent; None takes the default.
            overrides: inputs that replace the protocol's.
            mode: random, composition, molecule or seeded; refused where the inputs disagree.
            starts: structures to make the starts of, as 'seeding' says (mode seeded).
            committee: potentials trained like this one but for the seed, which judge hops and
                what comes of them together with it; by name, or named member_01 and so on.
            options: `metadata.options` of every job.
            computer: where a code runs that belongs to no computer.
            gpus: of each machine: as many jobs share the search, one on each GPU
                (docs/setup.md); `options` win.
            nodes: machines.
        """
        need(code, orm.AbstractCode, "code")
        need(potential, PotentialData, "potential")
        header = potential.get_header()
        known = Knowledge.from_notes(header)
        molecules = not header.get("elemental_volumes")
        kinds = kinds_by(known.n_structures, molecules=molecules)
        # The overrides may ask for the other kind, or bring a committee: the stages follow.
        asked = cls.get_protocol_inputs(protocol, overrides, kinds=kinds)["generate"]
        settings = asked["settings"]
        if isinstance(settings, Mapping) and "periodic" in settings:
            molecules = settings["periodic"] is False
        kinds = for_search(
            kinds_by(known.n_structures, molecules=molecules),
            committee=bool(committee or asked.get("committee")),
            environments=bool(known.latent),
        )
        inputs = cls.get_protocol_inputs(protocol, overrides, kinds=kinds)
        inputs = merge(inputs, {"generate": {"potential": potential}})
        if starts is not None:
            need(starts, FramesData, "starts")
            inputs = merge(inputs, {"generate": {"starts": starts}})
        if not isinstance(committee, Mapping):
            need(committee, Sequence, "committee")
            committee = {f"member_{n:02d}": one for n, one in enumerate(committee, start=1)}
        for name, member in committee.items():
            need(member, PotentialData, f"committee.{name}")
            inputs = merge(inputs, {"generate": {"committee": {name: member}}})
        if mode is not None:
            inputs = merge(inputs, {"generate": {"settings": {"mode": mode}}})
        hardware = Hardware(code, computer, gpus, nodes)
        inputs = hardware.share(hardware.on_gpu(inputs, ("generate",)))
        asked = {"generate": hardware.of_generation()}
        return cls._build(code, inputs, options, computer, asked)

    def setup(self) -> ExitCode | None:
        """Share the random starts among the jobs."""
        inputs = AttributeDict(self.exposed_inputs(GenerateCalculation, "generate"))
        self.ctx.inputs = inputs
        self.ctx.tries = {}
        self.ctx.runs = {}
        self.ctx.done = {}
        self.ctx.launched = []
        self.ctx.failed = {}
        self.ctx.why = ""
        total = GenerateCalculation.settings_of(inputs).n_structures
        self.ctx.total = total
        jobs = self.inputs.n_jobs.value
        if jobs == 1:
            self.ctx.settings = {"job_000": inputs.settings}
        else:
            settings, node = call(split_generation, inputs.settings, self.inputs.n_jobs)
            if not node.is_finished_ok:
                return exit_with(self, "ERROR_ALL_JOBS_FAILED", message=node.exit_message)
            self.ctx.settings = dict(settings)
        self.ctx.missing = dict(self.ctx.settings)
        self.ctx.waiting = sorted(self.ctx.settings)
        self.report(f"{total} starts in {len(self.ctx.settings)} jobs")
        return None

    def should_run_jobs(self) -> bool:
        """Whether a job waits, for the first time or for what is missing."""
        return bool(self.ctx.waiting)

    def run_jobs(self) -> Any:
        """Submit as many of the waiting jobs as may run together."""
        given = self.inputs.get("max_concurrent")
        limit = given.value if given is not None else len(self.ctx.waiting)
        self.ctx.launched = self.ctx.waiting[:limit]
        self.ctx.waiting = self.ctx.waiting[limit:]
        launched = {}
        for key in self.ctx.launched:
            self.ctx.runs[key] = self.ctx.runs.get(key, 0) + 1
            inputs = AttributeDict(self.ctx.inputs)
            inputs.settings = self.ctx.missing[key]
            inputs.metadata = {**inputs.metadata, "call_link_label": self._run_of(key)}
            node = self.submit(GenerateCalculation, **inputs)
            self.report(f"{self._run_of(key)}: submitted as <{node.pk}>")
            launched[key] = node
        return ToContext(**launched)

    def inspect_jobs(self) -> None:
        """Keep what came back; what did not waits for another job, unless that is no use."""
        for key in self.ctx.launched:
            node = self.ctx[key]
            name = f"{self._run_of(key)} <{node.pk}>"
            said = verdict(node)
            progress = "frames" in node.outputs
            if progress:
                self.ctx.done[self._run_of(key)] = node.outputs.frames
                if "results" in node.outputs:
                    self.out(f"results.{self._run_of(key)}", node.outputs.results)
                    why = node.outputs.results.get_dict()["summary"].get("why_impossible")
                    if isinstance(why, str):  # it is foreign
                        self.ctx.why = why[:MAX_REASON] or self.ctx.why
            if node.is_finished_ok:
                continue
            if self.ctx.runs[key] > 1 and node.exit_status == IMPOSSIBLE:
                # What an earlier job had no time to say.
                self.ctx.why = node.exit_message
                continue
            self.ctx.tries[key] = 0 if progress else self.ctx.tries.get(key, 0) + 1
            if (
                not node.is_finished
                or node.exit_status in HOPELESS
                or self.ctx.tries[key] >= MAX_TRIES
            ):
                self.ctx.failed[key] = said
                self.report(f"{name} ended with {said}; going on without it")
            elif not progress:
                self.report(f"{name} ended with {said}; running it once more")
                self.ctx.waiting.append(key)
            else:
                self._queue_missing(key, name, said)

    def _queue_missing(self, key: str, name: str, said: str) -> None:
        """Have another job make what this one and those before it did not."""
        found = {run: frames for run, frames in self.ctx.done.items() if run.startswith(key)}
        count = sum(len(frames) for frames in found.values())
        wanted = GenerateCalculation.settings_of({"settings": self.ctx.settings[key]}).n_structures
        if count == wanted:
            self.report(f"{name} ended with {said}; all its structures are there")
            return
        settings, made = call(settings_of_missing, self.ctx.settings[key], **found)
        if not made.is_finished_ok:
            self.ctx.failed[key] = said
            self.report(f"{name} ended with {said}, and {made.exit_message}")
            return
        self.ctx.missing[key] = settings
        self.ctx.waiting.append(key)
        self.report(f"{name} ended with {said}; {wanted - count} of {wanted} are still to be made")

    def _run_of(self, key: str) -> str:
        """The name of the last run of a job: its key, then with a number."""
        number = self.ctx.runs[key]
        return key if number == 1 else f"{key}_run_{number:03d}"

    def gather(self) -> ExitCode | None:
        """Join the structures, and say how many are missing."""
        done = self.ctx.done
        if not done:
            message = next(reversed(self.ctx.failed.values()), self.ctx.why)
            return exit_with(self, "ERROR_ALL_JOBS_FAILED", message=message)
        if len(done) == 1:
            frames = next(iter(done.values()))
        else:
            frames, node = call(gather_generated, **done)
            if not node.is_finished_ok:
                message = node.exit_message
                return exit_with(self, "ERROR_NOT_GATHERED", message=message)
        self.out("frames", frames)
        missing = self.ctx.total - len(frames)
        if missing > 0:
            failed = ", ".join(sorted(self.ctx.failed))
            impossible = f"no sensible start was found ({self.ctx.why})"
            reason = f"failed: {failed}" if failed else impossible
            self.report(f"{missing} of {self.ctx.total} structures are missing: {reason}")
            return exit_with(
                self,
                "WARNING_STRUCTURES_MISSING",
                missing=missing,
                total=self.ctx.total,
                reason=reason,
            )
        self.report(f"all {self.ctx.total} structures are there")
        return None


def _check_n_jobs(value: orm.Int, _: Any) -> str | None:
    if not 1 <= value.value <= MAX_JOBS:
        return f"`n_jobs` is {value.value}, must be between 1 and {MAX_JOBS}"
    return None


def _check_max_concurrent(value: orm.Int | None, _: Any) -> str | None:
    if value is not None and value.value < 1:
        return f"`max_concurrent` is {value.value}, must be at least 1"
    return None
