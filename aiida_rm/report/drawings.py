"""The charts of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aiida_rm.data.frames import FramesData
from aiida_rm.engine.frames import Frames
from aiida_rm.report.candidates import Candidate, accepted_rows
from aiida_rm.report.charts import BARS, POINTS, STEPS, Chart, Series
from aiida_rm.report.figures import radial_distribution
from aiida_rm.report.run import Round, Run

#: Points of one chart, at most: a browser must not be slow.
_MOST_POINTS = 4000
#: Structures in a mean radial distribution, at most.
_MOST_RADIAL = 20
_MOST_FORMULAS = 15
_RADIUS, _BINS = 6.0, 120
_CURVES = {
    "loss": "loss",
    "validation_loss": "loss, held out",
    "force_error": "error of forces",
    "stress_error": "error of stress",
}
#: How far a structure came, each with its place in the palette.
_STATUSES = {
    "generated": 6,
    "not converged": 5,
    "not valid": 1,
    "repeat": 4,
    "unique": 0,
    "accepted": 2,
}
_STAGES = ("generated", "converged", "valid", "unique", "novel", "judged", "accepted")


def charts_of(run: Run, candidates: Sequence[Candidate]) -> list[Chart]:
    """All charts that there is something for, in the order of the story.

    Args:
        run: the run.
        candidates: structures whose points can be picked.
    """
    charts = [_formulas(run), *_learning(run), _forces(run), _funnel(run), _yield(run)]
    charts += [_energies(one, candidates) for one in run.rounds]
    charts.append(_distances(run, candidates))
    return [chart for chart in charts if chart is not None]


def _formulas(run: Run) -> Chart | None:
    sets = {"dataset": [run.dataset], "generated": [one.found for one in run.rounds]}
    counts: dict[str, Counter[str]] = {}
    for name, nodes in sets.items():
        there = [node for node in nodes if node is not None]
        if there:
            total: Counter[str] = Counter()
            for node in there:
                total.update(node.get_frames().formulas())
            counts[name] = total
    if not counts:
        return None
    every = sum(counts.values(), Counter())
    common = [formula for formula, _ in every.most_common(_MOST_FORMULAS)]
    series = tuple(
        # As shares: a dataset of one and a thousand generated are to be seen together.
        Series(name, common, [_share(found[formula], found.total()) for formula in common], BARS)
        for name, found in counts.items()
    )
    note = "" if len(every) <= len(common) else f"The {len(common)} most common of {len(every)}."
    title, y = "What it is made of", "share of the structures"
    return Chart("formulas", title, "formula", y, series, note)


def _share(count: int, total: int) -> float:
    return count / max(total, 1)


def _learning(run: Run) -> list[Chart]:
    charts = []
    for quantity, title in _CURVES.items():
        series = []
        for one in run.rounds:
            values = np.asarray(one.curves.get(quantity, ()), float)
            epochs = np.asarray(one.curves.get("epoch", np.arange(1, len(values) + 1)), float)
            good = np.isfinite(values) & (values > 0) if len(values) == len(epochs) else []
            if np.any(good):
                name = one.name or "training"
                series.append(Series(name, epochs[good].tolist(), values[good].tolist()))
        if series:
            charts.append(
                Chart(
                    f"learning_{quantity}",
                    f"Learning: {title}",
                    "epoch",
                    title,
                    tuple(series),
                    "Squared, in units of the targets' mean square: no potential at all has 1.",
                    log_y=True,
                    whole="x",
                )
            )
    return charts


def _forces(run: Run) -> Chart | None:
    series = []
    for one in run.rounds:
        if one.validation is None:
            continue
        wanted = one.validation.atom["force"].ravel()
        found = one.validation.atom["predicted_force"].ravel()
        step = max(1, -(-len(wanted) * len(run.rounds) // _MOST_POINTS))
        pick = slice(None, None, step)
        series.append(
            Series(one.name or "held out", _short(wanted[pick]), _short(found[pick]), POINTS)
        )
    if not series:
        return None
    note = (
        "Components of forces on atoms of held-out perturbed structures. The targets are mixtures "
        "of many ways home where the noise is large, which no potential can follow."
    )
    return Chart(
        "forces",
        "Forces predicted against their targets",
        "target (Å)",
        "predicted (Å)",
        tuple(series),
        note,
        equal=True,
    )


def _funnel(run: Run) -> Chart | None:
    series = []
    for one in run.rounds:
        if one.found is not None:
            counts = funnel(one)
            series.append(
                Series(one.name or "structures", list(counts), list(counts.values()), BARS)
            )
    if not series:
        return None
    title = "What was left after each test"
    return Chart("funnel", title, "", "structures", tuple(series), whole="y")


def funnel(one: Round) -> dict[str, int]:
    """How many of a round's structures pass each test and all those before."""
    assert one.found is not None
    frames = one.found.get_frames()
    left = np.ones(len(frames), bool)
    counts = {"generated": len(frames)}
    for name in _STAGES[1:5]:
        if name in frames.structure:
            left &= frames.structure[name].astype(bool)
            counts[name] = int(left.sum())
    if one.judged is not None:
        counts["judged"] = len(one.judged)
    if one.accepted is not None or one.row:
        counts["accepted"] = len(accepted_rows(one))
    return counts


