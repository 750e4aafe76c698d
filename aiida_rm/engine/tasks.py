"""The tasks, each from the files of a job's folder to the files it leaves there."""

from __future__ import annotations

import filecmp
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING, Any

from aiida_rm.engine import files
from aiida_rm.engine.committee import Committee
from aiida_rm.engine.errors import OutOfMemoryError, PotentialError, SettingsError
from aiida_rm.engine.frames import Frames
from aiida_rm.engine.job import Job
from aiida_rm.engine.parts import Parts
from aiida_rm.engine.settings import (
    GenerateSettings,
    PerturbSettings,
    RelaxSettings,
    ScoreSettings,
    TrainSettings,
)
from aiida_rm.engine.ticker import Ticker

if TYPE_CHECKING:
    from aiida_rm.engine.potential import Potential

#: Share of the walltime after which the starts relax no further if a committee is to judge them:
#: it takes one call of each potential, where a relaxation takes hundreds.
_RELAXING = 0.95


@dataclass(frozen=True)
class Outcome:
    """How a task ended, and what it has to say."""

    stop_reason: str = "completed"
    summary: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> str:
        """``finished``, or ``stopped`` before its time."""
        return "finished" if self.stop_reason in ("completed", "early_stopping") else "stopped"


def run_perturb(job: Job) -> Outcome:
    """input_frames -> output_frames with targets."""
    from aiida_rm.engine.response import perturb

    assert isinstance(job.settings, PerturbSettings)
    use_threads(1)
    frames = Frames.load(job.path(files.INPUT_FRAMES))
    ticker = Ticker(job, "perturbing")

    def on_copies(done: int, total: int) -> None:
        ticker.count(done, total)
        if done < total:
            job.check_stop()

    perturbed = perturb(frames, job.settings, on_copies)
    perturbed.save(job.path(files.OUTPUT_FRAMES))
    return Outcome(
        summary={
            "n_structures": len(perturbed),
            "n_atoms": perturbed.n_atoms,
            "elements": list(perturbed.elements),
        }
    )


def run_train(job: Job) -> Outcome:
    """input_frames -> potential, output_frames; a training state while under way or cut short.

    The frames carry targets, or they are stable where 'draw' is 'fresh'.
    """
    from aiida_rm.engine.potential import Potential
    from aiida_rm.engine.training.trainer import Trainer

    assert isinstance(job.settings, TrainSettings)
    use_threads(job.settings.threads)
    team = job.team
    team.join(job.settings.device)
    state = job.state_to_go_on_from()
    frames = Frames.load(job.path(files.INPUT_FRAMES))
    initial = job.optional(files.INPUT_POTENTIAL)
    trainer = Trainer(frames, job.settings, Potential.load(initial) if initial else None, team)
    if state:
        trainer.restore(state)
        for line in trainer.progress.history:
            job.metric(line)
        job.say(f"resumed after {trainer.progress.epoch} epochs")

    def on_epoch(metrics: Mapping[str, float]) -> None:
        job.metric(metrics)
        job.say(
            f"epoch {metrics['epoch']:.0f} of {metrics['epochs']:.0f}: "
            f"loss {metrics['loss']:.4g}, validation {metrics['validation_loss']:.4g}, "
            f"forces {metrics['force_error']:.3f}, stress {metrics['stress_error']:.3f}, "
            f"{metrics['structures_per_second']:.1f} structures/s, "
            f"clipped {metrics['clipped']:.0%}, waiting {metrics['waiting']:.0%}"
        )

    checkpoint = job.path(files.OUTPUT_STATE)
    outcome = trainer.run(job.should_stop, on_epoch, checkpoint, job.say)
    if team.leads:
        outcome.potential.save(job.path(files.OUTPUT_POTENTIAL))
        if outcome.finished:
            checkpoint.unlink(missing_ok=True)
            job.path(files.PREVIOUS_STATE).unlink(missing_ok=True)
            if (validation := trainer.held_out(outcome.potential)) is not None:
                validation.save(job.path(files.OUTPUT_FRAMES))
    team.leave()
    progress = outcome.progress
    job.say(f"gradients clipped in {progress.clipped:.1%} of the steps")
    best = progress.history[progress.best_epoch - 1] if progress.best_epoch else {}
    return Outcome(
        outcome.stop_reason,
        {
            "epochs": progress.epoch,
            "steps": progress.step,
            "best_epoch": progress.best_epoch,
            "rescues": progress.rescues,
            "n_parameters": outcome.potential.n_parameters,
            "elements": list(outcome.potential.elements),
            "clipped": progress.clipped,
            "waiting": progress.waiting,
            "processes": team.size,
            "loss": progress.history[-1]["loss"] if progress.history else None,
            "validation": {
                key: best.get(key)
                for key in ("force_error", "stress_error", "force_rmse", "stress_rmse")
            },
        },
    )


