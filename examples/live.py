"""What the running jobs are doing, read from the files that they write."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

from aiida_rm.engine.files import METRICS, SETTINGS

_WIDE = 95
DOING = {
    "perturb": "perturbing what is known",
    "train": "training on the response",
    "generate": "relaxing the starts",
    "score": "judging what came out",
}


class LiveView:
    """A line with a bar for every job, while the ``with`` block lasts."""

    def __init__(self, scratch: Path, console: Console, rounds: int) -> None:
        self.scratch = scratch
        self.console = console
        self.rounds = rounds
        self.since = time.time()
        self.bars: dict[Path, TaskID] = {}
        self.seen: dict[str, int] = {}
        self.progress = Progress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            # A terminal of 80 columns has room for words or for bars.
            *([BarColumn(bar_width=12)] if console.width >= _WIDE else []),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(no_wrap=True, min_width=4)),
            TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
            console=console,
        )
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> LiveView:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        self.progress.start()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._thread.join()
        self._look(finished=error is None)
        self.progress.stop()

    def _watch(self) -> None:
        while not self._done.wait(0.5):
            self._look()

    def _look(self, *, finished: bool = False) -> None:
        jobs = [path.parent for path in self.scratch.glob(f"*/*/*/{SETTINGS}")]
        jobs = [job for job in jobs if job.stat().st_mtime >= self.since or job in self.bars]
        for job in sorted(jobs, key=lambda path: (path / SETTINGS).stat().st_mtime):
            if job not in self.bars:
                self._add(job)
            lines = read_metrics(job / METRICS)
            over = finished or job != max(self.bars, key=lambda path: self.bars[path])
            if lines:
                self._show(job, lines[-1], over=over)
            if over:
                self.progress.update(self.bars[job], completed=1.0)
                self.progress.stop_task(self.bars[job])

    def _add(self, job: Path) -> None:
        try:
            task = json.loads((job / SETTINGS).read_text())["task"]
        except (OSError, ValueError, KeyError):
            return
        self.seen[task] = self.seen.get(task, 0) + 1
        name = f"round {self.seen[task]}/{self.rounds}: {DOING.get(task, task)}"
        self.bars[job] = self.progress.add_task(name, total=1.0, note="")
        if not self.console.is_terminal:
            self.console.print(name)

    def _show(self, job: Path, line: dict[str, Any], *, over: bool) -> None:
        if "epoch" in line:
            share = line["epoch"] / line["epochs"]
            note = f"force error {line['force_error']:.2f}, stress {line['stress_error']:.3f}"
        else:
            share = line.get("finished", 0) / max(line.get("total", 1), 1)
            note = f"{line.get('finished', 0)} of {line.get('total', '?')}"
            if "converged" in line:
                note += f", {line['converged']} converged"
        if not over:
            share = min(share, 0.99)
        self.progress.update(self.bars[job], completed=share, note=note)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; the last one may still be in writing."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found
