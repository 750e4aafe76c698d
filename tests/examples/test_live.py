"""The live view of the demo: every job gets a line, whatever state its files are in."""

from __future__ import annotations

import importlib.util
import io
import json
import re
import sys
from pathlib import Path
from types import ModuleType

from rich.console import Console

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def job(scratch: Path, name: str, task: str, metrics: str) -> None:
    folder = scratch / name[:2] / name[2:4] / name[4:]
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text(json.dumps({"task": task}))
    (folder / "metrics.jsonl").write_text(metrics)


def test_jobs_are_followed_and_torn_lines_passed_over(tmp_path: Path) -> None:
    live = load("live")
    text = io.StringIO()
    console = Console(file=text, width=120)
    epoch = {"epoch": 3, "epochs": 12, "force_error": 0.5, "stress_error": 0.02}
    with live.LiveView(tmp_path, console, rounds=2):
        job(tmp_path, "aabbcc", "train", json.dumps(epoch) + '\n{"epo')
        job(tmp_path, "ddeeff", "generate", "")
    shown = text.getvalue()
    assert "round 1/2: training on the response" in shown
    assert "round 1/2: relaxing the starts" in shown
    assert "force error 0.50" in shown


def test_nothing_is_cut_in_a_usual_terminal(tmp_path: Path) -> None:
    text = io.StringIO()
    epoch = {"epoch": 3, "epochs": 12, "force_error": 0.5, "stress_error": 0.02}
    with load("live").LiveView(tmp_path, Console(file=text, width=80), rounds=2):
        job(tmp_path, "aabbcc", "train", json.dumps(epoch))
    *_, line = (line for line in text.getvalue().splitlines() if "%" in line)
    assert re.fullmatch(
        r"round 1/2: training on the response 100% \d:\d\d:\d\d force error 0.50, stress 0.020 *",
        line,
    )


def test_an_old_job_is_not_shown(tmp_path: Path) -> None:
    import os

    live = load("live")
    job(tmp_path, "aabbcc", "train", "")
    folder = tmp_path / "aa" / "bb" / "cc"
    os.utime(folder, (1, 1))
    text = io.StringIO()
    with live.LiveView(tmp_path, Console(file=text), rounds=1):
        pass
    assert "training" not in text.getvalue()


def test_metrics_that_are_missing_are_none(tmp_path: Path) -> None:
    assert load("live").read_metrics(tmp_path / "nothing") == []
