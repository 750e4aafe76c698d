"""The report in a real browser: no errors on the console, keys work, labels do nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiida import orm

from aiida_rm.report.page import make_page
from aiida_rm.report.run import read_run
from tests.report.test_page import HOSTILE

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (tools/install_chromium.sh)"
)


@pytest.fixture(scope="module")
def file(loop: orm.WorkChainNode, tmp_path_factory: pytest.TempPathFactory) -> Path:
    loop.label = HOSTILE
    path = tmp_path_factory.mktemp("page") / "r.html"
    path.write_text(make_page(read_run(loop), 4), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    options = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=options, timeout=180_000)
        yield started
        started.close()


@pytest.fixture(params=["light", "dark", "phone"])
def page(browser: Any, file: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The page, opened; whatever its console says is no error, and nothing is fetched."""
    width = 390 if request.param == "phone" else 1200
    scheme = "dark" if request.param == "dark" else "light"
    opened = browser.new_page(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    opened.set_default_timeout(180_000)
    problems: list[str] = []
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
    opened.on(
        "request",
        lambda r: problems.append(r.url) if r.url.split(":")[0] in ("http", "https") else None,
    )
    opened.goto(file.as_uri())
    opened.wait_for_selector("#scene .gl-container, #scene .plot-container")
    yield opened
    opened.close()
    assert problems == []


def test_it_shows_charts_and_fits(page: Any) -> None:
    assert page.title().startswith("LoopWorkChain")
    charts = page.query_selector_all("[data-chart]")
    assert len(charts) > 6
    assert all(chart.query_selector(".main-svg") for chart in charts)
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0


def test_keys_are_enough(page: Any) -> None:
    page.focus(".card")
    page.keyboard.press("ArrowRight")
    chosen = page.query_selector('.card[aria-selected="true"]')
    assert chosen.get_attribute("data-structure") == "1"
    assert page.is_visible('[data-details="1"]')
    assert not page.is_visible('[data-details="0"]')
    graph = page.query_selector("[data-graph]:not([hidden]) g.process")
    graph.focus()
    page.keyboard.press("Enter")
    assert "UUID" in page.inner_text("#node")
    page.focus("#turn")
    page.keyboard.press("Enter")
    assert page.get_attribute("#turn", "aria-pressed") == "true"
    page.keyboard.press("Enter")
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.focus("#theme")
    page.keyboard.press("Enter")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before


def test_a_point_shows_its_structure(page: Any) -> None:
    place = '[data-chart^="energies"]'
    point = page.evaluate(
        """(place) => {
          for (const chart of document.querySelectorAll(place))
            for (const [number, trace] of chart.data.entries()) {
              const at = trace.customdata.findIndex((key) => key !== null);
              if (at < 0) continue;
              chart.scrollIntoView({ block: "center" });
              const { left, top } = chart.getBoundingClientRect();
              const { xaxis, yaxis } = chart._fullLayout;
              return { x: left + xaxis._offset + xaxis.d2p(trace.x[at]),
                y: top + yaxis._offset + yaxis.d2p(trace.y[at]) };
            }
        }""",
        place,
    )
    page.mouse.move(point["x"] + 15, point["y"] + 15)
    page.mouse.move(point["x"], point["y"])
    page.wait_for_selector(f"figure:has({place}) .peek:not([hidden])")


def test_downloads_hold_the_structure(page: Any) -> None:
    with page.expect_download() as waiting:
        page.click('[data-details="0"] a[download$=".extxyz"]')
    text = Path(waiting.value.path()).read_text()
    assert "Lattice=" in text
    assert int(text.split("\n", 1)[0]) >= 1
