"""An engine that meets misfortune: what befalls which run of a task is in a file, run by run."""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: So much of a disk is filled before it must be full.
FILLED = 1 << 30


def write_engine(folder: Path, plan: dict[str, list[str]]) -> str:
    """Make the program; its runs of a task take their misfortunes in this order.

    Args:
        folder: where the program and what is left of the plan are kept.
        plan: names of the functions below, by task; after the last, all goes well.
    """
    folder.mkdir()
    (folder / "plan.json").write_text(json.dumps(plan))
    program = folder / "engine"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "from tests.services.misfortune import run\n"
        f"sys.exit(run({str(folder / 'plan.json')!r}))\n"
    )
    program.chmod(0o755)
    return str(program)


def run(plan_file: str) -> int:
    """Run the engine as its program does, after arranging what is to befall it."""
    plan = json.loads(Path(plan_file).read_text())
    waiting = plan.get(sys.argv[1], [])
    if waiting:
        MISFORTUNES[waiting.pop(0)]()
        Path(plan_file).write_text(json.dumps(plan))
    from aiida_rm.engine.__main__ import main

    return main()


def die() -> None:
    """Be killed, without a word."""
    os.kill(os.getpid(), signal.SIGKILL)


def walltime() -> None:
    """Be told of a walltime that is over after the first step."""
    from aiida_rm.engine.job import Job

    begin = Job.__init__

    def hurry(self: Any, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        self.walltime = 1e-9

    Job.__init__ = hurry  # type: ignore[method-assign]


def killed_at_work() -> None:
    """Be killed as soon as the work begins."""
    from aiida_rm.engine import tasks

    for task in tasks.RUNNERS:
        tasks.RUNNERS[task] = lambda _job: die()  # type: ignore[assignment, return-value]


def killed_in_checkpoint() -> None:
    """Be killed while the second checkpoint is being written, half of it on the disk."""
    count, fsync = 0, os.fsync

    def sync(handle: int) -> None:
        nonlocal count
        count += 1
        if count == 2:
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        fsync(handle)

    os.fsync = sync  # type: ignore[assignment]


def _after_second(owner: Any, name: str, then: Callable[[Any, Any], None]) -> None:
    """Have the second call of a method followed by something."""
    count, method = 0, getattr(owner, name)

    def call(self: Any, first: Any, **more: Any) -> None:
        nonlocal count
        method(self, first, **more)
        count += 1
        if count == 2:
            then(self, first)

    setattr(owner, name, call)


def _spoil_checkpoint(spoil: Callable[[bytearray], bytes]) -> None:
    from aiida_rm.engine.training.trainer import Trainer

    def then(_: Any, path: Path) -> None:
        path.write_bytes(spoil(bytearray(path.read_bytes())))
        die()

    _after_second(Trainer, "save", then)


def flipped_checkpoint() -> None:
    """Be killed with a bit of the last checkpoint flipped."""

    def flip(content: bytearray) -> bytes:
        content[-100] ^= 1
        return bytes(content)

    _spoil_checkpoint(flip)


def truncated_checkpoint() -> None:
    """Be killed with the last checkpoint cut off."""
    _spoil_checkpoint(lambda content: bytes(content[:-100]))


def _hang() -> None:
    """Until the shell of the job is gone: this SLURM kills no more than that (linuxproc)."""
    while os.getppid() != 1:
        time.sleep(0.5)
    die()


def killed_at_limit() -> None:
    """Hang, deaf to signals, until SLURM's walltime is over."""
    from aiida_rm.engine.training.trainer import Trainer

    def then(*_: Any) -> None:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        _hang()

    _after_second(Trainer, "save", then)


def cancelled() -> None:
    """Have SLURM kill the job at once."""
    from aiida_rm.engine.training.trainer import Trainer

    def then(*_: Any) -> None:
        subprocess.run(
            ["scancel", "--full", "--signal=KILL", os.environ["SLURM_JOB_ID"]], check=True
        )
        _hang()

    _after_second(Trainer, "save", then)


def node_fails() -> None:
    """Have SLURM believe that the node is down, and take it back a little later."""
    from aiida_rm.engine.training.trainer import Trainer

    def then(*_: Any) -> None:
        update = f"scontrol update NodeName={os.environ['SLURMD_NODENAME']} State="
        down_and_up = f"{update}DOWN Reason=test; sleep 5; {update}RESUME"
        subprocess.Popen(["sh", "-c", down_and_up], start_new_session=True)
        _hang()

    _after_second(Trainer, "save", then)


def out_of_memory() -> None:
    """Ask torch for more memory than any machine has, after the second checkpoint."""
    import torch

    from aiida_rm.engine.training.trainer import Trainer

    _after_second(Trainer, "save", lambda *_: torch.empty(1 << 60))


def killed_in_search() -> None:
    """Be killed with two parts of a search on the disk."""
    from aiida_rm.engine.parts import Parts

    _after_second(Parts, "_save", lambda *_: die())


def _fill(folder: Path) -> Path:
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as handle:
        try:
            for size in (1 << 16, 1):
                while handle.tell() < FILLED:
                    handle.write(bytes(size))
        except OSError:
            pass
    assert filler.stat().st_size < FILLED
    return filler


def full_disk() -> None:
    """Find the disk full as soon as the work begins, and until the end."""
    from aiida_rm.engine import tasks
    from aiida_rm.engine.job import Job

    def meet(work: Callable[[Job], Any]) -> Callable[[Job], Any]:
        def filled(job: Job) -> Any:
            filler = _fill(job.folder)
            atexit.register(filler.unlink)
            return work(job)

        return filled

    for task, work in list(tasks.RUNNERS.items()):
        tasks.RUNNERS[task] = meet(work)


def full_disk_for_a_while() -> None:
    """Find the disk full for the second checkpoint; there is room again afterwards."""
    from aiida_rm.engine.training.trainer import Trainer

    count, save = 0, Trainer.save

    def meet(self: Trainer, path: Path) -> None:
        nonlocal count
        count += 1
        if count != 2:
            return save(self, path)
        filler = _fill(path.parent)
        try:
            return save(self, path)
        finally:
            filler.unlink()

    Trainer.save = meet  # type: ignore[method-assign]


MISFORTUNES: dict[str, Callable[[], None]] = {
    one.__name__: one
    for one in (
        walltime,
        killed_at_work,
        killed_in_checkpoint,
        flipped_checkpoint,
        truncated_checkpoint,
        killed_at_limit,
        cancelled,
        node_fails,
        out_of_memory,
        killed_in_search,
        full_disk,
        full_disk_for_a_while,
    )
}
