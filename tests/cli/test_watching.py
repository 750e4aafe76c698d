"""``aiida-rm status --watch`` in a real terminal: wide, narrow, a pipe, and Ctrl-C.

In a process and a profile of its own, for the one of the tests is in memory.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from aiida_rm.cli.status import sentence
from aiida_rm.engine.files import METRICS
from tests.cli.test_looking import EPOCH

#: A loop in its second round of three, whose training goes on in the folder given.
MAKE = """
import sys
import warnings
warnings.simplefilter("ignore")
from aiida import orm
from aiida.common.links import LinkType
from aiida.engine import ProcessState
from aiida.manage.configuration import create_profile, get_config, load_profile
from aiida.schedulers import JobState

config = get_config(create=True)
create_profile(config, name="watch", email="a@b", storage_backend="core.sqlite_dos", storage_config={})
config.set_default_profile("watch").store()
load_profile("watch")
computer = orm.Computer(label="here", hostname="localhost", transport_type="core.local",
                        scheduler_type="core.direct", workdir=sys.argv[1]).store()
computer.configure(safe_interval=0, use_login_shell=False)
top = orm.WorkChainNode(label="\\x1b[31mmine")
top.set_process_type("aiida.workflows:rm.loop")
for name, value in (("rounds", 3), ("first_round", 1)):
    top.base.links.add_incoming(orm.Int(value).store(), LinkType.INPUT_WORK, name)
job = orm.CalcJobNode(computer=computer)
job.set_process_type("aiida.calculations:rm.train")
job.set_remote_workdir(sys.argv[1])
job.set_scheduler_state(JobState.RUNNING)
for node in (top, job):
    node.set_process_state(ProcessState.RUNNING)
top.store()
job.base.links.add_incoming(top, LinkType.CALL_CALC, "round_02_train")
job.store()
print(top.pk)
"""  # noqa: E501
END = """
import sys
from aiida import load_profile, orm
from aiida.engine import ProcessState

load_profile("watch")
node = orm.load_node(int(sys.argv[1]))
for one in (*node.called, node):
    one.set_process_state(ProcessState.KILLED)
"""


class Running:
    """A profile with a running loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **os.environ,
            "AIIDA_PATH": str(folder),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "TERM": "xterm-256color",
        }
        self.pk = self.python(MAKE, str(folder)).split()[-1]
        self.epoch(2)

    def python(self, code: str, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def epoch(self, number: int) -> None:
        with (self.folder / METRICS).open("a") as file:
            file.write(json.dumps({**EPOCH, "epoch": number}) + "\n")

    def command(self) -> list[str]:
        return ["-c", "from aiida_rm.cli import aiida_rm; aiida_rm()", "status", "--watch",
                "--every", "0.5"]  # fmt: skip

    def watch(self, columns: int) -> Any:
        return pexpect.spawn(
            sys.executable,
            self.command(),
            env=self.environment,
            dimensions=(24, columns),
            encoding="utf8",
            timeout=120,
            # a job in the background hands on that Ctrl-C is nothing to it
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


@pytest.fixture(scope="module")
def going(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    return Running(tmp_path_factory.mktemp("watch"))


def stop(terminal: Any) -> str:
    """What it says after Ctrl-C."""
    terminal.sendintr()
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130
    text = str(terminal.before)
    assert "Traceback" not in text
    assert text.endswith("The processes go on without us.\r\n")
    assert "\x1b[?25h" in text  # the cursor is back
    return text


def test_in_a_wide_terminal(going: Running) -> None:
    terminal = going.watch(120)
    terminal.expect("Process.*Round.*Stage.*State.*Done.*Epoch.*Loss.*Per s.*Left")
    terminal.expect(
        rf"loop <{going.pk}>  \[31mmine +2/3 +train <\d+> +running +25% +2/8 +0.25 +100"
    )
    going.epoch(3)
    terminal.expect("38% +3/8")
    stop(terminal)


def test_in_a_narrow_terminal(going: Running) -> None:
    going.epoch(4)
    terminal = going.watch(40)
    terminal.expect(rf"loop <{going.pk}>  \[31mmine: round 2/3")
    terminal.expect("epoch 4/8")
    lines = stop(terminal).replace("\x1b[2K", "").splitlines()
    assert all("…" not in line for line in lines)


def test_in_a_pipe(going: Running) -> None:
    going.epoch(5)
    process = subprocess.Popen(
        [sys.executable, *going.command()],
        env=going.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    first = process.stdout.readline()  # comes while it runs
    assert "epoch 5/8, loss 0.25, 100 a second, 9 s left" in first
    going.epoch(6)
    assert "epoch 6/8" in process.stdout.readline()
    time.sleep(1.5)
    going.python(END, going.pk)
    rest, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert rest.splitlines()[-1].endswith("killed")
    assert len(rest.splitlines()) <= 2  # what did not change is not said again
    assert "\x1b" not in first + rest


def test_a_sentence() -> None:
    row = {"pk": 7, "process": "rm.loop", "label": "", "state": "waiting"}
    assert sentence(row) == "loop <7>: waiting"
    row |= {"round": 1, "rounds": 2, "stage": "generate", "job": 9, "state": "queued",
            "note": "a\nb\x07"}  # fmt: skip
    assert sentence(row) == "loop <7>: round 1/2, generate <9>, queued, a b "