def run_generate(job: Job) -> Outcome:
    """input_potential [, input_frames, input_committee] -> output_frames: starts, relaxed.

    What is finished lies in finished_frames until the whole is in output_frames.
    """
    from aiida_rm.engine.latent import latent_labels
    from aiida_rm.engine.search import Knowledge

    s = job.settings
    assert isinstance(s, GenerateSettings)
    use_threads(s.threads)
    potential, members = _load_potentials(job, s)
    starts, impossible = _make_starts(job, s, potential)
    knowledge = Knowledge.from_notes(potential.notes)
    committee = Committee(job, s, [potential, *members]) if members else None

    def finish(frames: Frames) -> Frames:
        percents = knowledge.energy_percentile(frames.structure["energy_per_atom"])
        latent = latent_labels(
            frames,
            [potential, *members],
            s.ranking_weight,
            batch_atoms=s.batch_atoms,
            batch_edges=s.batch_edges,
        )
        frames = frames.with_labels(structure={"energy_percentile": percents, **latent})
        return committee.judge(frames) if committee else frames

    parts = Parts(job.path(files.FINISHED_FRAMES), s.checkpoint_seconds, finish)
    found, summary = _relax(job, s, starts, potential, members, parts)
    if committee and found is not None:
        summary["committee"] = committee.summary(found)
    if found is not None:
        found.save(job.path(files.OUTPUT_FRAMES))
    parts.remove()
    count = 0 if found is None else len(found)
    reason = "completed" if count == len(starts) else job.should_stop(_RELAXING) or "completed"
    return Outcome(reason, {"n_structures": count, **impossible, **summary})


def _load_potentials(job: Job, s: GenerateSettings) -> tuple[Potential, list[Potential]]:
    """The potential to relax on, and the other members of the committee."""
    import torch

    from aiida_rm.engine.device import pick_device
    from aiida_rm.engine.potential import Potential
    from aiida_rm.engine.search import check_committee

    dtype, device = getattr(torch, s.dtype), pick_device(s.device)
    potential = Potential.load(job.path(files.INPUT_POTENTIAL), dtype=dtype, device=device)
    folder = job.optional(files.INPUT_COMMITTEE)
    paths = sorted(folder.glob("*.safetensors")) if folder else []
    if folder and not paths:
        raise PotentialError(
            f"'{folder.name}' holds no potential; put files *.safetensors there, or remove it"
        )
    for one, other in combinations([job.path(files.INPUT_POTENTIAL), *paths], 2):
        if filecmp.cmp(one, other, shallow=False):
            raise PotentialError(
                f"'{other.name}' is the same as '{one.name}' and can only agree with it; train it "
                "with another seed, or remove it"
            )
    members = [Potential.load(path, dtype=dtype, device=device) for path in paths]
    elements = {path.stem: one.elements for path, one in zip(paths, members, strict=True)}
    check_committee(potential.elements, elements)
    return potential, members


def _make_starts(
    job: Job, s: GenerateSettings, potential: Potential
) -> tuple[Frames, dict[str, Any]]:
    """The starts, and what the summary says of those that cannot be."""
    from aiida_rm.engine.search import check_search, make_starts

    path = job.optional(files.INPUT_FRAMES)
    given = Frames.load(path) if path else None
    check_search(s, potential.elements, potential.notes, given)
    starts, refused = make_starts(s.all_indices, s, potential.notes, given)
    why = next(iter(refused.values()), None)
    return starts, {"impossible": list(refused), "why_impossible": why}


