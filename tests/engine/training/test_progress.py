"""Counters, shares over all epochs, and the line with the time left."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from aiida_rm.engine.training import progress as training_progress
from aiida_rm.engine.training.progress import Pace, Progress, duration


def test_shares_are_weighted_by_steps_and_by_time() -> None:
    progress = Progress()
    assert (progress.clipped, progress.waiting) == (0.0, 0.0)
    progress.history = [
        {"step": 10, "clipped": 0.5, "seconds": 3.0, "waiting": 0.5},
        {"step": 40, "clipped": 0.1, "seconds": 1.0, "waiting": 0.1},
    ]
    assert progress.clipped == pytest.approx(8 / 40)
    assert progress.waiting == pytest.approx(1.6 / 4)


def test_the_line_comes_seldom_and_tells_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        training_progress, "time", SimpleNamespace(monotonic=lambda: clock.now), raising=True
    )
    lines: list[str] = []
    pace = Pace(lines.append, epochs=12, per_epoch=100, interval=5.0)
    for place in range(1, 46):
        clock.now += 1 / 12
        pace.count(2, place, 1)
    assert lines == []
    clock.now = 10.0
    pace.count(2, 45, 75)
    clock.now += 1
    pace.count(2, 46, 1)
    assert lines == ["epoch 3 of 12, 45 %, 12 structures/s, about 80 s left"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (89.4, "89 s"), (180, "3 min"), (5399, "90 min"), (7200, "2.0 h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
