"""Charts as data: what plotly and matplotlib make of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiida_rm.report.charts import BARS, LINE, POINTS, STEPS, Chart, Series, save, to_plotly

HOSTILE = "<img src=x onerror=alert(1)>"


def chart(**changes: object) -> Chart:
    series = (
        Series(HOSTILE, [1.0, 2.0], [3.0, 4.0], POINTS, [HOSTILE, "b"], [0, None]),
        Series("_a $b", [1.0, 2.0], [3.0, 5.0], STEPS),
    )
    given = {"name": "c", "title": "t", "x": "x (Å)", "y": "y", "series": series, **changes}
    return Chart(**given)  # type: ignore[arg-type]


def test_what_users_wrote_is_no_html() -> None:
    figure = to_plotly(chart())
    assert "<img" not in json.dumps(figure)
    assert figure["data"][0]["name"] == "&lt;img src=x onerror=alert(1)&gt;"
    assert figure["data"][0]["customdata"] == [0, None]
    assert figure["data"][1]["line"]["shape"] == "hvh"


def test_equal_axes_show_where_prediction_and_target_agree() -> None:
    layout = to_plotly(chart(equal=True, log_y=False))["layout"]
    (line,) = layout["shapes"]
    assert (line["x0"], line["y0"], line["x1"], line["y1"]) == (1.0, 1.0, 5.0, 5.0)
    assert layout["yaxis"]["scaleanchor"] == "x"


def test_what_is_counted_has_whole_marks() -> None:
    few = to_plotly(chart(whole="x"))["layout"]
    assert few["xaxis"]["dtick"] == 1
    assert "dtick" not in few["yaxis"]
    many = Series("a", [0.0, 300.0], [1.0, 2.0])
    assert "dtick" not in to_plotly(chart(series=(many,), whole="x"))["layout"]["xaxis"]


def test_a_colour_is_kept_whatever_else_is_there() -> None:
    series = (Series("a", [1.0], [1.0], POINTS), Series("b", [1.0], [1.0], POINTS, colour=4))
    first, second = to_plotly(chart(series=series))["data"]
    assert "meta" not in first
    assert second["meta"] == 4


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_pictures(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"c.{ending}"
    save(chart(equal=True), file)
    assert file.stat().st_size > 1000
    bars = Series("n", ["C6", "a long formula"], [1.0, 2.0], BARS, colour=3)
    save(chart(series=(bars, bars), log_y=True), file)
    save(chart(whole="xy"), file)


def test_unknown_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Format 'xyz' is not supported"):
        save(chart(series=(Series("a", [1.0], [1.0], LINE),)), tmp_path / "c.xyz")
