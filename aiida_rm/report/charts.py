"""Charts as data: one description, drawn by plotly in a page and by matplotlib in a file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

#: How a series is drawn.
LINE, POINTS, BARS, STEPS = "line", "points", "bars", "steps"
_MARKER = 6
#: So many whole numbers get a mark each.
_FEW = 10


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
        colour: place in the palette, for what means the same in several charts; None: the next.
    """

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    kind: str = LINE
    texts: Sequence[str] = ()
    keys: Sequence[int | None] = ()
    colour: int | None = None


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
        whole: the axes that count, ``x``, ``y`` or both: marks stand at whole numbers.
    """

    name: str
    title: str
    x: str
    y: str
    series: tuple[Series, ...]
    note: str = ""
    log_y: bool = False
    equal: bool = False
    whole: str = ""


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
        if series.colour is not None:
            # The page has the palette, and looks it up there.
            trace["meta"] = series.colour
        data.append(trace)
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": chart.x}},
        "yaxis": {"title": {"text": chart.y}},
        "showlegend": len(data) > 1,
        "barmode": "group",
    }
    if chart.log_y:
        layout["yaxis"]["type"] = "log"
    for axis in chart.whole:
        values = [float(v) for series in chart.series for v in getattr(series, axis)]
        # Beyond that plotly's own marks are whole.
        if max(values) - min(values, default=0) <= _FEW:
            layout[f"{axis}axis"] |= {"tick0": 0, "dtick": 1}
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
        colour = None if series.colour is None else f"C{series.colour}"
        if series.kind == BARS:
            places = [
                place + width * (number - (len(bars) - 1) / 2) for place in range(len(series.x))
            ]
            axes.bar(places, series.y, width, label=name, color=colour)
            axes.set_xticks(range(len(series.x)), [_plain(str(value)) for value in series.x])
            if max((len(str(value)) for value in series.x), default=0) > 5:
                axes.tick_params(axis="x", rotation=45)
        elif series.kind == POINTS:
            axes.plot(series.x, series.y, ".", alpha=0.7, label=name, color=colour)
        else:
            style = "steps-mid" if series.kind == STEPS else "default"
            axes.plot(series.x, series.y, drawstyle=style, label=name, color=colour)
    if chart.equal:
        low, high = _range(chart)
        axes.plot([low, high], [low, high], "--", color="gray", linewidth=1)
        axes.set_aspect("equal", "datalim")
    if chart.log_y:
        axes.set_yscale("log")
    for axis in chart.whole:
        getattr(axes, f"{axis}axis").set_major_locator(MaxNLocator(integer=True))
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