def _relax(
    job: Job,
    s: GenerateSettings,
    starts: Frames,
    potential: Potential,
    members: list[Potential],
    parts: Parts,
) -> tuple[Frames | None, dict[str, Any]]:
    """What finished in time, and its part of the summary."""
    from aiida_rm.engine.relaxation import (
        CONVERGED,
        EXPLODED,
        NO_MEMORY,
        OUT_OF_STEPS,
        RelaxStatus,
        load_penalty,
        relax,
    )

    penalty = None
    if s.penalty:
        penalty = load_penalty(s.penalty, s.penalty_weight, s.penalty_arguments)
    ticker = Ticker(job, "relaxing")
    calls = halved = 0

    def on_step(status: RelaxStatus) -> None:
        nonlocal calls, halved
        if status.batch_halved > halved:
            job.say("the memory ran out: the batch is halved")
        calls, halved = status.force_calls, status.batch_halved
        ticker.count(status.finished, status.total, converged=status.converged, steps=calls)

    share = _RELAXING if members else 1.0
    began = time.monotonic()
    rest = relax(
        starts,
        potential,
        s.stages,
        batch_atoms=s.batch_atoms,
        batch_edges=s.batch_edges,
        skin=s.skin,
        penalty=penalty,
        floor=s.floor,
        members=members,
        should_stop=partial(job.should_stop, share),
        on_step=on_step,
        parts=parts,
    )
    parts.add(rest, last=True)
    found = parts.joined()
    seconds = time.monotonic() - began
    ticker.count(0 if found is None else len(found), len(starts), last=True, steps=calls)
    if found is None:
        return None, {}
    status = found.structure["status"]
    return found, {
        "converged": int((status == CONVERGED).sum()),
        "unconverged": int((status == OUT_OF_STEPS).sum()),
        "exploded": int((status == EXPLODED).sum()),
        "too_large": int((status == NO_MEMORY).sum()),
        "force_calls": calls,
        "batch_halved": halved,
        "structures_per_second": len(found) / max(seconds, 1e-9),
    }


def run_score(job: Job) -> Outcome:
    """input_frames [and reference_, known_, null_frames] -> output_frames with verdicts."""
    from aiida_rm.engine.scoring.task import score

    assert isinstance(job.settings, ScoreSettings)

    def load(name: str) -> Frames | None:
        path = job.optional(name)
        return Frames.load(path) if path else None

    frames = Frames.load(job.path(files.INPUT_FRAMES))
    references, known = load(files.REFERENCE_FRAMES), load(files.KNOWN_FRAMES)
    null = load(files.NULL_FRAMES)
    if null is not None and known is None:
        raise SettingsError(
            f"'{files.NULL_FRAMES}' says what chance finds of the known structures; put these into "
            f"'{files.KNOWN_FRAMES}', or remove it"
        )

    def on_piece(line: Mapping[str, Any]) -> None:
        job.metric(line)
        job.check_stop()

    try:
        scored, summary = score(frames, job.settings, references, known, on_piece, null)
    except (OutOfMemoryError, KeyboardInterrupt):
        # A signal to the whole group (Ctrl-C, core.direct) ends the processes of the pool, too.
        job.check_stop()
        raise
    scored.save(job.path(files.OUTPUT_FRAMES))
    return Outcome(summary=summary)


def run_relax(job: Job) -> Outcome:
    """input_frames -> output_frames with energies and verdicts of an ASE calculator."""
    try:
        from aiida_rm.engine.ase_relaxation import judge
    except ImportError as error:
        raise SettingsError(
            f"the task 'relax' needs ase ({error}); `pip install ase` where the engine runs"
        ) from error

    assert isinstance(job.settings, RelaxSettings)
    use_threads(job.settings.threads)
    frames = Frames.load(job.path(files.INPUT_FRAMES))
    ticker = Ticker(job, "judging")
    judged, reason = judge(frames, job.settings, job.should_stop, ticker.count)
    judged.save(job.path(files.OUTPUT_FRAMES))
    good = int((judged.structure["verdict"] == "converged").sum())
    return Outcome(
        reason or "completed",
        {"n_structures": len(judged), "converged": good, "failed": len(judged) - good},
    )


def run_doctor(job: Job) -> Outcome:
    """Nothing in, nothing out but a summary: what the engine finds on this machine."""
    from aiida_rm.engine.doctor import examine

    return Outcome(summary=examine(job.folder))


RUNNERS = {
    "perturb": run_perturb,
    "train": run_train,
    "generate": run_generate,
    "score": run_score,
    "relax": run_relax,
    "doctor": run_doctor,
}


def use_threads(count: int) -> None:
    """Tell torch how many threads to use; 0 leaves its own choice."""
    if count:
        import torch

        torch.set_num_threads(count)
