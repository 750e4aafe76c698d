"""What a run will cost, from earlier runs on the same computer, or from the benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiida import orm

from aiida_rm.cli.output import counted
from aiida_rm.cli.plan import settings_of

#: Atoms a second on one core of a Xeon (docs/benchmarks.md): trained on, by network; relaxed, and
#: relaxed by basin hopping.
_TRAINED = {"local": 10_000.0, "equivariant": 6_000.0}
_RELAXED, _HOPPED = 100.0, 15.0
_BENCHMARKS = "one core, docs/benchmarks.md"
#: Runs that are asked for their speed.
_RUNS = 5
#: A shorter job, in seconds, is mostly the start of its program and tells no speed.
_SHORT = 60.0


@dataclass(frozen=True)
class Cost:
    """One stage.

    Attributes:
        stage: its name.
        work: what is to be done, in words.
        seconds: of one job after the other; None where nothing like it ran here.
        source: where the speed comes from.
    """

    stage: str
    work: str
    seconds: float | None
    source: str


def estimate(kind: str, inputs: Mapping[str, Any]) -> list[Cost]:
    """The stages of a run, each for all rounds together.

    Args:
        kind: train, generate, validate or loop.
        inputs: of the builder.
    """
    rounds = int(_value(inputs.get("rounds"), 1)) if kind == "loop" else 1
    members = int(_value(inputs.get("committee_size"), 0)) if kind == "loop" else 0
    costs: list[Cost] = []
    frames = _sets(kind, inputs)
    if kind == "loop":
        copies = settings_of(inputs, "perturb").samples
        work = f"{copies} copies of {counted(len(frames), 'structure')}"
        costs.append(_plain_cost("perturb", work, copies, rounds))
    if kind in ("train", "loop"):
        costs.append(_training(kind, inputs, frames, rounds, members))
    if kind in ("generate", "loop"):
        costs.append(_search(inputs, rounds))
    if kind in ("validate", "loop"):
        settings = settings_of(inputs, "generate")
        count = settings.n_structures if kind == "loop" else len(frames)
        costs.append(_plain_cost("score", counted(count, "structure"), count, rounds))
        judges = _table(inputs, "validate" if kind == "loop" else None).get("referees") or {}
        for name in judges:
            limit = int(_value(_table(inputs, "validate").get("max_judged"), 20))
            work = f"{limit} structures at most{_times(rounds)}"
            costs.append(Cost(f"referee {name}", work, None, "not known"))
    return costs


def most_hours(inputs: Mapping[str, Any]) -> float | None:
    """Core hours that one training job may take at most, by its options; None without a limit."""
    options = _table(inputs, "train", "train", "metadata", "options") or _table(
        inputs, "train", "metadata", "options"
    )
    limit = options.get("max_wallclock_seconds")
    if not limit:
        return None
    resources = options.get("resources") or {}
    processes = resources.get("num_machines", 1) * resources.get("num_mpiprocs_per_machine", 1)
    cores = resources.get("num_cores_per_mpiproc", 1)
    return float(limit * processes * cores) / 3600


def _training(kind: str, inputs: Any, frames: Any, rounds: int, members: int) -> Cost:
    settings = settings_of(inputs, "train")
    per = frames.n_atoms / max(len(frames), 1)
    copies = len(frames)
    fresh = kind == "train" and settings.draw == "fresh"
    if kind == "loop" or fresh:
        # Each epoch of a training that draws afresh makes so many copies.
        perturb = settings.recipe if fresh else settings_of(inputs, "perturb")
        copies = max(perturb.samples, len(frames))
        if frames.pbc_kind != "molecule":
            per = max(per, perturb.min_atoms)
    atoms = copies * per * settings.epochs * rounds * (1 + members)
    speed, source = _speed("rm.train", _trained_atoms, settings.architecture)
    if speed is None:
        speed, source = _TRAINED[settings.architecture], _BENCHMARKS
    potentials = f", {1 + members} potentials" if members else ""
    work = f"{settings.epochs} epochs of {copies} structures{potentials}{_times(rounds)}"
    return Cost("train", work, atoms / speed, source)


def _search(inputs: Any, rounds: int) -> Cost:
    settings = settings_of(inputs, "generate")
    sizes = settings.atoms_range or settings.n_atoms or (10,)
    per = sum(sizes) / len(sizes)
    atoms = settings.n_structures * per * rounds
    speed, source = _speed("rm.generate", _relaxed_atoms, None)
    if speed is None:
        hops = any(stage.kind == "hop" for stage in settings.stages)
        speed, source = (_HOPPED if hops else _RELAXED), _BENCHMARKS
    jobs = int(_value(_table(inputs, "generate").get("n_jobs") or inputs.get("n_jobs"), 1))
    shared = f" in {jobs} jobs" if jobs > 1 else ""
    work = f"{settings.n_structures} starts{shared}{_times(rounds)}"
    return Cost("generate", work, atoms / speed, source)


def _plain_cost(stage: str, work: str, count: int, rounds: int) -> Cost:
    """Of a stage that is small as a rule; known only where it ran before."""
    speed, source = _speed(f"rm.{stage}", _counted, None)
    seconds = None if speed is None else count * rounds / speed
    return Cost(stage, f"{work}{_times(rounds)}", seconds, source if speed else "small")


def _speed(process: str, measure: Any, like: str | None) -> tuple[float | None, str]:
    """Items a second of the last jobs of this kind, the median; and how many they were."""
    query = orm.QueryBuilder()
    query.append(
        orm.CalcJobNode,
        filters={"process_type": f"aiida.calculations:{process}", "attributes.exit_status": 0},
    )
    query.order_by({orm.CalcJobNode: {"ctime": "desc"}}).limit(_RUNS)
    speeds = sorted(found for node in query.all(flat=True) if (found := measure(node, like)))
    if not speeds:
        return None, ""
    return speeds[len(speeds) // 2], f"{len(speeds)} earlier runs in this profile"


def _trained_atoms(node: Any, architecture: str | None) -> float | None:
    seconds, summary = _told(node)
    if "potential" not in node.outputs or node.outputs.potential.architecture != architecture:
        return None
    atoms = int(node.inputs.frames.n_atoms) * int(summary.get("epochs") or 0)
    return atoms / seconds if seconds and atoms else None


def _relaxed_atoms(node: Any, _: str | None) -> float | None:
    seconds, _summary = _told(node)
    return None if seconds is None else int(node.outputs.frames.n_atoms) / seconds


def _counted(node: Any, _: str | None) -> float | None:
    seconds, _summary = _told(node)
    return None if seconds is None else len(node.outputs.frames) / seconds


def _told(node: Any) -> tuple[float | None, dict[str, Any]]:
    """Seconds of a job that was long enough to tell a speed, and its summary."""
    told: dict[str, Any] = node.outputs.results.get_dict() if "results" in node.outputs else {}
    seconds = float(told.get("wall_seconds") or 0.0)
    return (seconds if seconds >= _SHORT else None), told.get("summary") or {}


def _sets(kind: str, inputs: Mapping[str, Any]) -> Any:
    """The structures that a run begins with."""
    if kind == "loop":
        return inputs["dataset"]
    place = {"train": "train", "validate": "score"}.get(kind)
    return inputs[place]["frames"] if place else None


def _table(inputs: Mapping[str, Any], *path: str | None) -> Mapping[str, Any]:
    table: Any = inputs
    for name in path:
        if name is not None:
            table = table.get(name) or {}
    return table if isinstance(table, Mapping) else {}


def _value(value: Any, default: Any) -> Any:
    return default if value is None else getattr(value, "value", value)


def _times(rounds: int) -> str:
    return f", {rounds} rounds" if rounds > 1 else ""
