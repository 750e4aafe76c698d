"""Charts as data: one description, drawn by plotly in a page and by matplotlib in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

#: How a series is drawn.
LINE, POINTS, BARS, STEPS = "line", "points", "bars", "steps"
_MARKER = 6


@dataclass(frozen=True)
class Series:
    """What belongs together in a chart.

    Attributes:
        name: for the legend.
        x: numbers, or texts in a chart of bars.
        y: so many numbers.
        kind: line, points, bars or steps.
        texts: what to say of each point; none, or so many.
        keys: which structure each point is (its place in the list of the page), or none.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    kind: str = LINE
    texts: Sequence[str] = ()
    keys: Sequence[int | None] = ()


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: in file names and addresses.
        title: above it.
        x: title of the axis, with its unit.
        y: likewise.
        series: at least one.
        note: what one should know to read it.
        log_y: whether y is logarithmic.
        equal: whether both axes have one scale; a dashed line shows y = x.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    note: str = ""
    log_y: bool = False
    equal: bool = False


def to_plotly(chart: Chart) -> dict[str, Any]:
    """A figure as plotly's JSON schema has it: ``data`` and ``layout``, without colours."""
    data: list[dict[str, Any]] = []
    for series in chart.series:
        trace: dict[str, Any] = {
            "name": escaped(series.name),
            "x": [escaped(value) if isinstance(value, str) else value for value in series.x],
            "y": list(series.y),
            "type": "bar" if series.kind == BARS else "scatter",
        }
        if series.kind == POINTS:
            trace |= {"mode": "markers", "marker": {"size": _MARKER, "opacity": 0.75}}
        elif series.kind != BARS:
            trace["mode"] = "lines"
            trace["line"] = {"shape": "hvh" if series.kind == STEPS else "linear"}
        if series.texts:
            trace["text"] = [escaped(text) for text in series.texts]
            trace["hovertemplate"] = "%{text}<extra></extra>"
        if series.keys:
            trace["customdata"] = list(series.keys)
        data.append(trace)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": chart.x}},
        "yaxis": {"title": {"text": chart.y}},
        "showlegend": len(data) > 1,
        "barmode": "group",
    }
    if chart.log_y:
        layout["yaxis"]["type"] = "log"
    if chart.equal:
        low, high = _range(chart)
        layout["yaxis"]["scaleanchor"] = "x"
        layout["shapes"] = [
            {
                "type": "line",
                "x0": low,
                "y0": low,
                "x1": high,
                "y1": high,
                "line": {"dash": "dash", "width": 1, "color": "gray"},
            }
        ]
    return {"data": data, "layout": layout}


def save(chart: Chart, path: str | os.PathLike[str]) -> None:
    """Draw the chart into a file.

    Args:
        chart: what to draw.
        path: the picture; the ending gives the format (png, svg, pdf).

    Raises:
        ValueError: matplotlib does not know the ending.
    """
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    bars = [series for series in chart.series if series.kind == BARS]
    width = 0.8 / max(len(bars), 1)
    for number, series in enumerate(chart.series):
        name = _plain(series.name)
        if series.kind == BARS:
            places = [
                place + width * (number - (len(bars) - 1) / 2) for place in range(len(series.x))
            ]
            axes.bar(places, series.y, width, label=name)
            axes.set_xticks(range(len(series.x)), [_plain(str(value)) for value in series.x])
            if max((len(str(value)) for value in series.x), default=0) > 5:
                axes.tick_params(axis="x", rotation=45)
        elif series.kind == POINTS:
            axes.plot(series.x, series.y, ".", alpha=0.7, label=name)
        else:
            style = "steps-mid" if series.kind == STEPS else "default"
            axes.plot(series.x, series.y, drawstyle=style, label=name)
    if chart.equal:
        low, high = _range(chart)
        axes.plot([low, high], [low, high], "--", color="gray", linewidth=1)
        axes.set_aspect("equal", "datalim")
    if chart.log_y:
        axes.set_yscale("log")
    axes.set_xlabel(chart.x)
    axes.set_ylabel(chart.y)
    axes.set_title(chart.title, fontsize=10)
    if len(chart.series) > 1:
        axes.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=160)


def escaped(text: str) -> str:
    """A text that plotly shows as it is: it reads some HTML in labels."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _plain(text: str) -> str:
    """A text that matplotlib shows as it is, and that stands in the legend."""
    return text.replace("$", r"\$").lstrip("_")


def _range(chart: Chart) -> tuple[float, float]:
    values = [float(v) for series in chart.series for v in (*series.x, *series.y)]
    return min(values), max(values)