def _yield(run: Run) -> Chart | None:
    rows = [one.row for one in run.rounds if one.row]
    if len(rows) < 2:
        return None
    numbers = [str(row["round"]) for row in rows]
    series = (
        Series("dataset before the round", numbers, [row["dataset"] for row in rows], BARS),
        Series("accepted", numbers, [row["accepted"] for row in rows], BARS),
    )
    return Chart("yield", "Round by round", "round", "structures", series, whole="y")


def _energies(one: Round, candidates: Sequence[Candidate]) -> Chart | None:
    if one.found is None or "energy_per_atom" not in one.found.structure_labels:
        return None
    frames = one.found.get_frames()
    crystals = bool(frames.pbc.all())
    energies = frames.structure["energy_per_atom"]
    sizes = frames.volumes / frames.counts if crystals else frames.counts.astype(float)
    status = statuses(one)
    keys = {c.found_row: k for k, c in enumerate(candidates) if c.round == one.name}
    drawn = np.isfinite(energies) & np.isfinite(sizes)
    rows = np.flatnonzero(drawn)
    # Those that can be picked are always there.
    thin = rows[:: max(1, -(-len(rows) // _MOST_POINTS))]
    rows = np.union1d(thin, [row for row in keys if drawn[row]]).astype(int)
    series = []
    # The best are drawn last, and so on top.
    for name in [name for name in _STATUSES if name in status[rows]]:
        some = rows[status[rows] == name]
        series.append(
            Series(
                name,
                _short(sizes[some]),
                _short(energies[some]),
                POINTS,
                [_say(frames, int(row), name) for row in some],
                [keys.get(int(row)) for row in some],
                _STATUSES[name],
            )
        )
    if not series:
        return None
    where = f", {one.name}" if one.name else ""
    name = f"energies_{one.name.replace(' ', '_')}" if one.name else "energies"
    return Chart(
        name,
        f"E~ of all candidates{where}",
        "volume per atom (Å³)" if crystals else "atoms",
        "E~ per atom (Å²)",
        tuple(series),
        "E~ ranks structures of one potential; it is no energy in eV. Choose a point to see it.",
    )


def statuses(one: Round) -> NDArray[Any]:
    """(S,) how far each structure of a round came, in words."""
    assert one.found is not None
    frames = one.found.get_frames()
    status = np.full(len(frames), "unique" if "unique" in frames.structure else "generated", "<U16")
    for name, word in (
        ("unique", "repeat"),
        ("valid", "not valid"),
        ("converged", "not converged"),
    ):
        if name in frames.structure:
            status[~frames.structure[name].astype(bool)] = word
    status[accepted_rows(one)] = "accepted"
    return status


def _say(frames: Frames, row: int, status: str) -> str:
    labels = frames.structure
    name = str(labels["match"][row]) if "match" in labels else ""
    return ", ".join(part for part in (frames.formula(row), name, status, f"row {row}") if part)


def _distances(run: Run, candidates: Sequence[Candidate]) -> Chart | None:
    chosen = [c.frames for c in candidates if c.accepted] or [c.frames for c in candidates]
    sets = {"dataset": _parts(run.dataset), "best structures": chosen[:_MOST_RADIAL]}
    series = []
    places = ((np.arange(_BINS) + 0.5) * _RADIUS / _BINS).tolist()
    for name, frames in sets.items():
        periodic = [frame for frame in frames if frame.pbc.all()]
        if periodic:
            mean = np.mean([radial_distribution(f, 0, _RADIUS, _BINS) for f in periodic], 0)
            series.append(Series(name, places, _short(mean), STEPS))
    if not series:
        return None
    return Chart("distances", "Radial distribution", "distance (Å)", "g(r), mean", tuple(series))


def _parts(node: FramesData | None) -> list[Frames]:
    if node is None:
        return []
    frames = node.get_frames()
    rows = np.linspace(0, len(frames) - 1, min(len(frames), _MOST_RADIAL)).astype(int)
    return [frames[int(row)] for row in rows]


def _short(values: Any) -> list[float]:
    """Five digits are enough for a chart, and half the size."""
    return [float(f"{value:.5g}") for value in np.asarray(values, float)]
